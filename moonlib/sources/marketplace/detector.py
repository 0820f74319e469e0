"""The boxes that a detector draws around products: never quite theirs, sometimes none, sometimes another thing's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

JITTER, MISSED, MISTAKEN = 0.08, 0.08, 0.03
"""By how much of a side each edge is off (standard deviation), and the shares of boxes missing and on other things."""

_TRIES = 8


def detect(boxes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the boxes that a detector finds.

    Args:
        boxes: float32 [M, 4], the true ones, x0, y0, x1, y1 in 0..1.
        rng: the stream that this is a function of.

    Returns:
        float32 [M, 4], NaN where the detector finds nothing.
    """
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    found = np.clip(boxes + JITTER * sides * rng.normal(size=boxes.shape), 0, 1)
    fate = rng.random(len(boxes))
    mistaken = fate < MISTAKEN
    found[mistaken] = _elsewhere(boxes[mistaken], rng)
    # What is cut off at the picture's edge may leave nothing of a small product.
    nothing = (found[:, 2:] - found[:, :2]).min(axis=1) < 0.02
    found[(fate > 1 - MISSED) | nothing] = np.nan
    return found.astype(np.float32)


def _elsewhere(boxes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """A box of something else in each picture: of several at random, the one that shares least with the product."""
    side = rng.uniform(0.15, 0.5, size=(len(boxes), _TRIES, 2))
    low = rng.random(side.shape) * (1 - side)
    corners = np.concatenate([low, low + side], axis=2)
    shared = np.minimum(corners[..., 2:], boxes[:, None, 2:]) - np.maximum(corners[..., :2], boxes[:, None, :2])
    least = np.maximum(shared, 0).prod(axis=2).argmin(axis=1)
    chosen: NDArray[np.float64] = corners[np.arange(len(boxes)), least]
    return chosen
