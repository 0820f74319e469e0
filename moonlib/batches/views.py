"""Draws one picture of each product or query with several, for every visit of a training run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.data.reader import Sample

QUERY, ITEM = range(2)
"""The sides of a pair, whose draws are independent: a product that is its own positive may be seen in two pictures."""


def view_draws(seed: int, epochs: Ids, ids: Ids, side: int) -> NDArray[np.uint64]:
    """Draw a number for each visit: a function of seed, epoch, id and side alone.

    So it depends on neither the number of processes nor where a run was resumed, and takes nothing from a generator
    that others draw from.

    Args:
        seed: of the run.
        epochs: int64 [N], in which epoch each visit is.
        ids: int64 [N], which product or query is visited.
        side: `QUERY` or `ITEM`.

    Returns:
        uint64 [N], uniform.

    Source: the mixing function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014), once per argument.
    """
    state = np.zeros(len(ids), dtype=np.uint64)
    for part in (np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], np.uint64), np.array([side]), epochs, ids):
        state = _mixed(state ^ part.astype(np.uint64))
    return state


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def drawn(samples: Sequence[Sample], draws: NDArray[np.uint64] | None) -> list[Sample]:
    """Keep one picture of each sample.

    Args:
        samples: N products or queries.
        draws: uint64 [N], of `view_draws`; None keeps the main pictures.
    """
    if draws is None:
        return [sample.view(0) if sample.more else sample for sample in samples]
    return [
        sample.view(draw % (1 + len(sample.more))) if sample.more else sample
        for sample, draw in zip(samples, draws.tolist(), strict=True)
    ]
