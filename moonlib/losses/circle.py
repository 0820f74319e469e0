"""Circle loss: the further a score is from where it should be, the harder it is pulled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.losses.loss import Loss


class Circle(Loss):
    """Contrasts all positives of a query with all its negatives, each score at a pace of its own.

    A query with positives P and negatives N (candidates neither positive nor ignored) costs

        log(1 + sum over n in N of exp(gamma * a_n * (s_n - m)) * sum over p in P of exp(gamma * a_p * (1 - m - s_p)))

    where m is the margin and the weights a_n = max(0, s_n + m) and a_p = max(0, 1 + m - s_p) are taken as constants: no
    gradient flows through them. They let the gradient fade for a score that is nearly right, and make the boundary
    between a right and a wrong pair of scores the circle s_n^2 + (1 - s_p)^2 = 2 m^2. The cost is 0, with gradient 0,
    for a query without positives or without negatives.

    Args:
        margin: m, in units of the cosine: positives should come above 1 - m, negatives below m.
        gamma: scale of the logits.

    Raises:
        ValueError: if ``margin`` is not between -1 and 1, or ``gamma`` not above 0.

    Source: Sun et al., "Circle loss: a unified perspective of pair similarity optimization" (2020), equations 5 and 6
    with O_p = 1 + m, O_n = -m, Delta_p = 1 - m, Delta_n = m; the defaults are its values for fine-grained retrieval.

    Example:
        >>> loss = Circle(margin=0.5, gamma=2.0)
        >>> scores = torch.tensor([[0.5, 0.5, 0.9]])
        >>> loss(scores, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
        tensor([0.6931])
    """

    def __init__(self, margin: float = 0.4, gamma: float = 80.0) -> None:
        super().__init__()
        if not -1 < margin < 1:
            raise ValueError(f"margin must be between -1 and 1, got {margin}")
        if gamma <= 0:
            raise ValueError(f"gamma must be above 0, got {gamma}")
        self.margin = margin
        self.gamma = gamma

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = torch.where(positive, 1 + self.margin - scores, scores + self.margin).relu().detach()
        excess = torch.where(positive, 1 - self.margin - scores, scores - self.margin)
        logits = self.gamma * weights * excess
        # The lowest finite value stands for minus infinity: its exp is 0, but its gradient is 0 and not NaN.
        lowest = torch.finfo(logits.dtype).min
        positives = logits.masked_fill(~positive, lowest).logsumexp(dim=1)
        negatives = logits.masked_fill(positive | ignore, lowest).logsumexp(dim=1)
        return F.softplus(positives + negatives)
