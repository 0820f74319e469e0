"""Recall of the product that was bought, among all products listed by then."""

from __future__ import annotations

from typing import Any

import moonlib.compat  # noqa: F401  (before torchmetrics)
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

TIE = 1e-6
"""Cosines this close are a tie: far above float32's rounding, far below what tells two products apart."""


def ranks(
    query_vectors: Tensor,
    gallery_vectors: Tensor | NDArray[np.floating],
    query_spu: Tensor,
    gallery_spu: Tensor,
    query_time: Tensor | None = None,
    listed_at: Tensor | None = None,
    chunk: int = 2048,
    own_spu: Tensor | None = None,
) -> Tensor:
    """Rank, for each query, the best of the items that would be a hit.

    A hit is any item of the query's SPU. The rank is the number of other items whose cosine with the query is at
    least the best hit's: ties (up to 1e-6) are broken against us. Hits do not count against each other. A vector
    of zeros says that there is no representation: such an item is never a hit, such a query has none.

    Args:
        query_vectors: float [Q, D], of any length.
        gallery_vectors: float [N, D], of any length; an array that is mapped from a file is read in blocks and never
            held in memory.
        query_spu: int64 [Q], the SPU that was bought.
        gallery_spu: int64 [N].
        query_time: int64 [Q]; with ``listed_at``, only items listed at or before it are in the query's gallery.
        listed_at: int64 [N], in the unit of ``query_time``.
        chunk: how many queries are compared with how many items at once; bounds the memory at a few times chunk^2.
        own_spu: int64 [Q], the SPU of each query that is a product and looks for others; its items are not in the
            query's gallery, where they would be first.

    Returns:
        int64 [Q], 0 for the best rank; N, a miss at any K, for a query without a hit in its gallery.

    Raises:
        ValueError: if shapes do not agree, a vector is not finite, or only one of the two times is given.

    Example:
        >>> query = torch.tensor([[1.0, 0.0]])
        >>> gallery = torch.tensor([[0.6, 0.8], [0.9, 0.1], [0.0, 1.0]])
        >>> ranks(query, gallery, torch.tensor([7]), torch.tensor([7, 8, 9])).tolist()
        [1]
    """
    if (query_time is None) != (listed_at is None):
        raise ValueError("give both query_time and listed_at, or neither")
    queries = _unit(query_vectors, "query_vectors")
    gallery = _Gallery(gallery_vectors, chunk)
    if queries.shape[1] != gallery.vectors.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.vectors.shape[1]}")
    for name, values, rows in (
        ("query_spu", query_spu, len(queries)),
        ("gallery_spu", gallery_spu, len(gallery.vectors)),
        ("query_time", query_time, len(queries)),
        ("listed_at", listed_at, len(gallery.vectors)),
        ("own_spu", own_spu, len(queries)),
    ):
        if values is not None and (values.dtype != torch.int64 or values.shape != (rows,)):
            raise ValueError(f"{name} must be int64 [{rows}], got {values.dtype} {list(values.shape)}")
    found = torch.empty_like(query_spu)
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        time, own = (None if values is None else values[part] for values in (query_time, own_spu))
        found[part] = _ranks_of_chunk(queries[part], gallery, query_spu[part], gallery_spu, time, listed_at, own)
    return found


class _Gallery:
    """Vectors in blocks of unit length, wherever they lie."""

    def __init__(self, vectors: Tensor | NDArray[np.floating], chunk: int) -> None:
        if vectors.ndim != 2:
            raise ValueError(f"gallery_vectors must be [n, D], got {list(vectors.shape)}")
        self.vectors, self.chunk = vectors, chunk
        self.represented = torch.zeros(len(vectors), dtype=torch.bool)
        broken = 0
        for rows in self.blocks():
            values = self.read(rows)
            broken += int((~values.isfinite().all(dim=1)).sum())
            self.represented[rows] = values.any(dim=1)
        if broken:
            raise ValueError(f"{broken} of {len(vectors)} gallery_vectors are not finite")

    def blocks(self) -> list[slice]:
        return [slice(start, start + self.chunk) for start in range(0, len(self.vectors), self.chunk)]

    def read(self, rows: slice | Tensor) -> Tensor:
        if isinstance(self.vectors, Tensor):
            return self.vectors[rows].float()
        found = self.vectors[rows if isinstance(rows, slice) else rows.numpy()]
        return torch.from_numpy(np.array(found, dtype=np.float32))

    def unit(self, rows: slice | Tensor) -> Tensor:
        return F.normalize(self.read(rows), dim=1)


