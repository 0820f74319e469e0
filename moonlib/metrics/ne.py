"""Normalised entropy: log loss in units of what the base rate alone would score."""

from __future__ import annotations

from typing import Any

import moonlib.compat  # noqa: F401  (before torchmetrics)
import torch
from torch import Tensor
from torchmetrics import Metric

from moonlib.metrics.log_loss import log_loss, row_log_loss


def ne(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Divide the log loss by the entropy of the rows' own click rate.

    Args:
        probabilities: [n], predicted probability of a click, clipped to [1e-7, 1 - 1e-7].
        labels: [n], 0 or 1.

    Returns:
        float64 scalar: 1 is as good as the constant click rate, 0 is perfect; NaN where one class is missing.

    Raises:
        ValueError: if shapes differ, a prediction is NaN or outside [0, 1], or a label is neither 0 nor 1.

    Source: He et al., "Practical lessons from predicting clicks on ads at Facebook" (2014), section 2.3.

    Example:
        >>> round(ne(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 0, 1, 1])).item(), 6)
        0.444484
    """
    return _normalise(log_loss(probabilities, labels), labels.double().mean())


class NE(Metric):
    """`ne` over all rows seen, against the click rate of all rows seen; float64."""

    title = "NE"
    full_state_update = False
    higher_is_better = False
    total: Tensor
    clicks: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clicks", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` [n] and ``labels`` [n]."""
        self.total += row_log_loss(probabilities, labels).sum()
        self.clicks += labels.double().sum()
        self.rows += len(labels)

    def compute(self) -> Tensor:
        """The normalised entropy; NaN where one class is missing."""
        return _normalise(self.total / self.rows, self.clicks / self.rows)

    def sums(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        loss = row_log_loss(probabilities, labels)
        return torch.stack([loss, labels.double(), torch.ones_like(loss)], dim=1)

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return _normalise(sums[0] / sums[2], sums[1] / sums[2])


def _normalise(loss: Tensor, rate: Tensor) -> Tensor:
    """Divide by the entropy of a click rate, which is 0 where one class is missing: NaN then."""
    entropy = -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate))
    return torch.where(entropy > 0, loss / entropy, torch.nan)
