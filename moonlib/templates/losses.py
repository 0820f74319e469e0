"""A margin between the positives and the hardest negative."""

from __future__ import annotations

import torch
from torch import Tensor

from moonlib.losses import Loss


class Template(Loss):
    """Asks that each positive scores above the query's hardest negative by a margin.

    A query with positives P and negatives N (candidates neither positive nor ignored) costs

        mean over p in P of  max(0, margin - s_p + max over n in N of s_n)

    and 0 without positives or without negatives.

    Args:
        margin: in units of the cosine.

    Raises:
        ValueError: if ``margin`` is not above 0.

    Source: Faghri et al., "VSE++: Improving visual-semantic embeddings with hard negatives" (2018), equation 6.

    Example:
        >>> loss = Template(margin=0.2)
        >>> scores = torch.tensor([[0.5, 0.4, 0.9]])
        >>> loss(scores, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
        tensor([0.1000])
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be above 0, got {margin}")
        self.margin = margin

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        negative = ~(positive | ignore)
        hardest = scores.masked_fill(~negative, -2.0).amax(dim=1, keepdim=True)  # below every cosine
        costs = (self.margin - scores + hardest).relu()
        counted = positive & negative.any(dim=1, keepdim=True)
        return costs.masked_fill(~counted, 0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
