"""Where a product lies in a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moonlib.sources.marketplace.sdf import Plane

Region = tuple[slice, slice]
"""Rows and columns of a picture."""


@dataclass(frozen=True)
class Extent:
    """The bounding box of a product in its own units, and the middle of its body, where an ornament has room."""

    x0: float
    y0: float
    x1: float
    y1: float
    middle: tuple[float, float]
    room: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the bounding box."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


class Pose:
    """A product's place in a picture whose sides run from 0 to 1.

    Args:
        extent: of the product.
        centre: of its bounding box in the picture.
        fill: longer side of its bounding box in the picture, 1 for the whole width.
        angle: rotation in radians.
        stretch: width relative to height, as when seen from the side.
        mirror: whether left and right change places.
        tilt: perspective, how fast the product recedes along x and y.
    """

    def __init__(
        self,
        extent: Extent,
        centre: tuple[float, float],
        fill: float,
        angle: float = 0.0,
        stretch: float = 1.0,
        mirror: bool = False,
        tilt: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.extent = extent
        self.centre = centre
        self.tilt = tilt
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        self.wide = -stretch if mirror else stretch
        turned = [self._turn(x, y) for x, y in self._corners()]
        self.scale = fill / (2 * max(max(abs(x), abs(y)) for x, y in turned))
        """How much of the picture one unit of the product spans."""

    def _corners(self) -> list[tuple[float, float]]:
        extent = self.extent
        return [(x, y) for x in (extent.x0, extent.x1) for y in (extent.y0, extent.y1)]

    def _turn(self, x: float, y: float) -> tuple[float, float]:
        """A product's point, turned about its centre and before perspective."""
        cx, cy = self.extent.centre
        x, y = (x - cx) * self.wide, y - cy
        return self.cos * x - self.sin * y, self.sin * x + self.cos * y

    def region(self, size: int) -> Region:
        """The rows and columns of a picture of size x size pixels that can hold the product."""
        xs, ys = [], []
        for corner in self._corners():
            x, y = self._turn(*corner)
            near = self.scale / (1 + self.tilt[0] * x + self.tilt[1] * y)
            xs.append(self.centre[0] + near * x)
            ys.append(self.centre[1] + near * y)
        return self._pixels(ys, size), self._pixels(xs, size)

    def _pixels(self, values: list[float], size: int) -> slice:
        margin = 0.08 * self.scale
        start = min(max(math.floor((min(values) - margin) * size), 0), size - 1)
        return slice(start, max(min(math.ceil((max(values) + margin) * size), size), start + 1))

    def plane(self, region: Region, size: int) -> Plane:
        """The pixels of a region in the product's coordinates."""
        rows, columns = region
        y = ((np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / size - self.centre[1])[:, None] / self.scale
        x = ((np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / size - self.centre[0]) / self.scale
        depth = 1 / (1 - self.tilt[0] * x - self.tilt[1] * y)
        cx, cy = self.extent.centre
        across = (self.cos * x + self.sin * y) * depth
        across *= 1 / self.wide
        across += cx
        down = (self.cos * y - self.sin * x) * depth
        down += cy
        return Plane(across, down)
