"""The patterns a product's surface can carry."""

from __future__ import annotations

import math

import numpy as np

from moonlib.sources.marketplace.sdf import Field, coverage

PATTERNS: tuple[str, ...] = ("plain", "striped", "polka dot", "checked", "zigzag", "diamond", "wavy")
"""Names of the patterns, in the order of `Look.pattern`."""


def _wave(t: Field) -> Field:
    """A triangle wave of period 1: 0 at whole numbers, 0.5 half way."""
    wave: Field = np.abs(t - np.rint(t))
    return wave


def pattern(kind: int, x: Field, y: Field, scale: float, angle: float, pixel: float) -> Field | None:
    """How much of the second colour each point takes, 0 to 1; None where the pattern is plain.

    Args:
        kind: index into `PATTERNS`.
        x: float32, the points' coordinates on the surface.
        y: float32, as x.
        scale: -1 fine to 1 coarse.
        angle: radians.
        pixel: the width of a pixel in the units of x and y, over which edges are smoothed.
    """
    name = PATTERNS[kind]
    if name == "plain":
        return None
    frequency = 2.0 * 0.63**scale
    cos, sin = frequency * math.cos(angle), frequency * math.sin(angle)
    u, v = x * cos + y * sin, y * cos - x * sin
    pixel *= frequency
    if name == "striped":
        return coverage(_wave(u) - 0.2, pixel)
    if name == "polka dot":
        a, b = _wave(u), _wave(v)
        return coverage(np.sqrt(a * a + b * b) - 0.28, pixel)
    if name == "checked":
        return 0.5 * (coverage(_wave(u) - 0.25, pixel) + coverage(_wave(v) - 0.25, pixel))
    if name == "zigzag":
        return coverage(_wave(u + _wave(v)) - 0.22, 1.4 * pixel)
    if name == "diamond":
        # Long rhombs, each framed by a thin line.
        rhomb = 0.8 * _wave(u) + 0.45 * _wave(0.56 * v) - 0.2
        return coverage(np.minimum(rhomb, np.abs(rhomb - 0.11) - 0.035), pixel)
    bend = _wave(0.9 * v)
    # A parabola of the triangle wave is close to a sine.
    return coverage(_wave(u + 2.2 * bend * (1 - bend)) - 0.2, 1.2 * pixel)
