"""CUBE, MOON's content-based user behaviour extractor."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines
from moonlib.adapters.target_attention import IdInterest, add_content, attention
from moonlib.adapters.vector import Vector

Weights = Literal["softmax", "raw"]


class Cube(Adapter):
    """Content decides which behaviours matter; what they were is read from their ids and from their content.

    Of the item history, and likewise of the query history, with the target's representation r_t, the behaviours' id
    embeddings e_b and representations r_b, and the similarity s_b = cos(r_t, r_b):

    - *id interest*: attention of the target's id over the behaviours' ids, see `IdInterest`;
    - *fusion interest* e' = Σ_b w(s_b) e_b;
    - the similarity sequence {s_b} of the newest behaviours, newest first;
    - *content interest* r' = Σ_b w(s_b) r_b;

    and beside them the present query's id embedding, r_t, cos(r_t, r_q) and r_q. The user's embedding, the eighth
    input, is the click model's own. Representations are scaled as in `Vector`. A behaviour without representation takes
    part in the id interest alone; an interest is all zeros where there is nothing to attend to.

    Args:
        weights: w(s) is ``softmax`` over s / τ with a learned τ, or ``raw``, s itself.
        temperature: τ at the start.
        length: how many of the newest items are in the similarity sequence.
        query_length: how many of the newest queries are.

    Raises:
        ValueError: if ``weights`` is neither, ``temperature`` is not above 0 or a length is below 1.

    Source: MOON (arXiv 2511.11305, figure 5). The form of w is not public: both are our reading, and so are one τ per
    history and the projections of the id interest.

    Example:
        >>> adapter = Cube()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        625
    """

    reads_query_ids = True

    def __init__(
        self, weights: Weights = "softmax", temperature: float = 0.1, length: int = 20, query_length: int = 10
    ) -> None:
        super().__init__()
        if weights not in get_args(Weights):
            raise ValueError(f"weights must be softmax or raw, got {weights!r}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if length < 1 or query_length < 1:
            raise ValueError(f"length and query_length must be at least 1, got {length} and {query_length}")
        self.vector = Vector()
        self.items = Interests(weights, temperature, length)
        self.queries = Interests(weights, temperature, query_length)

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the weights."""
        self.vector.setup(id_dim, dim)
        self.items.setup(id_dim)
        self.queries.setup(id_dim)
        sequences = self.items.length + self.queries.length
        self.out_features = self.vector.out_features + 1 + id_dim + sequences + 2 * (2 * id_dim + dim)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, out_features]."""
        both = (batch.target_known & batch.has_query).unsqueeze(1)
        known = batch.target_known.unsqueeze(1)
        return torch.cat(
            [
                self.vector(batch),
                cosines(batch.target, batch.query.unsqueeze(1), both),
                batch.query_id,
                self.items(batch, batch.item_ids, batch.item_mask, batch.items, batch.item_known & known),
                self.queries(batch, batch.query_ids, batch.query_mask, batch.queries, batch.query_known & known),
            ],
            dim=1,
        )


class Interests(nn.Module):
    """Features of the target by one history, of items or of queries; see `Cube`.

    Args:
        weights: softmax or raw.
        temperature: τ at the start.
        length: of the similarity sequence.
    """

    def __init__(self, weights: Weights, temperature: float, length: int) -> None:
        super().__init__()
        self.length = length
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if weights == "softmax" else None

    def setup(self, id_dim: int) -> None:
        """Make the weights of the id interest."""
        self.ids = IdInterest(id_dim)

    def forward(self, batch: BehaviourBatch, ids: Tensor, real: Tensor, content: Tensor, known: Tensor) -> Tensor:
        """Compute id interest, fusion interest, similarity sequence and content interest.

        Args:
            batch: for its target.
            ids: float [B, L, E], embeddings of the behaviours' ids.
            real: bool [B, L].
            content: float [B, L, D], their representations.
            known: bool [B, L], where both sides have a representation.

        Returns:
            float [B, 2 E + length + D].
        """
        similarity = cosines(batch.target, content, known)
        sequence = F.pad(similarity[:, : self.length], (0, max(0, self.length - similarity.shape[1])))
        weights = similarity
        if self.log_temperature is not None:
            weights = attention(similarity / self.log_temperature.exp(), known)
        there = ids.masked_fill(~real.unsqueeze(-1), 0)
        fusion = torch.matmul(weights.unsqueeze(1), there).squeeze(1)
        interest = add_content(weights, content, known)
        return torch.cat([self.ids(batch.target_id, ids, real), fusion, sequence, interest], dim=1)
