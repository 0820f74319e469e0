"""Colours as pictures use them."""

from __future__ import annotations

import math

import numpy as np

from moonlib.sources.marketplace.sdf import Field

Colour = tuple[float, float, float]
"""sRGB, 0 to 1."""


def column(colour: Colour) -> Field:
    """A colour that broadcasts over pictures, float32 [3, 1, 1]."""
    return np.array(colour, dtype=np.float32)[:, None, None]


def luminance(colour: Colour) -> float:
    """How light a colour looks, 0 to 1."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def apart(accent: Colour, colour: Colour) -> Colour:
    """The accent, made darker or lighter where one could not tell it from the colour."""
    if math.dist(accent, colour) >= 0.3:
        return accent
    shift = -0.3 if luminance(colour) > 0.45 else 0.3
    red, green, blue = (min(max(value + shift, 0.0), 1.0) for value in accent)
    return red, green, blue


def any_colour(rng: np.random.Generator, low: float = 0.1, high: float = 0.95) -> Colour:
    """A random colour around a grey between `low` and `high`; muted ones are likelier than vivid ones."""
    grey, vividness = rng.uniform(low, high), 0.35 * rng.random()
    red, green, blue = np.clip(grey + vividness * rng.uniform(-1, 1, 3), 0, 1).tolist()
    return red, green, blue
