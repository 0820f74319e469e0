"""Hard negatives by nearest-neighbour search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonlib.representations.store import unit

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

NEIGHBOURS_AT_ONCE = 1 << 20
"""Neighbours held at once."""
READ = 16_384
"""Vectors read at once."""
TIE = 1e-6
"""Cosines this close are a tie, in which a search may have left either item out."""


def mine(
    queries: Vectors,
    items: Vectors,
    pair_query: Rows,
    pair_item: Rows,
    *,
    group: NDArray[np.int64],
    keep: int,
    known: Rows | None = None,
    skip: int = 0,
    margin: float | None = None,
    relative_margin: float | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    depth: int = 1024,
    approximate: bool = False,
    share: float = 1 / 4,
) -> Rows:
    """Find for each pair of a query and a positive the nearest items that may serve as negatives.

    Score s is the cosine. An item may serve for the pair (q, p) if

    - it is neither a known positive of q nor of the group of one, whichever of q's pairs that is known from;
    - ``s(q, item) <= s(q, p) - margin``;
    - ``s(q, item) <= s(q, p) - relative_margin * |s(q, p)|``, so that the bound is below s(q, p) whatever its sign;
    - ``min_score <= s(q, item) <= max_score``.

    Of these, by falling score and, of equal ones, by row, the first ``skip`` are passed over and the next ``keep``
    are kept. Each query is searched once for somewhat more items than that; where too few of them may serve, again and
    deeper. No more than ``NEIGHBOURS_AT_ONCE`` neighbours are held at a time.

    A vector of zeros stands for "no representation": such an item is never found, a pair with such a query gets
    nothing, nor, where a margin is given, does one with such an item.

    Args:
        queries: float [Q, D], of any length.
        items: float [N, D], likewise; may be a memory map, and is read block by block. The search keeps a copy in
            float32.
        pair_query: int64 [P], rows of ``queries``; a query may have several pairs.
        pair_item: int64 [P], rows of ``items``: the positive of each pair.
        group: int64 [N], the SPU of each item.
        keep: candidates wanted per pair.
        known: int64 [P, K], rows of further known positives of each pair's query; repetitions do no harm.
        skip: nearest items that may serve to pass over, because they may be positives that nobody clicked.
        margin: see above, in cosine; None for no such bound.
        relative_margin: see above, a share of the size of the positive's cosine.
        min_score: see above.
        max_score: see above.
        depth: items looked at per query at most, the nearest ones, positives included. From N on, the search leaves
            nothing out.
        approximate: choose by codes of the vectors, a bit or few per dimension, in an inverted file of √N lists, for
            catalogues of millions. Scores are exact all the same, but the search may miss items, the more so the deeper
            it has to go. With fewer than ``READ`` items it is exact.
        share: of the lists that an approximate search reads for a query.

    Returns:
        int64 [P, keep], rows of ``items`` by falling score, -1 in the places left where there are fewer. It is a
        function of the arguments; cosines are those of float32, so that rounding decides what is within 1e-6 of another
        or of a bound.

    Raises:
        ValueError: an argument is out of range, or arrays do not fit together.

    Source: margins as in de Souza Moreira et al., "NV-Retriever: Improving text embedding models with effective
    hard-negative mining" (arXiv 2407.15831): TopK-MarginPos, and TopK-PercPos but for the sign; the
    approximate search is Jégou et al., "Product quantization for nearest neighbor search" (2011), section IV, in the
    form of André et al., "Cache locality is not enough: high-performance nearest neighbor search with product
    quantization fast scan" (2015).

    Example:
        Item 1 is another SKU of the positive, item 0, and item 2 is too near to it.

        >>> items = np.array([[5, 0], [5, 0], [4, 3], [3, 4], [0, 5]], dtype=np.float32)
        >>> query, positive = np.array([0]), np.array([0])
        >>> mine(items[:1], items, query, positive, group=np.array([8, 8, 3, 4, 5]), keep=3, margin=0.3)
        array([[ 3,  4, -1]])
    """
    if known is None:
        known = np.empty((len(pair_query), 0), np.int64)
    _check(queries, items, pair_query, pair_item, group, known)
    if keep < 1 or skip < 0:
        raise ValueError(f"keep must be at least 1 and skip at least 0, got {keep} and {skip}")
    if depth < skip + keep:
        raise ValueError(f"depth {depth} leaves no room for skip {skip} and keep {keep}: it must be at least their sum")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")

    # Query and group in one number, so that a sorted array answers whether an item is out of question for a query.
    group = np.unique(group, return_inverse=True)[1]
    groups = group.max(initial=0) + 1
    positives = np.concatenate([pair_item[:, None], known], axis=1)
    taken = np.unique(pair_query[:, None] * groups + group[positives])

    highest = _highest(queries, items, pair_query, pair_item, margin, relative_margin, max_score)
    represented = np.flatnonzero(_represented(items))
    mined = np.full((len(pair_query), keep), -1, dtype=np.int64)
    pending = np.argsort(pair_query, kind="stable")  # pairs of one query stand together, so that it is searched once
    pending = pending[_represented(queries)[pair_query[pending]]]
    if not len(represented) or not len(pending):
        return mined
    index = _index(items, represented, share if approximate else None)
    depth = min(depth, len(represented))
    reach = min(2 * (skip + keep) + 16, depth)
    while len(pending):
        unsettled = []
        size = max(1, NEIGHBOURS_AT_ONCE // reach)
        for start in range(0, len(pending), size):
            pairs = pending[start : start + size]
            asked, place = np.unique(pair_query[pairs], return_inverse=True)
            scores, numbers = index.search(unit(queries[asked]), reach)
            found = represented[numbers]
            order = np.lexsort((found, -scores), axis=1)
            numbers, found, scores = (np.take_along_axis(each, order, axis=1) for each in (numbers, found, scores))
            allowed = (numbers >= 0) & ~_among(asked[:, None] * groups + group[found], taken)
            if min_score is not None:
                allowed &= scores >= min_score

            # From here on by pair: pairs of one query differ in their bounds.
            scores, last = scores[place], scores[place, -1:]
            allowed = allowed[place] & (scores <= highest[pairs, None])
            # What was not found scores no more than the last that was.
            settled = (allowed & (scores > last + TIE)).sum(axis=1) >= skip + keep
            settled |= (numbers[place, -1] < 0) | (reach == depth)
            if min_score is not None:
                settled |= last[:, 0] < min_score
            rank = allowed.cumsum(axis=1) - 1 - skip
            pair, column = np.nonzero(allowed & (rank >= 0) & (rank < keep) & settled[:, None])
            mined[pairs[pair], rank[pair, column]] = found[place[pair], column]
            unsettled.append(pairs[~settled])
        pending = np.concatenate(unsettled)
        reach = min(4 * reach, depth)
    return mined


def _check(queries: Vectors, items: Vectors, pair_query: Rows, pair_item: Rows, group: Rows, known: Rows) -> None:
    """Refuse arrays that do not fit together."""
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"queries and items must be [Q, D] and [N, D] of one width, got {queries.shape} and {items.shape}"
        )
    if len(group) != len(items):
        raise ValueError(f"group must name the SPU of each of {len(items)} items, got {len(group)}")
    if not len(pair_query) == len(pair_item) == len(known):
        raise ValueError(
            f"pair_query, pair_item and known must have a row per pair, got {len(pair_query)}, {len(pair_item)} and "
            f"{len(known)}"
        )
    for name, rows, size in (
        ("pair_query", pair_query, len(queries)),
        ("pair_item", pair_item, len(items)),
        ("known", known, len(items)),
    ):
        wrong = rows[(rows < 0) | (rows >= size)]
        if wrong.size:
            raise ValueError(f"{name}: {wrong.flat[0]} is no row of {size}; pass rows, not ids")


def _represented(vectors: Vectors) -> NDArray[np.bool_]:
    """Tell which vectors [n, D] are not all zeros, bool [n]."""
    there = np.empty(len(vectors), dtype=np.bool_)
    for start in range(0, len(vectors), READ):
        there[start : start + READ] = vectors[start : start + READ].any(axis=1)
    return there


def _highest(
    queries: Vectors,
    items: Vectors,
    pair_query: Rows,
    pair_item: Rows,
    margin: float | None,
    relative_margin: float | None,
    max_score: float | None,
) -> NDArray[np.float32]:
    """The score that no candidate of a pair may exceed, float32 [P]."""
    highest = np.full(len(pair_query), np.inf if max_score is None else max_score, dtype=np.float32)
    if margin is None and relative_margin is None:
        return highest
    for start in range(0, len(pair_query), READ):
        block = slice(start, start + READ)
        query, item = unit(queries[pair_query[block]]), unit(items[pair_item[block]])
        own = np.einsum("pd,pd->p", query, item)
        if margin is not None:
            highest[block] = np.minimum(highest[block], own - margin)
        if relative_margin is not None:
            highest[block] = np.minimum(highest[block], own - relative_margin * abs(own))
        highest[block][~item.any(axis=1)] = -np.inf
    return highest


def _index(items: Vectors, represented: Rows, share: float | None) -> Any:
    """A faiss index of the unit vectors of these items, flat or of which each query reads a share."""
    import faiss

    dim = items.shape[1]
    index: Any
    if share is None or len(represented) < READ:
        index = faiss.IndexFlatIP(dim)
    else:
        lists = round(math.sqrt(len(represented)))
        width = next(width for width in (4, 2, 1) if dim % width == 0)
        codes = faiss.IndexIVFPQFastScan(
            faiss.IndexFlatIP(dim), dim, lists, dim // width, 4, faiss.METRIC_INNER_PRODUCT
        )
        codes.nprobe = math.ceil(share * lists)
        codes.cp.niter, codes.cp.max_points_per_centroid = 5, 64
        sample = np.random.default_rng(0).choice(represented, min(len(represented), 64 * lists), replace=False)
        codes.train(unit(items[np.sort(sample)]))
        # Codes only choose; the scores of what they choose are those of the vectors.
        index = faiss.IndexRefineFlat(codes)
        index.k_factor = 8
    for start in range(0, len(represented), READ):
        index.add(unit(items[represented[start : start + READ]]))
    return index


def _among(values: Rows, taken: Rows) -> NDArray[np.bool_]:
    """Tell which values, of any shape, are in a sorted array that is not empty."""
    found: NDArray[np.bool_] = taken[np.searchsorted(taken, values).clip(max=len(taken) - 1)] == values
    return found
