"""Silhouettes of cosmetics and what goes with them."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def perfume(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, cap height, taper."""
    half, cap = 0.52 + 0.13 * a, 0.2 + 0.07 * c
    flacon = intersection(
        s.box(0, 0.3, half, 0.62, 0.22 + 0.18 * b), s.trapezoid(-0.32, 0.92, half - 0.14 * d, half + 0.14 * d)
    )
    neck = s.box(0, -0.38, 0.13, 0.12)
    lid = s.box(0, -0.46 - cap, 0.23 + 0.06 * c, cap, 0.05)
    label = outline(s.box(0, 0.38, half * 0.6, 0.24, 0.02), 0.016)
    return Parts(flacon, trim=union(cut(neck, flacon), lid), ink=label)


def nail_polish(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, cap height, cap taper."""
    half, top = 0.42 + 0.07 * a, -0.78 - 0.16 * c
    bottle = s.box(0, 0.5, half, 0.45, 0.2 + 0.12 * b)
    cap = s.trapezoid(top, 0.04, 0.15 - 0.04 * d, 0.24 + 0.03 * d) - 0.02
    return Parts(
        bottle, trim=cap, ink=union(s.box(0, 0.06, 0.2, 0.03), outline(s.box(0, 0.55, half * 0.5, 0.14), 0.014))
    )


def lotion(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, shoulder, pump, label."""
    half, pump = 0.42 + 0.08 * a, -0.68 - 0.1 * c
    bottle = s.turned((-0.22, 0.17), (0.0 + 0.1 * b, half), (0.9, half), (0.96, half - 0.05))
    head = union(s.box(0, -0.28, 0.2, 0.08), s.box(0, (pump - 0.3) / 2, 0.05, (-0.2 - pump) / 2))
    nozzle = union(s.box(-0.12, pump, 0.26, 0.07, 0.04), s.capsule(-0.34, pump, -0.42, pump + 0.12, 0.05))
    label = outline(s.box(0, 0.5, half * 0.66, 0.2 + 0.06 * d, 0.02), 0.018)
    return Parts(bottle, trim=union(head, nozzle), ink=label)


def lipstick(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: girth, bullet height, slant, collar."""
    half, top = 0.26 + 0.06 * a, -0.66 - 0.25 * b
    case = s.box(0, 0.52, half + 0.05, 0.42, 0.03)
    collar = s.box(0, 0, half, 0.17 + 0.05 * d, 0.02)
    bullet = intersection(s.box(0, -0.3, half - 0.06, 0.65, 0.14), top + (0.9 + 0.6 * c) * s.x - s.y)
    return Parts(union(case, bullet), trim=collar, ink=s.box(0, 0.16, half + 0.05, 0.018))


def compact(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, lid, powder, hinge. Lies open."""
    wide, low = 0.7 + 0.07 * a, 0.5
    lid, base = s.ellipse(0, -0.4, wide, 0.52 + 0.06 * b), s.ellipse(0, low, wide, 0.38)
    mirror = s.ellipse(0, -0.4, wide - 0.14, 0.4 + 0.06 * b)
    powder = s.ellipse(0, low, wide * (0.55 + 0.12 * c), 0.22 + 0.05 * c)
    hinge = s.box(0, 0.13, 0.2 + 0.06 * d, 0.06)
    return Parts(
        union(lid, base),
        trim=union(mirror, hinge),
        ink=union(outline(powder, 0.02), s.capsule(-0.25, -0.35, 0.05, -0.62, 0.02)),
    )


def cream_jar(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, roundness, lid height, lid width."""
    high, lid = 0.4 + 0.08 * a, 0.19 + 0.05 * c
    jar = s.box(0, 0.78 - high, 0.78, high, 0.16 + 0.12 * b)
    cap = s.box(0, 0.78 - 2 * high - lid, 0.8 + 0.06 * d, lid, 0.05)
    ridge = s.x * 10
    ridges = intersection((np.abs(ridge - np.rint(ridge)) - 0.08) / 10, cap)
    return Parts(jar, trim=cap, ink=union(ridges, s.box(0, 0.78 - high, 0.4, 0.016)))


def hairbrush(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, handle length, handle width."""
    half, end = 0.4 + 0.06 * a, 0.84 + 0.12 * c
    head = s.box(0, -0.42, half, 0.54, 0.22 + 0.12 * b)
    handle = s.turned((0.05, 0.2), (0.3, 0.09 + 0.02 * d), (end - 0.1, 0.13 + 0.03 * d), (end, 0.06))
    pad = head + 0.1
    x, y = s.x * 7, s.y * 7
    pin_x, pin_y = x - np.rint(x), y - np.rint(y)
    pins = intersection((np.sqrt(pin_x * pin_x + pin_y * pin_y) - 0.2) / 7, pad + 0.06)
    return Parts(union(head, handle), trim=pad, ink=pins)


def hair_dryer(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: barrel, nozzle, handle length, handle lean."""
    radius = 0.32 + 0.04 * a
    barrel = union(
        s.disc(-0.48, -0.42, radius + 0.04),
        s.polygon((-0.5, -0.42 - radius), (0.4, -0.62), (0.4, -0.2), (-0.5, -0.42 + radius)),
    )
    mouth = 0.24 + 0.08 * b
    nozzle = s.polygon((0.4, -0.6), (0.92, -0.42 - mouth), (0.92, -0.42 + mouth), (0.4, -0.24))
    handle = s.capsule(-0.36, -0.2, -0.22 + 0.16 * d, 0.76 + 0.1 * c, 0.17, 0.14)
    ink = union(outline(s.disc(-0.48, -0.42, radius * 0.6), 0.02), s.box(-0.3, 0.18, 0.06, 0.11))
    return Parts(union(barrel, handle), trim=nozzle, ink=ink)


def hand_mirror(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, frame, handle length, handle width."""
    wide, frame = 0.52 + 0.1 * a, 0.12 + 0.035 * b
    head = s.ellipse(0, -0.36, wide, 0.58)
    glass = s.ellipse(0, -0.36, wide - frame, 0.58 - frame)
    handle = s.turned((0.1, 0.12), (0.5, 0.07 + 0.03 * d), (0.85 + 0.1 * c, 0.13 + 0.05 * d), (0.95 + 0.1 * c, 0.06))
    gleam = s.capsule(-0.16, -0.3, 0.08, -0.6, 0.022)
    return Parts(union(cut(head, glass), handle), trim=glass, ink=gleam)


def makeup_brush(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: bristles' width, bristles' length, ferrule, handle."""
    wide, top = 0.32 + 0.07 * a, -0.72 - 0.16 * b
    bristles = union(
        s.ellipse(0, -0.5, wide, -0.5 - top),
        s.polygon((-wide * 0.95, -0.5), (wide * 0.95, -0.5), (0.17, -0.02), (-0.17, -0.02)),
    )
    ferrule = s.trapezoid(-0.06, 0.24 + 0.08 * c, 0.18, 0.13)
    handle = s.turned((0.2, 0.12), (0.45, 0.15 + 0.03 * d), (0.95, 0.06), (0.99, 0.03))
    hairs = s.folded.capsule(0.04, -0.1, wide * 0.55, -0.6, 0.014)
    return Parts(union(bristles, handle), trim=ferrule, ink=union(hairs, s.capsule(0, -0.1, 0, -0.65, 0.014)))


BEAUTY: dict[str, Silhouette] = {
    "Perfume": perfume,
    "Nail polish": nail_polish,
    "Lotion": lotion,
    "Lipstick": lipstick,
    "Compact": compact,
    "Cream jar": cream_jar,
    "Hairbrush": hairbrush,
    "Hair dryer": hair_dryer,
    "Hand mirror": hand_mirror,
    "Makeup brush": makeup_brush,
}
