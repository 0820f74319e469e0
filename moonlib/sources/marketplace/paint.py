"""Painting one product onto a picture: where it lies, its surface and its light."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.colour import apart, column, luminance
from moonlib.sources.marketplace.look import Look
from moonlib.sources.marketplace.ornaments import ornament
from moonlib.sources.marketplace.patterns import pattern
from moonlib.sources.marketplace.pose import Extent, Pose, Region
from moonlib.sources.marketplace.sdf import Field, Plane, coverage, saturate, union
from moonlib.sources.marketplace.silhouettes.accessories import ACCESSORIES
from moonlib.sources.marketplace.silhouettes.bags import BAGS
from moonlib.sources.marketplace.silhouettes.beauty import BEAUTY
from moonlib.sources.marketplace.silhouettes.clothes import CLOTHES
from moonlib.sources.marketplace.silhouettes.decor import DECOR
from moonlib.sources.marketplace.silhouettes.electronics import ELECTRONICS
from moonlib.sources.marketplace.silhouettes.furniture import FURNITURE
from moonlib.sources.marketplace.silhouettes.kitchen import KITCHEN
from moonlib.sources.marketplace.silhouettes.lighting import LIGHTING
from moonlib.sources.marketplace.silhouettes.shoes import SHOES
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette
from moonlib.sources.marketplace.silhouettes.toys import TOYS

_BY_NAME = ACCESSORIES | BAGS | BEAUTY | CLOTHES | DECOR | ELECTRONICS | FURNITURE | KITCHEN | LIGHTING | SHOES | TOYS
SILHOUETTES: tuple[Silhouette, ...] = tuple(_BY_NAME[category.name_en] for category in CATEGORIES)


def silhouette(look: Look, plane: Plane) -> Parts:
    """The parts of a look's product on a plane."""
    a, b, c, d = (float(value) for value in look.proportions)
    return SILHOUETTES[look.category](plane, a, b, c, d)


@lru_cache(maxsize=1)
def _coarse_plane() -> Plane:
    steps = np.linspace(-1.3, 1.3, 40, dtype=np.float32)
    return Plane(*np.meshgrid(steps, steps))


@lru_cache(maxsize=1024)
def _measure(category: int, proportions: tuple[float, float, float, float]) -> Extent:
    plane = _coarse_plane()
    body, trim, _ = SILHOUETTES[category](plane, *proportions)
    product, open_body = body, body
    if trim is not None:
        product, open_body = union(body, trim), np.maximum(body, 0.1 - np.abs(trim))
    across, down = plane.x[0], plane.y[:, 0]
    inside = product < 0.5 * (across[1] - across[0])
    across, down = across[inside.any(axis=0)], down[inside.any(axis=1)]
    deepest = int(np.argmin(open_body + 0.15 * (plane.x * plane.x + plane.y * plane.y)))
    return Extent(
        float(across[0]),
        float(down[0]),
        float(across[-1]),
        float(down[-1]),
        middle=(float(plane.x.flat[deepest]), float(plane.y.flat[deepest])),
        room=min(max(-float(body.flat[deepest]), 0.1), 0.4),
    )


def measure(look: Look) -> Extent:
    """The bounding box of a look's product and the middle of its body, from a coarse drawing of its silhouette."""
    a, b, c, d = (float(value) for value in look.proportions)
    return _measure(look.category, (a, b, c, d))


def paint(canvas: Field, look: Look, pose: Pose, light: tuple[float, float]) -> tuple[Region, Field]:
    """Paint a product onto a picture, in place.

    Args:
        canvas: the picture, float32 [3, S, S], 0 to 1.
        look: of the product.
        pose: where to paint it.
        light: the direction the light comes from, in the product's coordinates.

    Returns:
        The rows and columns painted, and how much of each of their pixels the product covers.
    """
    size = canvas.shape[1]
    region, pixel = pose.region(size), 1 / (pose.scale * size)
    plane = pose.plane(region, size)
    body, trim, ink = silhouette(look, plane)
    product = body if trim is None else union(body, trim)
    surface = _surface(look, plane, pixel, body, trim)
    _mark(surface, look, pixel, product, trim, ink)
    _decorate(surface, look, plane, pixel, pose.extent)
    _light(surface, look, plane, product, pose.extent, light)
    covered = coverage(product, pixel)
    _over(canvas[:, region[0], region[1]], covered, surface)
    return region, covered


def _surface(look: Look, plane: Plane, pixel: float, body: Field, trim: Field | None) -> Field:
    """The body in its colour and pattern, the trim in the accent; [3, h, w]."""
    colour, accent = column(look.colour), column(apart(look.accent, look.colour))
    surface = np.empty((3, *body.shape), dtype=np.float32)
    surface[:] = colour
    second = pattern(look.pattern, plane.x, plane.y, look.pattern_scale, look.pattern_angle, pixel)
    if second is not None:
        _over(surface, second, accent)
    if trim is not None:
        _over(surface, coverage(trim, pixel), 0.9 * accent)
    return surface


def _mark(surface: Field, look: Look, pixel: float, product: Field, trim: Field | None, ink: Field | None) -> None:
    """Contours and ink: dark, or light on what is nearly black."""
    edge = np.abs(product)
    if trim is not None:
        edge = np.minimum(edge, np.abs(trim))
    line = coverage(edge, pixel)
    line *= 0.6
    if ink is not None:
        line = np.maximum(line, 0.75 * coverage(ink, pixel))
    _over(surface, line, column((0.1, 0.09, 0.12) if luminance(look.colour) > 0.2 else (0.6, 0.6, 0.64)))


def _decorate(surface: Field, look: Look, plane: Plane, pixel: float, extent: Extent) -> None:
    """The ornament in the accent, edged with what stands out from it."""
    radius = 0.1 + 0.4 * extent.room
    x = extent.middle[0] + 0.45 * extent.room * look.ornament_at[0]
    y = extent.middle[1] + 0.45 * extent.room * look.ornament_at[1]
    shape = ornament(look.ornament, Plane((plane.x - x) / radius, (plane.y - y) / radius))
    if shape is not None:
        accent = apart(look.accent, look.colour)
        shape *= radius
        edge = (0.14, 0.12, 0.14) if luminance(accent) > 0.5 else (0.98, 0.97, 0.92)
        _over(surface, coverage(shape - 0.05, pixel), column(edge))
        _over(surface, coverage(shape, pixel), column(accent))


def _light(
    surface: Field, look: Look, plane: Plane, product: Field, extent: Extent, light: tuple[float, float]
) -> None:
    """Round the edges off, brighten the side of the light, and let gloss shine."""
    depth = saturate(product * (-1 / 0.35))
    depth = 0.72 + 0.3 * depth * (2 - depth)
    depth *= 1 + 0.14 * (light[0] * plane.x + light[1] * plane.y)
    surface *= depth
    x = plane.x - (extent.middle[0] + 0.5 * extent.room * light[0])
    y = plane.y - (extent.middle[1] + 0.5 * extent.room * light[1])
    shine = saturate(1 - (x * x + y * y) * (1 / 0.3))
    _over(surface, (0.55 * look.gloss) * shine * shine, np.float32(1))


def _over(below: Field, cover: Field, colour: Field | np.float32) -> None:
    """Lay a colour over a picture, in place."""
    below += cover * (colour - below)
