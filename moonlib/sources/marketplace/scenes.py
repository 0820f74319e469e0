"""Scenes around a product: studios and rooms, its shadow, a hand."""

from __future__ import annotations

import math

import numpy as np

from moonlib.sources.marketplace.colour import Colour, any_colour, column
from moonlib.sources.marketplace.noise import clouds
from moonlib.sources.marketplace.patterns import PATTERNS, pattern
from moonlib.sources.marketplace.sdf import Field, Plane, coverage, saturate, unit_grid

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, as parts of the picture's sides."""


def studio(rng: np.random.Generator, size: int) -> Field:
    """A white or pastel backdrop, lit from one side."""
    _, y = unit_grid(size)
    backdrop = column(any_colour(rng, 0.8, 0.95)) if rng.random() < 0.25 else np.float32(rng.uniform(0.97, 1.0))
    canvas = np.empty((3, size, size), dtype=np.float32)
    canvas[:] = backdrop * (1 - float(rng.uniform(0, 0.12)) * y)
    return canvas


def room(rng: np.random.Generator, size: int, contrast: float) -> Field:
    """A wall and a floor or table of any colour and texture, or a light sheet.

    Args:
        rng: draws the room.
        size: pixels a side.
        contrast: of the textures, 0 to 1.
    """
    canvas = np.empty((3, size, size), dtype=np.float32)
    if rng.random() < 0.5:
        _texture(rng, canvas, slice(0, size), any_colour(rng, 0.8, 1.0), 0.25 * contrast)
    else:
        horizon = int(size * rng.uniform(0.3, 0.95))
        _texture(rng, canvas, slice(0, horizon), any_colour(rng, 0.4, 1.0), contrast)
        _texture(rng, canvas, slice(horizon, size), any_colour(rng, 0.15, 0.9), contrast)
    canvas *= 1 + 0.15 * clouds(rng, size, 5, 1)
    canvas += 0.04 * clouds(rng, size, 12, 1)
    return canvas


def _texture(rng: np.random.Generator, canvas: Field, rows: slice, colour: Colour, contrast: float) -> None:
    x, y = unit_grid(canvas.shape[1])
    kind, scale, angle = int(rng.integers(len(PATTERNS))), float(rng.uniform(-1.2, 0.8)), float(rng.uniform(0, math.pi))
    turn = float(rng.uniform(-0.3, 0.3))
    base = column(colour)
    other = base + contrast * float(rng.random()) * (column(any_colour(rng)) - base)
    second = pattern(kind, 4 * x + y[rows] * turn, 4 * y[rows] + x * turn, scale, angle, 4 / canvas.shape[1])
    canvas[:, rows] = base if second is None else base + second * (other - base)


def shadow(canvas: Field, box: Box, strength: float) -> None:
    """Darken the ground under a product, in place."""
    x, y = unit_grid(canvas.shape[1])
    half = max((box[2] - box[0]) * 0.55, 0.02)
    u, v = (x - (box[0] + box[2]) / 2) / half, (y - box[3]) / (0.22 * half + 0.02)
    canvas *= 1 - strength * saturate(1 - (u * u + v * v))


def hand(rng: np.random.Generator, size: int, box: Box) -> tuple[Field, Field]:
    """Fingers that reach over the edge of a product from outside.

    Returns:
        How much of each pixel they cover, [S, S], and their colour, [3, S, S].
    """
    x, y = unit_grid(size)
    side = float(rng.uniform(0, 2 * math.pi))
    out_x, out_y = math.cos(side), math.sin(side)
    half_x, half_y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    reach = min(half_x / max(abs(out_x), 1e-3), half_y / max(abs(out_y), 1e-3)) * float(rng.uniform(0.65, 0.9))
    u = x - ((box[0] + box[2]) / 2 + reach * out_x)
    v = y - ((box[1] + box[3]) / 2 + reach * out_y)
    along, across = u * out_x + v * out_y, v * out_x - u * out_y
    width = float(rng.uniform(0.055, 0.085))
    finger = np.clip(np.rint(across / width), -1, 1 + int(rng.integers(2)))
    start = 0.03 * finger * finger
    plane = Plane(along - start, across - finger * width)
    fingers = plane.capsule(0, 0, 1.2, 0, 0.46 * width)
    nails = coverage(plane.ellipse(0.02 * width, 0, 0.34 * width, 0.26 * width), 1 / size)
    skin = column((0.93, 0.72, 0.58)) * float(rng.uniform(0.4, 1.05))
    depth = 0.7 + 0.3 * saturate(fingers * (-2 / width)) + 0.18 * nails
    return coverage(fingers, 1 / size), skin * depth
