"""The search unit: of a long history, the behaviours that are most like the target."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moonlib.representations.store import Representations, unit

Rows = NDArray[np.int64]

BEHAVIOURS_AT_ONCE = 4_096
"""Behaviours whose vectors are in memory at once: few enough that they stay in a core's cache."""


def similarity_topk(
    store: Representations, target: Rows, behaviours: NDArray[np.integer[Any]], real: NDArray[np.bool_], k: int
) -> Rows:
    """Choose the k behaviours of each row whose representations have the highest cosine with the target's.

    Exact. Vectors are read from the store, of whatever type it is, a block at a time: there is no float [B, L, D].
    Where a side has no representation there is no cosine; such behaviours come after all others, the newest first. So
    a target without representation keeps its newest k.

    Args:
        store: N representations.
        target: int64 [B], row of each target in the store, -1 for none.
        behaviours: integers [B, L], rows of the behaviours, -1 for none.
        real: bool [B, L], False for padding.
        k: how many to keep.

    Returns:
        int64 [B, min(k, L)], columns of ``behaviours``, ascending, so that the order of the history is kept; -1, at the
        end, where a row has fewer.

    Source: the "general search unit" of MUSE (arXiv 2512.07216), which keeps the 50 most similar of 1,000 to 100,000
    behaviours before any attention.

    Example:
        >>> store = Representations(np.arange(3), np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32))
        >>> similarity_topk(store, np.array([0]), np.array([[1, 2, 0]]), np.ones((1, 3), dtype=bool), 2)
        array([[1, 2]])
    """
    length = behaviours.shape[1]
    keep = min(k, length)
    scores = _cosines(store, target, behaviours)
    # No cosine is below -1: from -2 on they rank by age.
    age = -2 - torch.arange(length) / max(length, 1)
    scores = torch.where(scores.isnan(), age, scores).masked_fill_(~torch.from_numpy(real), -torch.inf)
    best, column = scores.topk(keep, dim=1)
    column = column.masked_fill_(best == -torch.inf, length).sort(dim=1).values
    return column.masked_fill_(column == length, -1).numpy()


def _cosines(store: Representations, target: Rows, behaviours: NDArray[np.integer[Any]]) -> torch.Tensor:
    """Cosine of each target with each of its behaviours, float32 [B, L]; NaN where a side has no representation."""
    scores = np.full(behaviours.shape, np.nan, dtype=np.float32)
    if not len(store.ids):
        return torch.from_numpy(scores)
    wanted = unit(store.at(target))
    known = behaviours >= 0
    known[target < 0] = False

    def score(blocks: list[tuple[Rows, slice]]) -> None:
        # A cosine does not depend on the store's scale: its values are taken as they are, into memory that is used
        # again. numpy and not torch, whose threads would meet after each of these short steps.
        stored = np.empty((BEHAVIOURS_AT_ONCE, store.dim), dtype=store.vectors.dtype)
        vectors = np.empty((BEHAVIOURS_AT_ONCE, store.dim), dtype=np.float32)
        for rows, columns in blocks:
            places = behaviours[rows, columns]
            read = np.s_[: places.size]
            # An index of -1 is clipped to 0 and masked below; any other mode than clip would buffer the output.
            np.take(store.vectors, places.ravel(), axis=0, out=stored[read], mode="clip")
            np.copyto(vectors[read], stored[read], casting="same_kind")
            block = vectors[read].reshape(*places.shape, store.dim)
            squares = np.vecdot(block, block)
            cosines = np.vecdot(block, wanted[rows, None]) / np.sqrt(np.maximum(squares, 1e-24))
            scores[rows, columns] = np.where(known[rows, columns], cosines, np.nan)

    blocks = list(_blocks(known))
    threads = min(torch.get_num_threads(), len(blocks))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score, (blocks[first::threads] for first in range(threads))))
    else:
        score(blocks)
    return torch.from_numpy(scores)


def _blocks(known: NDArray[np.bool_]) -> Iterator[tuple[Rows, slice]]:
    """Rows and columns that cover all behaviours that are known, at most `BEHAVIOURS_AT_ONCE` at once."""
    # Longest first, so that rows of a block are about as long and little of it is padding.
    lengths = (known * np.arange(1, known.shape[1] + 1)).max(axis=1, initial=0)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order) and (longest := int(lengths[order[start]])):
        rows = order[start : start + max(1, BEHAVIOURS_AT_ONCE // longest)]
        yield from (
            (rows, slice(left, min(left + BEHAVIOURS_AT_ONCE, longest)))
            for left in range(0, longest, BEHAVIOURS_AT_ONCE)
        )
        start += len(rows)
