"""Deep interest network over representations: a small network weighs each behaviour for the target."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.vector import unit_size


class Din(Adapter):
    """Σ_b a_b z_b of the item history and of the query history, with a_b = f([z_b, z_t, z_t ⊙ z_b, z_t − z_b]).

    The z are the representations, scaled as in `Vector` and projected by one matrix that is learnt. The weights are not
    normalised: a shopper who did much that concerns the target has a longer interest than one who did little. A
    behaviour without representation has no weight, and an interest is all zeros where there is none. z_t and the
    present query's z_q stand beside the two interests.

    Args:
        width: W, to which representations are projected.
        hidden: widths of the hidden layers of f.

    Raises:
        ValueError: if a width is below 1.

    Source: Zhou et al., "Deep interest network for click-through rate prediction" (arXiv 1706.06978, section 4.3),
    for the activation unit and the sum without softmax. The difference among its inputs is of the authors' code; the
    projection, the query history and ReLU are our choice.

    Example:
        >>> adapter = Din()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        128
    """

    def __init__(self, width: int = 32, hidden: Sequence[int] = (36,)) -> None:
        super().__init__()
        if min([width, *hidden]) < 1:
            raise ValueError(f"width and hidden must be at least 1, got {width} and {list(hidden)}")
        self.width = width
        self.items, self.queries = ActivationUnit(width, hidden), ActivationUnit(width, hidden)

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the projection."""
        self.project = nn.Linear(dim, self.width, bias=False)
        nn.init.normal_(self.project.weight, std=dim**-0.5)  # components of unit size stay so
        self.out_features = 4 * self.width

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 4 W]: z_t, z_q, the interest of items and that of queries."""
        target = self.project(unit_size(batch.target, batch.target_known))
        query = self.project(unit_size(batch.query, batch.has_query))
        interests = []
        for unit, others, there in (
            (self.items, batch.items, batch.item_known),
            (self.queries, batch.queries, batch.query_known),
        ):
            known = there & batch.target_known.unsqueeze(1)
            interests.append(unit(target, self.project(unit_size(others, known)), known))
        return torch.cat([target, query, *interests], dim=1)


class ActivationUnit(nn.Module):
    """Σ_b a_b z_b with a_b = f([z_b, z_t, z_t ⊙ z_b, z_t − z_b]), f a network with one output, not normalised.

    Args:
        width: W of the representations z.
        hidden: widths of the hidden layers.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise([4 * width, *hidden])])
        self.out = nn.Linear([4 * width, *hidden][-1], 1)

    def forward(self, target: Tensor, behaviours: Tensor, known: Tensor) -> Tensor:
        """Compute the interest, float [B, W].

        Args:
            target: float [B, W].
            behaviours: float [B, L, W], zeros where not known.
            known: bool [B, L].
        """
        targets = target.unsqueeze(1).expand_as(behaviours)
        hidden = torch.cat([behaviours, targets, targets * behaviours, targets - behaviours], dim=2)
        for layer in self.layers:
            hidden = layer(hidden).relu()
        weights = self.out(hidden).squeeze(2).masked_fill(~known, 0)
        return torch.matmul(weights.unsqueeze(1), behaviours).squeeze(1)
