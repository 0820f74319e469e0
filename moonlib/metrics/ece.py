"""Expected calibration error over bins of equal mass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moonlib.metrics.rows import RowMetric, check_probabilities


def ece(probabilities: Tensor, labels: Tensor, bins: int = 20) -> Tensor:
    """Average |mean prediction - click rate| over bins, weighted by the bins' rows.

    Bins hold equal numbers of rows rather than equal widths of [0, 1], of which click probabilities fill only the first
    few. A row's bin is set by how many predictions lie strictly below its own, so equal predictions share a bin and
    the value does not depend on the order of rows.

    Args:
        probabilities: [n], predicted probability of a click.
        labels: [n], 0 or 1.
        bins: number of bins.

    Returns:
        float64 scalar in [0, 1]; NaN without rows.

    Raises:
        ValueError: if shapes differ, a prediction is NaN or outside [0, 1], a label is neither 0 nor 1, or ``bins`` is
            below 1.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning" (2015); bins of equal mass
    as in Nixon et al., "Measuring calibration in deep learning" (arXiv 1904.01685).

    Example:
        >>> import torch
        >>> round(ece(torch.tensor([0.1, 0.1, 0.8, 0.8]), torch.tensor([0, 0, 1, 0]), bins=2).item(), 6)
        0.2
    """
    _check_bins(bins)
    probabilities, labels = check_probabilities(probabilities, labels)
    _, level, count = probabilities.unique(return_inverse=True, return_counts=True)
    below = count.cumsum(0) - count
    bin_of_row = (below * bins // max(len(labels), 1))[level]
    gaps = probabilities.new_zeros(bins).index_add_(0, bin_of_row, probabilities - labels)
    return gaps.abs().sum() / len(labels)


class ECE(RowMetric):
    """`ece` over all rows seen; float64.

    Args:
        bins: number of bins of equal mass.

    Raises:
        ValueError: if ``bins`` is below 1.
    """

    higher_is_better = False

    def __init__(self, bins: int = 20, **kwargs: Any) -> None:
        _check_bins(bins)
        super().__init__(**kwargs)
        self.bins = bins

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` [n] and ``labels`` [n]."""
        probabilities, labels = check_probabilities(probabilities, labels)
        self.append(scores=probabilities, labels=labels)

    def compute(self) -> Tensor:
        """The calibration error; NaN without rows."""
        return ece(self.column("scores"), self.column("labels"), self.bins)


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
