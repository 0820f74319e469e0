"""Log loss of predicted click probabilities."""

from __future__ import annotations

from typing import Any

import moonlib.compat  # noqa: F401  (before torchmetrics)
import torch
from torch import Tensor
from torchmetrics import Metric

from moonlib.metrics.rows import check_probabilities

CLIP = 1e-7
"""Predictions are clipped to [CLIP, 1 - CLIP]: a probability that float32 rounded to 0 or 1 would cost infinity."""


def row_log_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute -log of the probability given to what happened, in nats, per row.

    Args:
        probabilities: [n], predicted probability of a click, clipped to [1e-7, 1 - 1e-7].
        labels: [n], 0 or 1.

    Returns:
        float64 [n].

    Raises:
        ValueError: if shapes differ, a prediction is NaN or outside [0, 1], or a label is neither 0 nor 1.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    clipped = probabilities.clamp(CLIP, 1 - CLIP)
    return -torch.where(labels == 1, clipped.log(), (-clipped).log1p())


def log_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Average `row_log_loss`: float64 scalar, in nats; NaN without rows.

    Example:
        >>> round(log_loss(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 0, 1, 1])).item(), 6)
        0.308093
    """
    return row_log_loss(probabilities, labels).mean()


class LogLoss(Metric):
    """`log_loss` over all rows seen; float64."""

    name = "logloss"
    title = "log loss, nats"
    full_state_update = False
    higher_is_better = False
    total: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` [n] and ``labels`` [n]."""
        self.total += row_log_loss(probabilities, labels).sum()
        self.rows += len(labels)

    def compute(self) -> Tensor:
        """The mean log loss; NaN without rows."""
        return self.total / self.rows

    def sums(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        loss = row_log_loss(probabilities, labels)
        return torch.stack([loss, torch.ones_like(loss)], dim=1)

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return sums[0] / sums[1]
