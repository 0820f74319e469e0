"""Silhouettes of lamps."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def table_lamp(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shade taper, shade height, foot bulge, foot height."""
    bottom = 0.05 + 0.16 * b
    shade = s.trapezoid(-0.92, bottom, 0.38 - 0.16 * a, 0.62)
    bulge = 0.24 + 0.12 * c
    foot = s.turned(
        (bottom, 0.05), (0.35 + 0.1 * d, 0.07), (0.6, bulge), (0.82, bulge * 0.6), (0.86, 0.38), (0.95, 0.38)
    )
    return Parts(
        shade,
        trim=foot,
        ink=intersection(union(s.between(-0.88, -0.85), s.between(bottom - 0.08, bottom - 0.05)), shade),
    )


def desk_lamp(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shade width, elbow, reach, base."""
    elbow, x = -0.52 - 0.1 * b, 0.02 + 0.12 * c
    wide = 0.07 * a
    shade = s.polygon((x, -0.72), (x + 0.28, -0.9), (x + 0.86 + wide, -0.38), (x + 0.3 - wide, 0.02))
    arm = union(s.capsule(-0.3, 0.85, elbow, 0.08, 0.045), s.capsule(elbow, 0.08, x + 0.14, -0.76, 0.045))
    base = union(s.box(-0.3, 0.9, 0.42 + 0.08 * d, 0.07, 0.05), s.disc(elbow, 0.08, 0.09))
    bulb = cut(s.disc(x + 0.6, -0.14, 0.17), shade)
    return Parts(shade, trim=union(cut(arm, shade), base, bulb), ink=s.capsule(x + 0.2, -0.5, x + 0.5, -0.72, 0.018))


def pendant_lamp(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shade width, shade height, curve, cord."""
    wide, top = 0.72 + 0.14 * a, -0.15 - 0.2 * b
    shade = s.turned((top, 0.12), (top + 0.2, wide * (0.5 + 0.22 * c)), (0.35, wide * (0.85 + 0.12 * c)), (0.6, wide))
    ceiling = -0.85 - 0.12 * d
    cord = union(
        s.box(0, (ceiling + top) / 2, 0.025, (top - ceiling) / 2), s.trapezoid(ceiling, ceiling + 0.12, 0.12, 0.2)
    )
    bulb = cut(s.disc(0, 0.62, 0.2), shade)
    return Parts(shade, trim=union(cut(cord, shade), bulb), ink=intersection(s.between(0.5, 0.54), shade))


def chandelier(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: spread, shade height, arms, drop."""
    x, top, sag = 0.68 + 0.08 * a, -0.32 - 0.1 * b, 0.36 + 0.1 * c
    shade = s.folded.polygon((x - 0.1, top), (x + 0.1, top), (x + 0.24, 0.06), (x - 0.24, 0.06))
    middle = s.trapezoid(top + 0.1, 0.16, 0.12, 0.25)
    arm = intersection(s.folded.ring(x / 2, 0.12, x / 2, sag, 0.04), s.below(0.1))
    stem = union(s.box(0, -0.6, 0.035, 0.36), s.trapezoid(-0.98, -0.88, 0.12, 0.2))
    drop = s.turned((0.2, 0.05), (0.5, 0.14), (0.72 + 0.12 * d, 0.03))
    bulbs = union(s.folded.disc(x, 0.08, 0.1), s.disc(0, 0.18, 0.1))
    return Parts(union(shade, middle), trim=union(cut(union(arm, stem, bulbs), shade, middle), drop))


def wall_lamp(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shade width, shade taper, arm, wall plate."""
    x, wide = 0.2 + 0.08 * c, 0.5 + 0.08 * a
    top = 0.2 - 0.12 * b
    shade = s.polygon((x - top - 0.1, -0.8), (x + top + 0.1, -0.8), (x + wide, 0.1), (x - wide, 0.1))
    plate = s.box(-0.82, 0.3, 0.1, 0.4 + 0.1 * d, 0.06)
    arm = union(s.capsule(-0.8, 0.5, x, 0.6, 0.05), s.capsule(x, 0.6, x, 0.0, 0.05))
    return Parts(
        shade, trim=union(plate, cut(arm, shade), s.disc(x, 0.62, 0.1)), ink=intersection(s.between(0.0, 0.035), shade)
    )


def floor_lamp(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shade width, shade height, legs, shade taper."""
    bottom = -0.42 + 0.12 * b
    shade = s.trapezoid(-0.98, bottom, 0.27 - 0.1 * d, 0.4 + 0.1 * a)
    if c > 0:
        foot = union(s.folded.capsule(0, bottom, 0.28 + 0.2 * c, 0.95, 0.035), s.box(0, 0.35, 0.13 + 0.1 * c, 0.02))
    else:
        foot = union(s.box(0, 0.25, 0.035, 0.7), s.ellipse(0, 0.92, 0.3 - 0.15 * c, 0.08))
    return Parts(shade, trim=cut(foot, shade))


def lantern(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, caps, ribs, tassel."""
    wide = 0.62 + 0.2 * a
    globe = intersection(s.ellipse(0, -0.1, wide, 0.58), s.between(-0.6, 0.4))
    caps = s.box(0, -0.1, 0.26 + 0.07 * b, 0.56, 0.03)
    tassel = s.trapezoid(0.42, 0.8 + 0.17 * d, 0.06, 0.12 + 0.05 * d)
    hook = s.ring(0, -0.76, 0.1, 0.13, 0.03)
    ribs = union(outline(s.ellipse(0, -0.1, wide * (0.4 + 0.12 * c), 0.6), 0.014), s.box(0, -0.1, 0.014, 0.5))
    return Parts(globe, trim=union(cut(caps, globe), tassel, hook), ink=ribs)


def candle_holder(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: spread, candles, arms, foot."""
    x, top = 0.58 + 0.1 * a, -0.6 - 0.12 * b
    candles = union(
        s.folded.box(x, (top - 0.05) / 2, 0.12, (-0.05 - top) / 2), s.box(0, (top - 0.3) / 2, 0.12, (0.1 - top) / 2)
    )
    arm = intersection(s.folded.ring(x / 2, 0.02, x / 2, 0.3 + 0.1 * c, 0.045), s.below(0.0))
    cups = union(s.folded.box(x, 0.0, 0.2, 0.05), s.box(0, -0.08, 0.18, 0.05))
    stem = s.turned((-0.1, 0.06), (0.3, 0.1), (0.75, 0.06), (0.86, 0.34 + 0.08 * d), (0.95, 0.38 + 0.08 * d))
    flames = union(s.folded.ellipse(x, top - 0.12, 0.06, 0.12), s.ellipse(0, top - 0.34, 0.06, 0.12))
    return Parts(candles, trim=union(cut(arm, cups), cups, stem, flames))


def light_bulb(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: size, neck, screw, filament."""
    radius = 0.58 + 0.08 * a
    glass = union(s.disc(0, -0.36, radius), s.turned((-0.2, radius * 0.9), (0.4, 0.28 + 0.05 * b)))
    low = 0.74 + 0.1 * c
    screw = union(s.box(0, (0.4 + low) / 2, 0.27 + 0.04 * b, (low - 0.4) / 2, 0.05), s.box(0, low + 0.05, 0.13, 0.07))
    thread = intersection(outline(np.abs(s.y - (0.4 + low) / 2) - 0.08, 0.02), screw)
    wire = union(s.folded.capsule(0.08, 0.35, 0.2 + 0.06 * d, -0.35, 0.02), s.capsule(-0.2, -0.35, 0.2, -0.35, 0.025))
    return Parts(glass, trim=screw, ink=union(thread, wire))


def torch(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: head, grip, length, switch."""
    head, grip, end = 0.42 + 0.08 * a, 0.2 + 0.04 * b, 0.85 + 0.12 * c
    barrel = s.box((end - 0.45) / 2, 0, (end + 0.45) / 2, grip, 0.05)
    cone = s.polygon((-0.68, -head), (-0.3, -grip), (-0.3, grip), (-0.68, head))
    lens = s.box(-0.8, 0, 0.14, head + 0.02, 0.05)
    switch = s.box(0.05 + 0.1 * d, -grip, 0.13, 0.06)
    rings = union(*(s.box(end - x, 0, 0.02, grip) for x in (0.12, 0.24, 0.36)))
    return Parts(union(barrel, cone), trim=union(lens, switch), ink=rings)


LIGHTING: dict[str, Silhouette] = {
    "Table lamp": table_lamp,
    "Desk lamp": desk_lamp,
    "Pendant lamp": pendant_lamp,
    "Chandelier": chandelier,
    "Wall lamp": wall_lamp,
    "Floor lamp": floor_lamp,
    "Lantern": lantern,
    "Candle holder": candle_holder,
    "Light bulb": light_bulb,
    "Torch": torch,
}
