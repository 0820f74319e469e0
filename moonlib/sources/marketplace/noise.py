"""Smooth noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.sdf import Field


@lru_cache(maxsize=8)
def _knots(size: int, knots: int) -> tuple[NDArray[np.int64], Field]:
    """For each of `size` pixels the knot before it and how far it lies past that knot, 0 to 1."""
    at = np.linspace(0, knots - 1, size, dtype=np.float32)
    before = np.minimum(at.astype(np.int64), knots - 2)
    return before, at - before.astype(np.float32)


def clouds(rng: np.random.Generator, size: int, knots: int, channels: int) -> Field:
    """Smooth noise in [-1, 1], [channels, S, S]."""
    coarse = rng.random((channels, knots, knots), dtype=np.float32) * 2 - 1
    before, past = _knots(size, knots)
    lines = coarse[:, before] + past[:, None] * (coarse[:, before + 1] - coarse[:, before])
    smooth: Field = lines[:, :, before] + past * (lines[:, :, before + 1] - lines[:, :, before])
    return smooth
