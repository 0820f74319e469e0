"""Area under the ROC curve, exact."""

from __future__ import annotations

import torch
from torch import Tensor

from moonlib.metrics.rows import RowMetric, check_scores


def auc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Probability that a clicked row scores above an unclicked one, a tie counting one half.

    Sort-based, O(n log n), with no thresholds.

    Args:
        scores: [n], any monotone function of the click probability.
        labels: [n], 0 or 1.
        weights: [n], non-negative weight of each row; 1 if not given.

    Returns:
        float64 scalar; NaN where one class is missing (or weighs nothing).

    Raises:
        ValueError: if shapes differ, a score is NaN, a label is neither 0 nor 1 or a weight is negative.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1])).item()
        0.875
    """
    scores, labels = check_scores(scores, labels)
    weights = torch.ones_like(scores) if weights is None else weights.double()
    if weights.shape != scores.shape or bool((weights < 0).any()):
        raise ValueError(f"weights must be non-negative and of shape {list(scores.shape)}, got {list(weights.shape)}")
    clicked = labels == 1
    unclicked, order = scores[~clicked].sort()
    weight_below = torch.cat([weights.new_zeros(1), weights[~clicked][order].cumsum(0)])
    below = weight_below[torch.searchsorted(unclicked, scores[clicked])]
    up_to = weight_below[torch.searchsorted(unclicked, scores[clicked], right=True)]
    won = (weights[clicked] * (below + up_to) / 2).sum()
    return won / (weights[clicked].sum() * weight_below[-1])


class AUC(RowMetric):
    """`auc` over all rows seen; float64."""

    title = "AUC"
    higher_is_better = True

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add rows: ``scores`` [n] and ``labels`` [n]."""
        scores, labels = check_scores(scores, labels)
        self.append(scores=scores, labels=labels)

    def compute(self) -> Tensor:
        """The AUC; NaN where one class is missing."""
        return auc(self.column("scores"), self.column("labels"))
