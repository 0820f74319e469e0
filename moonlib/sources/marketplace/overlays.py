"""Labels that merchants print over their pictures."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.colour import any_colour, column
from moonlib.sources.marketplace.sdf import Field, Plane, coverage, unit_grid


def badge(rng: np.random.Generator, canvas: Field) -> None:
    """Print a sales badge into a corner, in place."""
    size = canvas.shape[1]
    x, y = unit_grid(size)
    radius = float(rng.uniform(0.09, 0.14))
    cx, cy = (float(value) for value in rng.choice((radius + 0.02, 0.98 - radius), 2))
    plane = Plane(x - cx, y - cy)
    shape = plane.disc(0, 0, radius) if rng.random() < 0.5 else plane.box(0, 0, radius, radius * 0.7, 0.03)
    canvas += coverage(shape, 1 / size) * (column(any_colour(rng, 0.3, 0.7)) - canvas)
    _print(rng, canvas, cx - radius * 0.6, cy - radius * 0.3, radius * 1.2, radius * 0.6, 1.0)


def caption(rng: np.random.Generator, canvas: Field) -> None:
    """Print a line of text-like glyphs along the top or bottom, in place."""
    top = 0.02 if rng.random() < 0.5 else 0.89
    _print(rng, canvas, float(rng.uniform(0.03, 0.3)), top, float(rng.uniform(0.3, 0.65)), 0.08, 0.12)


def _print(
    rng: np.random.Generator, canvas: Field, left: float, top: float, width: float, height: float, ink: float
) -> None:
    """Print glyphs of 3 by 5 dots, so many that they fill the width."""
    size = canvas.shape[1]
    rows, columns = max(round(height * size), 1), max(round(width * size), 1)
    glyphs = max(columns * 5 // (rows * 4), 1)
    dots = rng.random((5, 4 * glyphs), dtype=np.float32) < 0.6
    dots[:, 3::4] = False
    mask = dots[np.arange(rows) * 5 // rows][:, np.arange(columns) * 4 * glyphs // columns]
    y, x = round(top * size), round(left * size)
    patch = canvas[:, y : y + rows, x : x + columns]
    patch += mask[: patch.shape[1], : patch.shape[2]] * (ink - patch)
