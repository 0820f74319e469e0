"""Calibration curve: what was promised and what was clicked, bin by bin."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moonlib.metrics.bins import check_bins, equal_mass_bins
from moonlib.metrics.rows import RowMetric, check_probabilities


class CalibrationBins(NamedTuple):
    """The bins of a calibration curve that hold a row, by ascending prediction.

    Attributes:
        prediction: float64 [B], mean predicted probability.
        click_rate: float64 [B], share of the rows that were clicked.
        rows: int64 [B], number of rows, at least 1.
    """

    prediction: Tensor
    click_rate: Tensor
    rows: Tensor


def calibration_curve(probabilities: Tensor, labels: Tensor, bins: int = 20) -> CalibrationBins:
    """Compare mean prediction and click rate in bins of equal mass (`equal_mass_bins`).

    A calibrated model lies on the diagonal. `ece` is the curve's mean distance from it, weighted by rows.

    Args:
        probabilities: [n], predicted probability of a click.
        labels: [n], 0 or 1.
        bins: number of bins; those that ties leave empty are not returned.

    Returns:
        At most ``bins`` points; none without rows.

    Raises:
        ValueError: if shapes differ, a prediction is NaN or outside [0, 1], a label is neither 0 nor 1, or ``bins`` is
            below 1.

    Source: bins of equal mass as in Nixon et al., "Measuring calibration in deep learning" (arXiv 1904.01685).

    Example:
        >>> curve = calibration_curve(torch.tensor([0.1, 0.1, 0.75, 0.75]), torch.tensor([0, 0, 1, 0]), bins=2)
        >>> curve.prediction.tolist()[1], curve.click_rate.tolist(), curve.rows.tolist()
        (0.75, [0.0, 0.5], [2, 2])
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    bin_of_row = equal_mass_bins(probabilities, bins)
    rows = bin_of_row.bincount(minlength=bins)
    filled = rows > 0
    promised, clicked = (
        torch.zeros(bins, dtype=torch.float64, device=values.device).index_add_(0, bin_of_row, values)
        for values in (probabilities, labels)
    )
    return CalibrationBins((promised / rows)[filled], (clicked / rows)[filled], rows[filled])


class CalibrationCurve(RowMetric):
    """`calibration_curve` over all rows seen.

    Args:
        bins: number of bins of equal mass.

    Raises:
        ValueError: if ``bins`` is below 1.
    """

    def __init__(self, bins: int = 20, **kwargs: Any) -> None:
        check_bins(bins)
        super().__init__(**kwargs)
        self.bins = bins

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` [n] and ``labels`` [n]."""
        probabilities, labels = check_probabilities(probabilities, labels)
        self.append(scores=probabilities, labels=labels)

    def compute(self) -> CalibrationBins:
        """The curve; no point without rows."""
        return calibration_curve(self.column("scores"), self.column("labels"), self.bins)
