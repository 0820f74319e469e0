"""The ornaments a product can wear."""

from __future__ import annotations

import math

import numpy as np

from moonlib.sources.marketplace.sdf import Field, Plane, cut, intersection, union

ORNAMENTS: tuple[str, ...] = ("none", "star", "heart", "badge", "bow", "buckle")
"""Names of the ornaments, in the order of `Look.ornament`."""


def ornament(kind: int, plane: Plane) -> Field | None:
    """An ornament of about radius 1 around the origin, or None where there is none.

    Args:
        kind: index into `ORNAMENTS`.
        plane: the points on which to draw it.
    """
    name = ORNAMENTS[kind]
    if name == "none":
        return None
    x, y = plane.folded.x, plane.y
    if name == "star":
        # A pentagram holds the points inside at least four of its five edges' half planes.
        angles = [(0.4 * k + 0.5) * math.pi for k in range(5)]
        edges = [plane.x * math.cos(angle) + plane.y * math.sin(angle) - 0.38 for angle in angles]
        outer, star = np.maximum(edges[0], edges[1]), np.minimum(edges[0], edges[1])
        for edge in edges[2:]:
            star = np.maximum(star, np.minimum(outer, edge))
            outer = np.maximum(outer, edge)
        return star
    if name == "heart":
        tip = intersection(0.71 * (x + y) - 0.57, -0.35 - y, x - 0.8)
        return union(plane.folded.disc(0.45, -0.35, 0.5), tip)
    if name == "badge":
        return cut(plane.disc(0, 0, 1.0), plane.ring(0, 0, 0.68, 0.68, 0.09))
    if name == "bow":
        return union(plane.folded.polygon((0, -0.08), (1.1, -0.65), (1.1, 0.65), (0, 0.08)), plane.disc(0, 0, 0.28))
    return union(cut(plane.box(0, 0, 1.0, 0.8, 0.2), plane.box(0, 0, 0.62, 0.45, 0.1)), plane.box(0.2, 0, 0.45, 0.09))