def _ranks_of_chunk(
    queries: Tensor,
    gallery: _Gallery,
    query_spu: Tensor,
    gallery_spu: Tensor,
    query_time: Tensor | None,
    listed_at: Tensor | None,
    own_spu: Tensor | None,
) -> Tensor:
    def in_gallery(items: slice | Tensor) -> Tensor | bool:
        there: Tensor | bool = True
        if query_time is not None and listed_at is not None:
            there &= listed_at[items] <= query_time.unsqueeze(1)
        if own_spu is not None:
            there &= gallery_spu[items] != own_spu.unsqueeze(1)
        return there

    best = queries.new_full((len(queries),), -torch.inf)
    possible = (torch.isin(gallery_spu, query_spu) & gallery.represented).nonzero().squeeze(1)
    for start in range(0, len(possible), gallery.chunk):
        items = possible[start : start + gallery.chunk]
        hit = (query_spu.unsqueeze(1) == gallery_spu[items]) & in_gallery(items)
        scores = (queries @ gallery.unit(items).T).masked_fill(~hit, -torch.inf)
        best = torch.maximum(best, scores.amax(dim=1))
    ahead = torch.zeros_like(query_spu)
    for block in gallery.blocks():
        rival = queries @ gallery.unit(block).T >= (best - TIE).unsqueeze(1)
        rival &= (query_spu.unsqueeze(1) != gallery_spu[block]) & in_gallery(block)
        ahead += rival.sum(dim=1)
    miss = best.isneginf() | ~queries.any(dim=1)
    return ahead.masked_fill(miss, len(gallery_spu))


def _unit(vectors: Tensor, name: str) -> Tensor:
    """Check float [n, D] and scale it to unit length in float32; zeros stay zeros."""
    if vectors.ndim != 2:
        raise ValueError(f"{name} must be [n, D], got {list(vectors.shape)}")
    broken = int((~vectors.isfinite().all(dim=1)).sum())
    if broken:
        raise ValueError(f"{broken} of {len(vectors)} {name} are not finite")
    return F.normalize(vectors.float(), dim=1)


def recall_at(ranks: Tensor, k: int, gallery: int) -> Tensor:
    """Share of queries whose best hit is among the first K.

    Args:
        ranks: int64 [Q], from `ranks`.
        k: K, at least 1.
        gallery: number N of items that were ranked.

    Returns:
        float64 scalar; NaN without queries.

    Raises:
        ValueError: if K is below 1 or exceeds the gallery.
    """
    _check_k(k, gallery)
    return (ranks < k).double().mean()


class Recall(Metric):
    """`recall_at` over all queries seen; float64.

    Args:
        k: K, at least 1.

    Raises:
        ValueError: if K is below 1 or, in an update, exceeds the gallery.
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    queries: Tensor

    def __init__(self, k: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k, self.name = k, f"recall@{k}"
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("queries", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ranks: Tensor, gallery: int) -> None:
        """Add queries: ``ranks`` int64 [Q] from `ranks`, found in a gallery of so many items."""
        _check_k(self.k, gallery)
        self.hits += (ranks < self.k).sum()
        self.queries += len(ranks)

    def compute(self) -> Tensor:
        """The recall; NaN without queries."""
        return self.hits.double() / self.queries

    def sums(self, ranks: Tensor, gallery: int) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        _check_k(self.k, gallery)
        return torch.stack([ranks < self.k, torch.ones_like(ranks)], dim=1).double()

    def of_sums(self, sums: Tensor) -> Tensor:
        """See `moonlib.metrics.metric.Additive`."""
        return sums[0] / sums[1]


def _check_k(k: int, gallery: int) -> None:
    if not 1 <= k <= gallery:
        raise ValueError(
            f"recall@{k} needs a gallery of at least {max(k, 1)} items, this one has {gallery}; choose a smaller K"
        )
