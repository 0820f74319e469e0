"""The pictures of a product: how its merchant shows it, and how a shopper photographs it.

A picture is a function of (look, seed, size, view) and of nothing else. It is drawn with numpy from signed distance
fields, in half a millisecond to one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.camera import develop, photograph
from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.colour import any_colour
from moonlib.sources.marketplace.look import Look
from moonlib.sources.marketplace.overlays import badge, caption
from moonlib.sources.marketplace.paint import measure, paint
from moonlib.sources.marketplace.patterns import PATTERNS
from moonlib.sources.marketplace.pose import Pose, Region
from moonlib.sources.marketplace.scenes import Box, hand, room, shadow, studio

__all__ = ["Look", "render_catalogue", "render_query"]

_CATALOGUE, _QUERY = 1, 2
"""Keep the streams of random numbers of the two kinds of pictures apart."""

_STRETCH = ((1.0, 1.0), (0.82, 1.0), (0.6, 0.8), (1.0, 1.0))
"""Width relative to height of a product in each view of it."""

MOST_HIDDEN = 0.2
"""A hand hides no more than this share of a product."""


def render_catalogue(look: Look, seed: int, size: int = 96, view: int = 0) -> tuple[NDArray[np.uint8], Box]:
    """Draw a merchant's picture of a product.

    View 0 shows it straight, mostly on white; view 1 mirrored, turned, and more often in a scene; view 2 from the side;
    view 3 so near that some of it lies outside. Some carry a badge or a line of text.

    Args:
        look: what is visible of the product.
        seed: decides everything else; non-negative.
        size: pixels a side.
        view: 0 to 3.

    Returns:
        The picture, uint8 [size, size, 3] in RGB, and the product's box (x0, y0, x1, y1) in 0..1.
    """
    rng = np.random.default_rng([_CATALOGUE, view, seed])
    extent = measure(look)
    lifestyle = rng.random() < (0.45 if view == 1 else 0.12)
    canvas = room(rng, size, contrast=0.35) if lifestyle else studio(rng, size)
    if lifestyle:
        canvas = 0.45 + 0.55 * canvas
    fill = float(rng.uniform(1.15, 1.5) if view == 3 else rng.uniform(0.62, 0.88))
    slack = 0.45 * abs(0.94 - fill)
    pose = Pose(
        extent,
        centre=(0.5 + float(rng.uniform(-slack, slack)), 0.5 + float(rng.uniform(-slack, slack))),
        fill=fill,
        angle=float(rng.uniform(-0.25, 0.25) if view == 1 else rng.uniform(-0.05, 0.05)),
        stretch=float(rng.uniform(*_STRETCH[view])),
        mirror=view == 1,
        tilt=(float(rng.uniform(0.1, 0.25)), 0.0) if view == 2 else (0.0, 0.0),
    )
    rows, columns = pose.region(size)
    box = (columns.start / size, rows.start / size, columns.stop / size, rows.stop / size - 0.04)
    shadow(canvas, box, float(rng.uniform(0.05, 0.3)))
    region, covered = paint(canvas, look, pose, light=(-0.5, -0.8))
    if rng.random() < 0.25:
        badge(rng, canvas)
    if rng.random() < 0.2:
        caption(rng, canvas)
    return develop(canvas), _box(region, covered, size)


def render_query(look: Look, seed: int, size: int = 96) -> tuple[NDArray[np.uint8], Box]:
    """Draw a shopper's photo of a product, in someone's hands or room.

    Other things stand around, the product is turned by up to 25 degrees, up to about 15 % of it lies outside, and
    fingers hide up to a fifth of it.

    Args:
        look: what is visible of the product.
        seed: decides everything else; non-negative.
        size: pixels a side.

    Returns:
        The picture, uint8 [size, size, 3] in RGB, and the product's box (x0, y0, x1, y1) in 0..1.
    """
    rng = np.random.default_rng([_QUERY, seed])
    canvas = room(rng, size, contrast=0.7)
    light = (float(rng.uniform(-1, 1)), -float(rng.uniform(0.2, 1)))
    for _ in range(int(rng.choice(3, p=(0.45, 0.35, 0.2)))):
        _clutter(rng, canvas, light)

    extent = measure(look)
    fill = float(rng.uniform(0.55, 0.85))
    # Most people aim at the middle; a few cut some of the product off.
    slack = 0.5 - 0.44 * fill
    pose = Pose(
        extent,
        centre=(0.5 + slack * _towards_zero(rng), 0.5 + slack * _towards_zero(rng)),
        fill=fill,
        angle=math.radians(25) * _towards_zero(rng),
        stretch=float(rng.uniform(0.88, 1.12)),
        mirror=rng.random() < 0.1,
        tilt=(float(rng.uniform(-0.14, 0.14)), float(rng.uniform(-0.14, 0.14))),
    )
    region, covered = paint(canvas, look, pose, light)
    box = _box(region, covered, size)
    if rng.random() < 0.5:
        fingers, skin = hand(rng, size, box)
        if float((fingers[region] * covered).sum()) <= MOST_HIDDEN * float(covered.sum()):
            canvas += fingers * (skin - canvas)
    photograph(rng, canvas)
    return develop(canvas), box


def _towards_zero(rng: np.random.Generator) -> float:
    """A number in [-1, 1], small ones likelier."""
    return float(rng.uniform(-1, 1) * rng.random())


def _clutter(rng: np.random.Generator, canvas: NDArray[np.float32], light: tuple[float, float]) -> None:
    """Put some other product near the edge of a picture, in place."""
    look = Look(
        category=int(rng.integers(len(CATEGORIES))),
        proportions=(0.0, 0.0, 0.0, 0.0),
        colour=any_colour(rng),
        accent=any_colour(rng),
        pattern=int(rng.integers(len(PATTERNS))),
        pattern_scale=0.0,
        pattern_angle=float(rng.uniform(0, math.pi)),
        ornament=0,
        ornament_at=(0.0, 0.0),
        gloss=0.0,
    )
    side = float(rng.uniform(0, 2 * math.pi))
    centre = (0.5 + 0.42 * math.cos(side), 0.5 + 0.42 * math.sin(side))
    extent = measure(look)
    pose = Pose(extent, centre, fill=float(rng.uniform(0.25, 0.5)), angle=float(rng.uniform(-0.6, 0.6)))
    paint(canvas, look, pose, light)


def _box(region: Region, covered: NDArray[np.float32], size: int) -> Box:
    """The box of the pixels a product covers at least half as much as the one it covers most."""
    rows, columns = region
    solid = covered >= 0.5 * covered.max()
    down, across = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    x0, x1 = columns.start + across[0], columns.start + across[-1] + 1
    y0, y1 = rows.start + down[0], rows.start + down[-1] + 1
    return float(x0 / size), float(y0 / size), float(x1 / size), float(y1 / size)
