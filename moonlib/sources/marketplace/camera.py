"""Effects of a phone's camera on a scene, and how a canvas becomes a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.noise import clouds
from moonlib.sources.marketplace.sdf import Field, saturate


def photograph(rng: np.random.Generator, canvas: Field) -> None:
    """Photograph a scene with a phone: uneven light, exposure, white balance, blur, noise; in place."""
    size = canvas.shape[1]
    balance = 1 + rng.uniform(-0.1, 0.1, 3).astype(np.float32)[:, None, None]
    light = (1 + 0.15 * clouds(rng, size, 3, 1)) * float(rng.uniform(0.8, 1.15))
    canvas *= light
    canvas *= balance
    blur = float(rng.uniform(-0.1, 0.3))
    if blur > 0:
        _blur(canvas, blur)
    noise, haze = float(rng.uniform(0.0, 0.09)), float(rng.uniform(-0.03, 0.05))
    grain = rng.random(canvas.shape, dtype=np.float32)
    grain *= noise
    canvas += grain
    canvas += haze - noise / 2


def _blur(canvas: Field, side: float) -> None:
    """Let each pixel flow into its neighbours, along the rows and then the columns, in place."""
    for axis in (1, 2):
        lines = np.swapaxes(canvas, 1, axis)
        flow = side * (lines[:, 1:] - lines[:, :-1])
        lines[:, :-1] += flow
        lines[:, 1:] -= flow


def develop(canvas: Field) -> NDArray[np.uint8]:
    """A canvas [3, S, S] of 0 to 1 as a picture, uint8 [S, S, 3]."""
    levels = (saturate(canvas) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
