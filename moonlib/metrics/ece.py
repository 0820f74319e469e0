"""Expected calibration error over bins of equal mass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moonlib.metrics.bins import check_bins, equal_mass_bins
from moonlib.metrics.rows import RowMetric, check_probabilities


def ece(probabilities: Tensor, labels: Tensor, bins: int = 20) -> Tensor:
    """Average |mean prediction - click rate| over bins, weighted by the bins' rows.

    The bins are those of `equal_mass_bins`; `calibration_curve` shows them one by one.

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
    probabilities, labels = check_probabilities(probabilities, labels)
    bin_of_row = equal_mass_bins(probabilities, bins)
    gaps = probabilities.new_zeros(bins).index_add_(0, bin_of_row, probabilities - labels)
    return gaps.abs().sum() / len(labels)


class ECE(RowMetric):
    """`ece` over all rows seen; float64.

    Args:
        bins: number of bins of equal mass.

    Raises:
        ValueError: if ``bins`` is below 1.
    """

    title = "ECE"
    higher_is_better = False

    def __init__(self, bins: int = 20, **kwargs: Any) -> None:
        check_bins(bins)
        super().__init__(**kwargs)
        self.bins = bins

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` [n] and ``labels`` [n]."""
        probabilities, labels = check_probabilities(probabilities, labels)
        self.append(scores=probabilities, labels=labels)

    def compute(self) -> Tensor:
        """The calibration error; NaN without rows."""
        return ece(self.column("scores"), self.column("labels"), self.bins)

    def sums(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`: the bins are those of all rows, and stay so."""
        probabilities, labels = check_probabilities(probabilities, labels)
        found = probabilities.new_zeros(len(labels), 1 + self.bins)
        found[:, 0] = 1
        bins = 1 + equal_mass_bins(probabilities, self.bins)
        return found.scatter_(1, bins.unsqueeze(1), (probabilities - labels).unsqueeze(1))

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return sums[1:].abs().sum(dim=0) / sums[0]
