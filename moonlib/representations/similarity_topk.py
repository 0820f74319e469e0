"""The search unit: of a long history, the behaviours that are most like the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moonlib.representations.store import Representations

Rows = NDArray[np.int64]

BLOCK = 65_536
"""Behaviours whose vectors are in memory at once."""


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
    scores = torch.full(behaviours.shape, torch.nan)
    wanted = torch.nn.functional.normalize(torch.from_numpy(store.at(target)), dim=1)
    known = behaviours >= 0
    known[target < 0] = False
    # Longest first, so that rows of a block are about as long and little of it is padding.
    lengths = (known * np.arange(1, known.shape[1] + 1)).max(axis=1, initial=0)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order) and (longest := lengths[order[start]]):
        rows = order[start : start + max(1, BLOCK // longest)]
        for left in range(0, longest, BLOCK):
            part = np.s_[rows, left : min(left + BLOCK, longest)]
            vectors = torch.from_numpy(store.at(behaviours[part]))
            dots = torch.bmm(vectors, wanted[rows].unsqueeze(2)).squeeze(2)
            cosines = dots / vectors.norm(dim=2).clamp(min=1e-12)
            scores[part] = cosines.masked_fill(~torch.from_numpy(known[part]), torch.nan)
        start += len(rows)
    return scores
