"""Silhouettes of home decor."""

from __future__ import annotations

import math

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def cushion(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: aspect, pinch, piping, tassels."""
    half, high = 0.78 + 0.1 * a, 0.78 - 0.12 * a
    pinch = 0.1 + 0.07 * b
    u, v = s.x / half, s.y / high
    pad = intersection(np.abs(u) - 1 + pinch * (1 - v * v), np.abs(v) - 1 + pinch * (1 - u * u)) * 0.78
    tassel = Plane(np.abs(s.x), np.abs(s.y)).disc(half, high, 0.09 + 0.05 * d)
    return Parts(pad, trim=union(outline(pad, 0.035 + 0.015 * c), cut(tassel, pad)))


def curtain(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: opening, tie height, gathering, hem."""
    tie, hem = 0.2 + 0.16 * b, 0.84 + 0.1 * d
    inner = np.interp(s.y, (-0.8, tie, hem), (0.08 + 0.06 * a, 0.56 + 0.12 * c, 0.34 + 0.1 * a)).astype(np.float32)
    panel = intersection(inner - s.folded.x, s.folded.x - 0.9, s.between(-0.82, hem))
    rod = union(s.box(0, -0.86, 0.97, 0.04), s.folded.disc(0.98, -0.86, 0.08))
    fold = (0.9 - s.folded.x) / np.maximum(0.9 - inner, 0.1) * 3.5
    folds = intersection((np.abs(fold - np.rint(fold)) - 0.06) / 6, panel)
    return Parts(panel, trim=union(rod, intersection(s.between(tie - 0.06, tie + 0.06), panel)), ink=folds)


def rug(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: aspect, roundness, border, fringe."""
    high = 0.56 + 0.14 * a
    field = s.box(0, 0, 0.86, high, 0.04 + high * max(0.0, 0.9 * b))
    border = outline(field + 0.16 + 0.04 * c, 0.035 + 0.02 * c)
    thread = s.y * 9
    threads = (np.abs(thread - np.rint(thread)) - 0.28) / 9
    fringe = intersection(s.box(0, 0, 0.95 + 0.04 * d, high * (0.97 - 0.7 * max(0.0, b))), threads)
    return Parts(field, trim=union(cut(fringe, field), border))


def vase(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: belly, belly height, neck, lip."""
    belly, middle, neck = 0.48 + 0.14 * a, 0.2 + 0.25 * b, 0.17 + 0.07 * c
    body = s.turned(
        (-0.88, neck + 0.02),
        (middle - 0.68, neck),
        (middle - 0.25, belly * 0.85),
        (middle, belly),
        (middle + 0.22, belly * 0.88),
        (0.92, 0.24),
    )
    lip = s.box(0, -0.88, neck + 0.1 + 0.06 * d, 0.06, 0.05)
    return Parts(body, trim=union(lip, s.box(0, 0.9, 0.28, 0.05)))


def plant_pot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: pot width, taper, leaf spread, leaf height."""
    half = 0.5 + 0.1 * a
    pot = s.trapezoid(0.12, 0.92, half, half * (0.68 + 0.2 * b))
    rim = s.box(0, 0.12, half + 0.06, 0.09)
    spread, top = 0.42 + 0.2 * c, -0.6 - 0.15 * d
    leaf = union(
        s.capsule(0, 0.1, 0, top - 0.2, 0.07, 0.13),
        s.folded.capsule(0.05, 0.1, spread, top + 0.1, 0.05, 0.14),
        s.folded.capsule(0.05, 0.1, spread + 0.2, top + 0.5, 0.05, 0.1),
    )
    return Parts(union(pot, rim), trim=cut(leaf, rim), ink=s.box(0, 0.225, half, 0.016))


def basket(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, taper, handle, rim."""
    half = 0.7 + 0.08 * a
    body = s.trapezoid(-0.2, 0.85, half, half - 0.16 - 0.1 * b) - 0.03
    rim = s.box(0, -0.2, half + 0.06, 0.07 + 0.02 * d, 0.05)
    handle = intersection(s.ring(0, -0.2, half - 0.1, 0.62 + 0.12 * c, 0.05), s.above(-0.2))
    row = s.y * 6
    weave = s.x * 5 + 0.5 * np.mod(np.rint(row), 2)
    cane = union((np.abs(np.abs(row - np.rint(row)) - 0.5) - 0.06) / 6, (np.abs(weave - np.rint(weave)) - 0.07) / 5)
    return Parts(body, trim=union(rim, handle), ink=intersection(cane, body, s.below(-0.1)))


def wall_clock(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: roundness, rim, hour hand, minute hand."""
    face = s.box(0, 0, 0.9, 0.9, 0.55 + 0.45 * a)
    rim = outline(face + 0.05, 0.06 + 0.03 * b)
    ticks = union(s.folded.box(0.68, 0, 0.06, 0.025), Plane(s.x, np.abs(s.y)).box(0, 0.68, 0.025, 0.06))
    hour = s.capsule(0, 0, 0.38 * math.sin(1.5 * c), -0.38 * math.cos(1.5 * c), 0.045)
    minute = s.capsule(0, 0, 0.55 * math.sin(2.5 + d), -0.55 * math.cos(2.5 + d), 0.03)
    return Parts(face, trim=rim, ink=union(ticks, hour, minute))


def alarm_clock(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: size, bells, hour hand, minute hand."""
    radius, bell = 0.6 + 0.05 * a, 0.24 + 0.05 * b
    face = s.disc(0, 0.15, radius)
    bells = cut(s.folded.disc(0.42, -0.52, bell), s.folded.capsule(0.1, -0.2, 0.7, -0.32, 0.12))
    legs = s.folded.capsule(0.36, 0.6, 0.5, 0.92, 0.06)
    loop = s.ring(0, -0.62, 0.12, 0.14, 0.04)
    hour = s.capsule(0, 0.15, 0.3 * math.sin(1.5 * c), 0.15 - 0.3 * math.cos(1.5 * c), 0.045)
    minute = s.capsule(0, 0.15, 0.42 * math.sin(2.5 + d), 0.15 - 0.42 * math.cos(2.5 + d), 0.03)
    return Parts(
        face, trim=union(outline(face + 0.05, 0.07), cut(union(bells, legs, loop), face)), ink=union(hour, minute)
    )


def hourglass(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, waist, plates, sand."""
    half, waist = 0.46 + 0.07 * a, 0.07 + 0.03 * b
    glass = s.turned((-0.78, half), (-0.42, half - 0.03), (0, waist), (0.42, half - 0.03), (0.78, half))
    plate = half + 0.12 + 0.04 * c
    ends = union(s.box(0, -0.86, plate, 0.09), s.box(0, 0.86, plate, 0.09))
    posts = s.folded.box(plate - 0.06, 0, 0.04, 0.85)
    sand = intersection(glass + 0.06, s.below(0.5 - 0.14 * d), 0.35 - 0.14 * d + 0.5 * np.abs(s.x) - s.y)
    return Parts(
        glass, trim=union(ends, posts), ink=union(intersection(s.between(-0.35, -0.32), glass), outline(sand, 0.014))
    )


def picture_frame(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: aspect, frame, mat, picture."""
    half, high, wide = 0.72 + 0.16 * a, 0.86 - 0.1 * a, 0.09 + 0.03 * b
    frame = s.box(0, 0, half, high, 0.02)
    inner = s.box(0, 0, half - 0.24 - 0.05 * c, high - 0.24 - 0.05 * c, 0.01)
    hill = s.skyline((-0.5, 0.4), (-0.15 + 0.12 * d, -0.1), (0.1, 0.25), (0.28, 0.05), (0.5, 0.4))
    return Parts(
        frame,
        trim=outline(frame + wide, wide),
        ink=union(outline(inner, 0.018), intersection(outline(hill, 0.016), inner)),
    )


def wreath(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: leaves, opening, bow, berries."""
    quarter, leaf = Plane(np.abs(s.x), np.abs(s.y)), 0.25 + 0.03 * a
    leaves = union(*(quarter.disc(0.68 * x, 0.68 * y, leaf) for x, y in ((1, 0), (0.866, 0.5), (0.5, 0.866), (0, 1))))
    ring = cut(union(leaves, s.ring(0, 0, 0.66, 0.66, 0.16)), s.disc(0, 0, 0.42 + 0.05 * b))
    wide = 0.34 + 0.08 * c
    bow = s.folded.polygon((0, 0.6), (wide, 0.46), (wide, 0.86), (0, 0.72))
    tails = s.folded.capsule(0.03, 0.66, 0.2, 0.98, 0.06)
    berries = union(quarter.disc(0.46, 0.5, 0.06 + 0.02 * d), quarter.disc(0.66, 0.18, 0.05 + 0.02 * d))
    return Parts(ring, trim=union(bow, tails, s.disc(0, 0.66, 0.11)), ink=union(berries, outline(bow, 0.014)))


def candle(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, height, flame, label."""
    half, top = 0.5 + 0.08 * a, -0.2 - 0.14 * b
    jar = s.box(0, (top + 0.92) / 2, half, (0.92 - top) / 2, 0.1)
    flame = union(
        s.ellipse(0, top - 0.32, 0.11, 0.18 + 0.05 * c),
        s.polygon((0, top - 0.68 - 0.06 * c), (0.09, top - 0.35), (-0.09, top - 0.35)),
    )
    wick = s.box(0, top - 0.08, 0.022, 0.12)
    label = outline(s.box(0, (top + 1.0) / 2, half * 0.62, 0.18 + 0.06 * d, 0.02), 0.018)
    return Parts(jar, trim=union(flame, wick, s.box(0, top + 0.02, half + 0.02, 0.06)), ink=label)


DECOR: dict[str, Silhouette] = {
    "Cushion": cushion,
    "Curtain": curtain,
    "Rug": rug,
    "Vase": vase,
    "Plant pot": plant_pot,
    "Basket": basket,
    "Wall clock": wall_clock,
    "Alarm clock": alarm_clock,
    "Hourglass": hourglass,
    "Picture frame": picture_frame,
    "Wreath": wreath,
    "Candle": candle,
}
