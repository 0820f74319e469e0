"""Attention of the target to the shopper's history."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines
from moonlib.adapters.vector import Vector

Over = Literal["id", "content", "both"]


class TargetAttention(Adapter):
    """The features of `Vector`, cos(target, query), and the behaviours averaged by how much they concern the target.

    Attention over ids gives the *id interest*, see `IdInterest`; attention over content a *content interest* of the
    item history and one of the query history, which has no ids, see `ContentInterest`. An interest is all zeros where
    there is nothing to attend to.

    Args:
        over: which interests are computed, of the ids, of the content, or both.

    Raises:
        ValueError: if ``over`` is none of these.

    Source: CUBE in MOON (arXiv 2511.11305, figure 5), its id interest, its content interest and cos(r_t, r_q); Zhou et
    al., "Deep interest network for click-through rate prediction" (2018, section 4.3), for weights that depend on the
    target. The query history's interest and the two temperatures are our choice.

    Example:
        >>> adapter = TargetAttention(over="both")
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        531
    """

    def __init__(self, over: Over = "content") -> None:
        super().__init__()
        if over not in get_args(Over):
            raise ValueError(f"over must be id, content or both, got {over!r}")
        self.over = over
        self.vector = Vector()

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the weights."""
        self.vector.setup(id_dim, dim)
        self.out_features = self.vector.out_features + 1
        if self.over != "content":
            self.ids = IdInterest(id_dim)
            self.out_features += id_dim
        if self.over != "id":
            self.items, self.queries = ContentInterest(), ContentInterest()
            self.out_features += 2 * dim

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, out_features].

        They are `Vector`'s (2 (D + 1)), the cosine (1), the id interest (E, unless over content), the items' and
        the queries' content interest (D each, unless over ids).
        """
        present = batch.query.unsqueeze(1)
        both = (batch.target_known & batch.has_query).unsqueeze(1)
        features = [self.vector(batch), cosines(batch.target, present, both)]
        if self.over != "content":
            features.append(self.ids(batch.target_id, batch.item_ids, batch.item_mask))
        if self.over != "id":
            target_known = batch.target_known.unsqueeze(1)
            features.append(self.items(batch.target, batch.items, batch.item_known & target_known))
            features.append(self.queries(batch.target, batch.queries, batch.query_known & target_known))
        return torch.cat(features, dim=1)


class IdInterest(nn.Module):
    """Σ_b w_b e_b with w = softmax((Q e_t) · (K e_b) / sqrt(E)) over the real behaviours b.

    The ids' embeddings are learnt with the click model, so how two of them compare is learnt too: Q and K are
    projections [E, E]. The values are not projected, since the predictor's first layer is a projection.

    Args:
        id_dim: width E of the id embeddings.

    Source: MOON's cross attention with q = e_t and k = v = {e_b} (arXiv 2511.11305, figure 5), its form as in Vaswani
    et al., "Attention is all you need" (2017, section 3.2.1); the projections are our choice.
    """

    def __init__(self, id_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(id_dim, id_dim, bias=False)
        self.key = nn.Linear(id_dim, id_dim, bias=False)

    def forward(self, target: Tensor, behaviours: Tensor, real: Tensor) -> Tensor:
        """Compute the interest, float [B, E], from target [B, E], behaviours [B, L, E] and real bool [B, L]."""
        behaviours = behaviours.masked_fill(~real.unsqueeze(-1), 0)
        dots = torch.matmul(self.key(behaviours), self.query(target).unsqueeze(-1)).squeeze(-1)
        return attend(dots / target.shape[1] ** 0.5, behaviours, real)


class ContentInterest(nn.Module):
    """Σ_b w_b r_b with w = softmax(cos(r_t, r_b) / τ) over the behaviours b that have a representation.

    Representations are frozen, and were trained so that their cosines say what is alike: there is nothing to project.
    Only how sharply to attend is learnt, τ, from 0.1 on. The r_b that are averaged have length sqrt(D), as in `Vector`.

    Source: content interest of CUBE in MOON (arXiv 2511.11305, figure 5). Its weights are not public: softmax and a
    learned τ are our choice, the start at 0.1 is MUSE's (arXiv 2512.07216).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.1)))

    def forward(self, target: Tensor, behaviours: Tensor, known: Tensor) -> Tensor:
        """Compute the interest, float [B, D].

        Args:
            target: float [B, D].
            behaviours: float [B, L, D].
            known: bool [B, L], where both sides have a representation.
        """
        scores = cosines(target, behaviours, known) / self.log_temperature.exp()
        return add_content(attention(scores, known), behaviours, known)


def attention(scores: Tensor, real: Tensor) -> Tensor:
    """Softmax of each row's scores over what is real.

    Args:
        scores: float [B, L], finite.
        real: bool [B, L]; the others have exactly no weight.

    Returns:
        float [B, L]; zeros, with gradient zero, for a row where nothing is real.
    """
    # The lowest finite value stands for minus infinity, which gives NaN in a row without anything real.
    return scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(dim=1).masked_fill(~real, 0)


def add_content(weights: Tensor, vectors: Tensor, known: Tensor) -> Tensor:
    """Σ_b w_b r_b over representations scaled to length sqrt(D), as `moonlib.adapters.vector.unit_size` does.

    The lengths go into the weights, [B, L], and not into the vectors, [B, L, D]: on a CPU that is half of the time.

    Args:
        weights: float [B, L].
        vectors: float [B, L, D].
        known: bool [B, L]; the others add nothing, whatever stands there.

    Returns:
        float [B, D].

    Example:
        >>> vectors, known = torch.tensor([[[3.0, 4.0], [0.0, 9.0]]]), torch.tensor([[True, False]])
        >>> add_content(torch.tensor([[10.0, 1.0]]), vectors, known)
        tensor([[ 8.4853, 11.3137]])
    """
    vectors = vectors.masked_fill(~known.unsqueeze(-1), 0)
    lengths = vectors.norm(dim=-1).clamp(min=1e-12)
    return torch.matmul((weights * (vectors.shape[-1] ** 0.5 / lengths)).unsqueeze(1), vectors).squeeze(1)


def attend(scores: Tensor, values: Tensor, real: Tensor) -> Tensor:
    """Average each row's real values, weighted by the softmax of their scores.

    Args:
        scores: float [B, L], finite.
        values: float [B, L, V], finite where not real.
        real: bool [B, L]; the others have exactly no weight.

    Returns:
        float [B, V]; zeros, with gradient zero, for a row where nothing is real.

    Example:
        >>> attend(torch.zeros(1, 3), torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[3.]])
    """
    return torch.matmul(attention(scores, real).unsqueeze(1), values).squeeze(1)
