"""Nearest neighbours among chosen vectors: by faiss, through an index where it finds enough, and else exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonlib.representations.index import Index

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]

_EXACT = 64
"""Up to this many times √N of N vectors, reading the chosen ones is faster than a graph that passes over the others."""
_BEAM = 64
"""Chosen vectors that a search through a graph comes by; with fewer, it misses some of the nearest ten."""
_SLACK = 1.25
"""A search is made so wide that it comes by more than that, as chance has it."""
_NEARLY_ALL = 0.9
"""Where this share of the vectors is chosen, an index is searched as if all were."""
_SPARE = 8
"""Neighbours that such a search asks for besides those that are likely to be needed."""


def _faiss() -> Any:
    """Imported where it is used. Its stubs are not those of what it is."""
    import faiss

    return faiss


def _search(index: Any, queries: NDArray[np.float32], k: int, parameters: Any) -> tuple[Scores, Rows]:
    """As ``index.search`` does, without its checks, which take longer than a small search."""
    pointer = _faiss().swig_ptr
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    index.search_c(len(queries), pointer(queries), k, pointer(scores), pointer(rows), parameters)
    return scores, rows


@dataclass(frozen=True)
class Chosen:
    """Some of N vectors, as faiss wants them.

    Attributes:
        mask: bool [N].
    """

    mask: NDArray[np.bool_]

    @cached_property
    def count(self) -> int:
        """How many are chosen."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def one_by_one(self) -> Any:
        """A selector that faiss reads the chosen vectors by, and no others, where vectors lie flat."""
        faiss = _faiss()
        return faiss.IDSelectorArray(np.flatnonzero(self.mask))

    @cached_property
    def by_bits(self) -> Any:
        """A selector that faiss asks about every vector."""
        faiss = _faiss()
        return faiss.IDSelectorBitmap(np.packbits(self.mask, bitorder="little"))

    @property
    def few(self) -> bool:
        """Whether to read them all."""
        return self.count <= _EXACT * math.sqrt(len(self.mask))


def among(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, chosen: Chosen | None
) -> tuple[Scores, Rows]:
    """Search some vectors exactly, on the caller's thread.

    Args:
        vectors: float32 [n, D], contiguous, of unit length.
        queries: float32 [q, D], contiguous, of unit length.
        k: neighbours wanted.
        chosen: of the n; None for all.

    Returns:
        Cosines [q, k], falling, and rows [q, k]; -1 where there are fewer.
    """
    faiss = _faiss()
    # faiss and not a product of matrices, which many threads of a server would each divide among all cores.
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    pointer = faiss.swig_ptr
    selector = None if chosen is None else chosen.one_by_one if chosen.few else chosen.by_bits
    faiss.knn_inner_product(
        pointer(queries),
        pointer(vectors),
        vectors.shape[1],
        len(queries),
        len(vectors),
        k,
        pointer(scores),
        pointer(rows),
        selector,
    )
    return scores, rows


def some_missing(rows: Rows) -> bool:
    """Whether fewer than k were found for some query: [q, k] ends with -1 then."""
    return bool(np.minimum.reduce(rows[:, -1], initial=0) < 0)


def take_each(columns: NDArray[np.int64], *values: NDArray[Any]) -> list[NDArray[Any]]:
    """Some columns of each row: of each [q, n], by [q, k], [q, k]; several times as fast as `numpy.take_along_axis`."""
    if len(columns) > 1:
        columns = columns + np.arange(0, values[0].size, values[0].shape[1])[:, None]
    return [each.take(columns) for each in values]


class Searched:
    """An index of a snapshot that is searched, of which some vectors may be chosen.

    Args:
        index: the index.
    """

    def __init__(self, index: Index) -> None:
        faiss = _faiss()
        self.index = index
        self._flat = faiss.downcast_index(index.faiss.storage) if index.about.kind == "hnsw" else index.faiss
        self._one_by_one = isinstance(self._flat, faiss.IndexFlat)

    def __len__(self) -> int:
        return len(self.index.ids)

    def search(
        self, queries: NDArray[np.float32], k: int, chosen: Chosen | None = None, exact: bool = False
    ) -> tuple[Scores, Rows]:
        """Find the nearest of the index.

        Args:
            queries: float32 [q, D], contiguous, of unit length.
            k: neighbours wanted.
            chosen: vectors to choose from; None for all.
            exact: whether to read all that are chosen.

        Returns:
            Cosines [q, k], falling, and numbers of vectors in the index [q, k]; -1 where there are fewer.
        """
        if chosen is not None and chosen.count == len(self):
            chosen = None
        if exact or (chosen is not None and chosen.few):
            return self._exactly(queries, k, chosen)
        wanted, width, there = k, 1.0, len(self)
        if chosen is not None:
            there = chosen.count
            share = there / len(self)
            if share >= _NEARLY_ALL:
                return self._among_nearly_all(queries, k, chosen, share)
            wanted = max(_BEAM, 4 * k)
            width = _SLACK * wanted / (_BEAM * share)
        scores, rows = self._approximately(queries, wanted, chosen, width)
        enough = rows[:, : min(wanted, there)]
        if some_missing(enough):
            # The search came by too few: what is chosen may lie far from a query, such as bags from a shoe, and a graph
            # or the lists that are searched hold only so many.
            missed = np.flatnonzero(enough[:, -1] < 0)
            scores, rows = scores[:, :k].copy(), rows[:, :k].copy()
            scores[missed], rows[missed] = self._exactly(queries[missed], k, chosen)
        return scores[:, :k], rows[:, :k]

    def _among_nearly_all(
        self, queries: NDArray[np.float32], k: int, chosen: Chosen, share: float
    ) -> tuple[Scores, Rows]:
        """Search as if all were chosen, for some more than k, and leave out the others.

        That takes two thirds of the time of a search that asks about every vector whether it is chosen.
        """
        wanted = max(k, min(len(self), math.ceil(_SLACK * k / share) + _SPARE))
        scores, rows = self._approximately(queries, wanted, None, 1 / share)
        kept = chosen.mask.take(rows, mode="clip") & (rows >= 0)
        if kept[:, :k].all():
            return scores[:, :k], rows[:, :k]
        best = np.argsort(~kept, axis=1, kind="stable")[:, :k]
        kept, scores, rows = take_each(best, kept, scores, rows)
        rows[~kept] = -1
        missed = np.flatnonzero(np.count_nonzero(kept, axis=1) < min(k, chosen.count))
        if len(missed):
            scores[missed], rows[missed] = self._exactly(queries[missed], k, chosen)
        return scores, rows

    def _exactly(self, queries: NDArray[np.float32], k: int, chosen: Chosen | None) -> tuple[Scores, Rows]:
        faiss = _faiss()
        selector = None
        if chosen is not None:
            selector = chosen.one_by_one if self._one_by_one and chosen.few else chosen.by_bits
        if self.index.about.kind == "ivf":
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=self._flat.nlist)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        return _search(self._flat, queries, k, parameters)

    def _approximately(
        self, queries: NDArray[np.float32], k: int, chosen: Chosen | None, width: float
    ) -> tuple[Scores, Rows]:
        faiss = _faiss()
        index, parameters = self.index.faiss, None
        selector = None if chosen is None else chosen.by_bits
        if selector is None and width == 1:
            pass
        elif self.index.about.kind == "hnsw":
            candidates = math.ceil(index.hnsw.efSearch * width)
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=candidates)
        elif self.index.about.kind == "ivf":
            lists = min(index.nlist, math.ceil(index.nprobe * width))
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=lists)
        else:
            return self._exactly(queries, k, chosen)
        return _search(index, queries, k, parameters)
