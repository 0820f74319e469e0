"""Signed distance fields: shapes as the distance to their outline, negative inside.

A shape is an array over the pixels of a `Plane`. Shapes join by `union`, lose parts by `cut`, keep what lies in all by
`intersection`, and are drawn with smooth edges by `coverage`. Distances are exact for boxes, discs and capsules and
close enough near the outline, which is all that anti-aliasing needs, for the rest.

The drawing modules avoid matrix products and vectorised sines, whose rounding differs between processors, so that a
picture does not depend on where it is drawn.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""One number for each pixel; float32 throughout, since plain Python numbers do not widen it."""


def union(*shapes: Field) -> Field:
    """Everything inside any of the shapes."""
    return reduce(np.minimum, shapes)


def intersection(*shapes: Field) -> Field:
    """Everything inside all of the shapes."""
    return reduce(np.maximum, shapes)


def cut(shape: Field, *holes: Field) -> Field:
    """The shape without the holes."""
    return reduce(lambda left, hole: np.maximum(left, -hole), holes, shape)


def outline(shape: Field, half_width: float) -> Field:
    """A line of twice `half_width` along the shape's edge."""
    line: Field = np.abs(shape) - half_width
    return line


def coverage(shape: Field, pixel: float) -> Field:
    """How much of each pixel the shape covers, 0 to 1.

    Args:
        shape: signed distances.
        pixel: the width of a pixel in the plane's units.
    """
    covered = shape * (-1 / pixel)
    covered += 0.5
    return saturate(covered)


def saturate(field: Field) -> Field:
    """Clamp a field to 0..1, in place."""
    return field.clip(0, 1, out=field)


@lru_cache(maxsize=8)
def unit_grid(size: int) -> tuple[Field, Field]:
    """The middles of a picture's pixels, x [1, S] and y [S, 1], 0 to 1."""
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    return steps[None, :], steps[:, None]


def _length(u: Field, v: Field) -> Field:
    """How far (u, v) lies from the origin; both are overwritten."""
    u *= u
    v *= v
    length: Field = u + v
    return np.sqrt(length, out=length)


class Plane:
    """The pixels of a picture as points, x to the right and y down; its methods are the primitive shapes.

    Args:
        x: float32, broadcastable with y.
        y: float32.
    """

    def __init__(self, x: Field, y: Field) -> None:
        self.x = x
        self.y = y

    @cached_property
    def folded(self) -> Plane:
        """The plane folded along x = 0: what is drawn at the right appears at the left too."""
        return Plane(np.abs(self.x), self.y)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Field:
        """An ellipse around (cx, cy)."""
        radius = _length((self.x - cx) * (1 / rx), (self.y - cy) * (1 / ry))
        radius -= 1
        radius *= min(rx, ry)
        return radius

    def disc(self, cx: float, cy: float, radius: float) -> Field:
        """A disc around (cx, cy)."""
        distance = _length(self.x - cx, self.y - cy)
        distance -= radius
        return distance

    def box(self, cx: float, cy: float, half_width: float, half_height: float, corner: float = 0.03) -> Field:
        """A box around (cx, cy) with rounded corners."""
        corner = min(corner, half_width, half_height)
        u, v = self.x - cx, self.y - cy
        np.abs(u, out=u)
        np.abs(v, out=v)
        u -= half_width - corner
        v -= half_height - corner
        inside: Field = np.maximum(u, v)
        np.minimum(inside, 0, out=inside)
        np.maximum(u, 0, out=u)
        np.maximum(v, 0, out=v)
        distance = _length(u, v)
        distance += inside
        distance -= corner
        return distance

    def capsule(self, ax: float, ay: float, bx: float, by: float, radius: float, end: float | None = None) -> Field:
        """A thick line from a to b; `end` is the radius at b where it differs."""
        dx, dy = bx - ax, by - ay
        u, v = self.x - ax, self.y - ay
        along = saturate((u * dx + v * dy) * (1 / (dx * dx + dy * dy)))
        distance = _length(u - along * dx, v - along * dy)
        distance -= radius
        if end is not None:
            distance -= along * (end - radius)
        return distance

    def ring(self, cx: float, cy: float, rx: float, ry: float, half_width: float) -> Field:
        """The outline of an ellipse."""
        return outline(self.ellipse(cx, cy, rx, ry), half_width)

    def polygon(self, *corners: tuple[float, float]) -> Field:
        """A convex polygon, its corners in clockwise order as seen on the screen."""
        sides = []
        for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
            length = math.hypot(bx - ax, by - ay)
            nx, ny = (by - ay) / length, (ax - bx) / length
            side: Field = self.x * nx + self.y * ny
            side -= nx * ax + ny * ay
            sides.append(side)
        return intersection(*sides)

    def trapezoid(self, top: float, bottom: float, half_top: float, half_bottom: float) -> Field:
        """A trapezoid centred on x = 0 between two heights."""
        return self.polygon((-half_top, top), (half_top, top), (half_bottom, bottom), (-half_bottom, bottom))

    def turned(self, *profile: tuple[float, float]) -> Field:
        """Solid of revolution: (height, half width) pairs from top to bottom, joined by straight lines."""
        heights, widths = zip(*profile, strict=True)
        side = np.abs(self.x) - np.interp(self.y, heights, widths).astype(np.float32)
        return intersection(side, self.between(heights[0], heights[-1]))

    def skyline(self, *profile: tuple[float, float]) -> Field:
        """Everything under a line of (x, height) points, from left to right, and between its ends."""
        xs, heights = zip(*profile, strict=True)
        under = np.interp(self.x, xs, heights).astype(np.float32) - self.y
        middle, half = (xs[0] + xs[-1]) / 2, (xs[-1] - xs[0]) / 2
        return intersection(under, np.abs(self.x - middle) - half)

    def between(self, top: float, bottom: float) -> Field:
        """The horizontal band between two heights."""
        band: Field = np.abs(self.y - (top + bottom) / 2) - (bottom - top) / 2
        return band

    def above(self, height: float) -> Field:
        """The half plane above a height."""
        half: Field = self.y - height
        return half

    def below(self, height: float) -> Field:
        """The half plane below a height."""
        half: Field = height - self.y
        return half
