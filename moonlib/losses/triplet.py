"""Triplet loss: a margin between each positive and the negatives."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from moonlib.losses.loss import Loss

Mining = Literal["all", "semi_hard", "hardest"]


class Triplet(Loss):
    """Asks that each positive scores above the negatives by a margin.

    A query with positives P and negatives N (candidates neither positive nor ignored) costs the mean, over those of its
    triplets (p, n) that cost anything, of

        max(0, margin - s_p + s_n)

    and 0 where none does, so also without positives or without negatives. The mean leaves out triplets that keep the
    margin: there are ever more of them in training, and they would shrink the gradient of the others to nothing. So
    watch recall, not this loss, which falls less than the encoder improves. Which triplets there are depends on
    ``mining``:

    - "all": each positive with each negative.
    - "semi_hard": each positive with the negatives that score below it; mislabelled ones above do no harm.
    - "hardest": each positive with the query's highest negative; equally high ones share its gradient. FaceNet's
      authors saw encoders collapse that began with these.

    T positives of all queries with N candidates take memory for T N values: as much as the scores where queries have
    one positive each.

    Args:
        margin: in units of the cosine.
        mining: "all", "semi_hard" or "hardest".

    Raises:
        ValueError: if ``margin`` is not above 0, or ``mining`` is none of these.

    Source: Schroff et al., "FaceNet: a unified embedding for face recognition and clustering" (2015), section 3, with
    cosines in place of squared distances (of unit vectors, 2 - 2 cosine: its margin is twice ours); the mean over
    triplets that cost anything: Hermans et al., "In defense of the triplet loss for person re-identification" (2017).

    Example:
        >>> loss = Triplet(margin=0.2)
        >>> scores = torch.tensor([[0.5, 0.4, 0.1, 0.9]])
        >>> loss(scores, torch.tensor([[True, False, False, False]]), torch.tensor([[False, False, False, True]]))
        tensor([0.1000])
    """

    def __init__(self, margin: float = 0.2, mining: Mining = "all") -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be above 0, got {margin}")
        if mining not in get_args(Mining):
            raise ValueError(f"mining must be 'all', 'semi_hard' or 'hardest', got '{mining}'")
        self.margin = margin
        self.mining: Mining = mining

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        query, candidate = positive.nonzero(as_tuple=True)  # [T] each: one row of triplets per positive
        own, others = scores[query, candidate].unsqueeze(1), scores[query]
        left_out = (positive | ignore)[query]
        if self.mining == "semi_hard":
            left_out = left_out | (others >= own)
        costs = (self.margin - own + others).masked_fill(left_out, 0).relu()
        if self.mining == "hardest":
            costs = costs.amax(dim=1, keepdim=True)
        total = scores.new_zeros(len(scores)).index_add(0, query, costs.sum(dim=1))
        violations = query.new_zeros(len(scores)).index_add(0, query, (costs > 0).sum(dim=1))
        return total / violations.clamp(min=1)
