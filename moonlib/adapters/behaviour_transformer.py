"""A transformer over the target and what the shopper did before it, by ids and by content."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.vector import unit_size

KINDS = 4
"""Of tokens: the target, the present query, items of the history, queries of the history."""


class BehaviourTransformer(Adapter):
    """The target as it is among the behaviours, once all of them have looked at each other.

    The target, the present query, the newest items and the newest queries are a token each: the sum of projections of
    its representation and, for items, of its id's embedding, of its kind, and of how long ago it was among its kind.
    What is padding, and a query that is not there, is no token; a behaviour without representation is one by its id.
    In the last layer the target alone looks, as nothing else is read.

    Args:
        width: W of a token.
        heads: of the attention; divides ``width``.
        layers: how many.
        length: how many of the newest items are tokens; longer histories are best shortened by ``similarity_topk``.
        query_length: how many of the newest queries are.

    Raises:
        ValueError: if an argument is below 1, or ``heads`` does not divide ``width``.

    Source: Chen et al., "Behavior sequence transformer for e-commerce recommendation in Alibaba" (arXiv 1905.06874),
    for the target as a token among behaviours; the block is that of Vaswani et al., "Attention is all you need" (arXiv
    1706.03762, section 3.1), normalised first as in Xiong et al. (arXiv 2002.04745). Content beside ids, queries,
    and that only the target's output is read are our choice.

    Example:
        >>> adapter = BehaviourTransformer()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        32
    """

    def __init__(
        self, width: int = 32, heads: int = 2, layers: int = 1, length: int = 50, query_length: int = 10
    ) -> None:
        super().__init__()
        if min(width, heads, layers, length, query_length) < 1:
            given = f"{width}, {heads}, {layers}, {length} and {query_length}"
            raise ValueError(f"width, heads, layers, length and query_length must be at least 1, got {given}")
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}")
        self.width, self.length, self.query_length = width, length, query_length
        self.kinds = nn.Parameter(torch.randn(KINDS, width) * 0.02)
        self.item_places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.query_places = nn.Parameter(torch.randn(query_length, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def setup(self, id_dim: int, dim: int) -> None:
        """Make the projections."""
        self.content = nn.Linear(dim, self.width, bias=False)
        nn.init.normal_(self.content.weight, std=dim**-0.5)  # components of unit size stay so
        self.ids = nn.Linear(id_dim, self.width, bias=False)
        self.out_features = self.width

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, W]."""
        items, queries = batch.items[:, : self.length], batch.queries[:, : self.query_length]
        item_mask = batch.item_mask[:, : self.length]
        item_ids = batch.item_ids[:, : self.length].masked_fill(~item_mask.unsqueeze(-1), 0)
        item_known = batch.item_known[:, : self.length]
        query_known = batch.query_known[:, : self.query_length]
        target = self.content(unit_size(batch.target, batch.target_known)) + self.ids(batch.target_id)
        asked = self.content(unit_size(batch.query, batch.has_query))
        tokens = [
            (target + self.kinds[0]).unsqueeze(1),
            (asked + self.kinds[1]).unsqueeze(1),
            self.content(unit_size(items, item_known))
            + self.ids(item_ids)
            + self.kinds[2]
            + self.item_places[: items.shape[1]],
            self.content(unit_size(queries, query_known)) + self.kinds[3] + self.query_places[: queries.shape[1]],
        ]
        always = torch.ones_like(batch.target_known)
        real = torch.cat([torch.stack([always, batch.has_query], dim=1), item_mask, query_known], dim=1)
        hidden = torch.cat(tokens, dim=1)
        *first, last = self.blocks
        for block in first:
            hidden = block(hidden, hidden, real)
        return self.norm(last(hidden[:, :1], hidden, real).squeeze(1))


class Block(nn.Module):
    """Attention and a feed-forward network of twice the width, each added to what goes in.

    Args:
        width: W.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, asking: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        """Let some tokens look at all that are real.

        Args:
            asking: float [B, S, W].
            tokens: float [B, T, W].
            real: bool [B, T], at least one of each row.

        Returns:
            float [B, S, W].
        """
        seen = self.before_attention(tokens)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(self.before_attention(asking)), self.key(seen), self.value(seen))
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        hidden = asking + self.out(found.transpose(1, 2).flatten(2))
        output: Tensor = hidden + self.network(self.before_network(hidden))
        return output
