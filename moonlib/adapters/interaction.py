"""Products of the target's representation with what the shopper did and asked, component by component."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.vector import unit_size


class Interaction(Adapter):
    """In which components the target is like the shopper's history and like the present query.

    With the target's representation r_t and the representations r_b of the item history, and likewise of the query
    history: r_t ⊙ mean_b r_b and r_t ⊙ max_b r_b; and with the present query r_t ⊙ r_q. A cosine adds all components up
    before the model sees any of them; here each has a weight of its own, so that a liking for some looks is told from
    one for some kinds of products. A product is zero where one of its sides is missing.

    Representations are scaled to length sqrt(D) as in `Vector`, or projected to about unit size: a product of two
    vectors of length 1 has components of 1 / D, which would be learnt last beside ids and counts.

    Args:
        width: W, to which target, behaviours and queries are projected first, by one matrix that is learnt; null for
            the representations as they are, W = D.

    Raises:
        ValueError: if ``width`` is below 1.

    Source: a product per component, each with a weight of its own, is generalised matrix factorisation in He et al.,
    "Neural collaborative filtering" (arXiv 1708.05031, section 3.2). The mean and the maximum of the history, the
    queries, the shared projection and the scale are our choice.

    Example:
        >>> adapter = Interaction()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        640
    """

    def __init__(self, width: int | None = None) -> None:
        super().__init__()
        if width is not None and width < 1:
            raise ValueError(f"width must be at least 1, or null for the representations as they are; got {width}")
        self.width = width
        self.project: nn.Linear | None = None

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the projection, if there is one."""
        if self.width is not None:
            self.project = nn.Linear(dim, self.width, bias=False)
            # Components of unit size stay so.
            nn.init.normal_(self.project.weight, std=dim**-0.5)
        self.out_features = 5 * (dim if self.width is None else self.width)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 5 W]."""
        target = self.scaled(batch.target, batch.target_known)
        items = self.scaled(batch.items, batch.item_known)
        queries = self.scaled(batch.queries, batch.query_known)
        others = [
            mean(items, batch.item_known),
            maximum(items, batch.item_known),
            mean(queries, batch.query_known),
            maximum(queries, batch.query_known),
            self.scaled(batch.query, batch.has_query),
        ]
        return torch.cat([target * other for other in others], dim=1)

    def scaled(self, vectors: Tensor, known: Tensor) -> Tensor:
        """Components of about unit size, float [..., W], of representations float [..., D]; zeros where not known."""
        vectors = unit_size(vectors, known)
        return vectors if self.project is None else self.project(vectors)


def mean(vectors: Tensor, known: Tensor) -> Tensor:
    """Average the known vectors of each row.

    Args:
        vectors: float [B, L, W], zeros where not known.
        known: bool [B, L].

    Returns:
        float [B, W]; zeros for a row without any.

    Example:
        >>> mean(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    return vectors.sum(dim=1) / known.sum(dim=1, keepdim=True).clamp(min=1)


def maximum(vectors: Tensor, known: Tensor) -> Tensor:
    """The largest value of each component among the known vectors of each row.

    Args:
        vectors: float [B, L, W], finite.
        known: bool [B, L].

    Returns:
        float [B, W]; zeros for a row without any.

    Example:
        >>> maximum(torch.tensor([[[-1.0], [-3.0], [0.0]]]), torch.tensor([[True, True, False]]))
        tensor([[-1.]])
    """
    if not vectors.shape[1]:
        return vectors.new_zeros(vectors.shape[0], vectors.shape[2])
    lowest = torch.finfo(vectors.dtype).min
    found = vectors.masked_fill(~known.unsqueeze(-1), lowest).amax(dim=1)
    return found.masked_fill(~known.any(dim=1, keepdim=True), 0)
