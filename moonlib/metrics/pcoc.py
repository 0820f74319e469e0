"""Predicted clicks over observed clicks."""

from __future__ import annotations

from typing import Any

import moonlib.compat  # noqa: F401  (before torchmetrics)
import torch
from torch import Tensor
from torchmetrics import Metric

from moonlib.metrics.rows import check_probabilities


def pcoc(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Divide the mean predicted probability by the mean label.

    Args:
        probabilities: [n], predicted probability of a click.
        labels: [n], 0 or 1.

    Returns:
        float64 scalar: 1 is calibrated on the whole, above 1 promises too much; NaN without a click.

    Raises:
        ValueError: if shapes differ, a prediction is NaN or outside [0, 1], or a label is neither 0 nor 1.

    Example:
        >>> round(pcoc(torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0, 0, 1])).item(), 6)
        1.2
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    return _ratio(probabilities.sum(), labels.sum())


class PCOC(Metric):
    """`pcoc` over all rows seen; float64."""

    title = "PCOC, best at 1"
    full_state_update = False
    predicted: Tensor
    clicks: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("predicted", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clicks", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` [n] and ``labels`` [n]."""
        probabilities, labels = check_probabilities(probabilities, labels)
        self.predicted += probabilities.sum()
        self.clicks += labels.sum()

    def compute(self) -> Tensor:
        """The ratio; NaN without a click."""
        return _ratio(self.predicted, self.clicks)

    def sums(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return torch.stack(check_probabilities(probabilities, labels), dim=1)

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return _ratio(sums[0], sums[1])


def _ratio(predicted: Tensor, clicks: Tensor) -> Tensor:
    return torch.where(clicks > 0, predicted / clicks, torch.nan)
