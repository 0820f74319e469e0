"""Silhouettes of shoes."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def sneaker(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: sole, ankle, toe, slope."""
    sole, ankle, toe = 0.13 + 0.06 * a, -0.42 - 0.2 * b, 0.12 + 0.12 * c
    upper = s.skyline(
        (-0.88, ankle),
        (-0.55, ankle + 0.1),
        (-0.25, ankle + 0.02),
        (0.25 + 0.12 * d, toe - 0.1),
        (0.7, toe),
        (0.92, 0.4),
    )
    upper = intersection(upper, s.above(0.5))
    laces = [
        s.capsule(x, ankle + 0.24 + 0.4 * (x + 0.3), x + 0.16, ankle + 0.1 + 0.4 * (x + 0.3), 0.025)
        for x in (-0.2, 0, 0.2)
    ]
    toe_cap = intersection(upper, s.disc(0.95, 0.5, 0.32))
    heel = intersection(upper, s.box(-0.9, 0, 0.16, 0.8))
    return Parts(upper, trim=union(s.box(0, 0.48, 0.98, sole, 0.12), toe_cap, heel), ink=union(*laces))


def high_top(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shaft height, shaft width, toe, sole."""
    top, front, toe = -0.74 - 0.16 * a, -0.12 + 0.1 * b, 0.22 + 0.08 * c
    upper = s.skyline((-0.78, top), (front, top + 0.06), (front + 0.14, -0.2), (0.36, 0.08), (0.76, toe), (0.94, 0.5))
    upper = intersection(upper, s.above(0.56))
    laces = [s.capsule(front - 0.06 + x, y, front + 0.12 + x, y - 0.07, 0.025) for x, y in ((0, -0.48), (0.02, -0.24))]
    laces.append(s.capsule(front + 0.16, 0.02, front + 0.3, -0.1, 0.025))
    toe_cap, patch = intersection(upper, s.disc(0.98, 0.56, 0.36)), s.disc(front - 0.34, -0.3, 0.15)
    sole = s.box(0.06, 0.58, 0.92, 0.1 + 0.05 * d, 0.1)
    return Parts(upper, trim=union(sole, toe_cap, patch), ink=union(*laces))


def boot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shaft height, shaft width, heel, toe."""
    top, front, heel = -0.7 - 0.25 * a, 0.02 + 0.14 * b, 0.12 + 0.08 * c
    upper = s.skyline(
        (-0.62, top), (front, top), (front + 0.06, 0.12), (0.55, 0.32), (0.72 + 0.12 * d, 0.52), (0.78 + 0.12 * d, 0.7)
    )
    upper = intersection(upper, s.above(0.72))
    sole = union(s.box(0.06 + 0.06 * d, 0.72, 0.72 + 0.06 * d, 0.06), s.box(-0.42, 0.72 + heel, 0.22, heel + 0.06))
    ink = union(
        s.capsule(front + 0.02, -0.1, front - 0.2, -0.04, 0.02), s.capsule(front + 0.03, 0.06, front - 0.18, 0.1, 0.02)
    )
    return Parts(upper, trim=union(sole, intersection(upper, s.above(top + 0.14))), ink=ink)


def rain_boot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shaft height, shaft width, toe, sole."""
    top, front, toe = -0.78 - 0.16 * a, 0.1 + 0.1 * b, 0.85 + 0.08 * c
    upper = s.skyline((-0.66, top), (front, top + 0.08), (front, 0.05), (0.5, 0.2), (toe - 0.1, 0.36), (toe, 0.75))
    upper = intersection(upper, s.above(0.74))
    sole = s.box((toe - 0.66) / 2, 0.82 + 0.03 * d, (toe + 0.7) / 2, 0.13 + 0.03 * d, 0.05)
    tread = s.x * 6
    treads = intersection((np.abs(tread - np.rint(tread)) - 0.12) / 6, sole, s.below(0.82))
    band = intersection(upper, s.above(top + 0.22))
    toe_cap = intersection(upper, s.disc(toe, 0.78, 0.3))
    return Parts(upper, trim=union(sole, band, toe_cap), ink=treads)


def high_heel(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: heel height, heel width, toe, ankle strap."""
    rise, tip = 0.62 + 0.22 * a, 0.85 + 0.12 * c
    back = 0.6 - rise
    upper = s.skyline(
        (-0.82, back - 0.22), (-0.7, back - 0.18), (-0.3, back + 0.2), (0.35, 0.32), (0.6, 0.3), (tip, 0.58)
    )
    upper = intersection(upper, s.above(0.64))
    arch = s.skyline((-0.9, back + 0.2), (-0.5, back + 0.24), (0.2, 0.64), (tip, 0.66))
    heel = s.polygon((-0.82, back), (-0.5, back), (-0.66 + 0.1 * b, 0.66), (-0.78 - 0.05 * b, 0.66))
    strap = s.ring(-0.55, back - 0.3 - 0.1 * d, 0.26, 0.1, 0.035)
    return Parts(cut(upper, arch), trim=union(heel, strap))


def wedge(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, platform, toe strap, ankle strap."""
    back, front = 0.0 - 0.2 * a, 0.6 - 0.08 * b
    sole = intersection(
        s.skyline((-0.88, back), (-0.6, back + 0.02), (0.3, front), (0.95, front + 0.06)), s.above(0.85)
    )
    toe = s.skyline(
        (0.05 - 0.1 * c, front - 0.3), (0.25, front - 0.42 - 0.08 * c), (0.7, front - 0.2), (0.9, front + 0.1)
    )
    counter = s.polygon((-0.88, back - 0.42), (-0.64, back - 0.4), (-0.5, back + 0.1), (-0.88, back + 0.08))
    strap = s.ring(-0.52, back - 0.36 - 0.08 * d, 0.34, 0.12, 0.05)
    layers = intersection(outline(s.above(0.7), 0.018), sole)
    toe = intersection(toe, s.above(front + 0.1))
    return Parts(union(cut(toe, sole), cut(counter, sole)), trim=union(sole, strap), ink=layers)


def loafer(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: heel, tongue, toe, strap."""
    tongue = -0.16 - 0.1 * b
    upper = s.skyline(
        (-0.9, 0.02),
        (-0.66, 0.0),
        (-0.35, 0.16),
        (0.02, tongue),
        (0.2, tongue + 0.04),
        (0.7, 0.16 + 0.08 * c),
        (0.95, 0.46),
    )
    upper = intersection(upper, s.above(0.56))
    sole = union(s.box(0.02, 0.59, 0.95, 0.06), s.box(-0.62, 0.66 + 0.04 * a, 0.3, 0.09 + 0.05 * a))
    band = intersection(s.capsule(0.02, 0.36, 0.5 + 0.06 * d, 0.08, 0.11 + 0.02 * d), upper)
    slot = s.capsule(0.18, 0.25, 0.34, 0.15, 0.03)
    apron = intersection(outline(s.ellipse(0.5, 0.4, 0.42, 0.3), 0.016), upper)
    return Parts(upper, trim=union(sole, band), ink=union(slot, cut(apron, band)))


def ballet_flat(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: length, width, opening, bow. Seen from above."""
    heel, ball, tip = 0.27 + 0.05 * b, 0.36 + 0.06 * b, -0.5 - 0.12 * a
    shoe = union(s.capsule(0, 0.62 + 0.08 * a, 0, -0.3, heel, ball), s.ellipse(0, tip, ball - 0.07, 0.36))
    opening = s.capsule(0, 0.6 + 0.06 * a, 0, -0.12 - 0.1 * c, heel - 0.08, ball - 0.12)
    at = -0.5 - 0.12 * c
    wide = 0.2 + 0.06 * d
    bow = union(
        s.folded.polygon((0, at - 0.03), (wide, at - 0.1), (wide, at + 0.1), (0, at + 0.03)), s.disc(0, at, 0.06)
    )
    return Parts(cut(shoe, opening), trim=union(opening, bow), ink=union(outline(bow, 0.014), outline(opening, 0.016)))


def slipper(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: length, width, strap, toe. Seen from above."""
    heel, ball = 0.26 + 0.06 * b, 0.4 + 0.08 * b
    sole = union(
        s.capsule(0, 0.58 + 0.1 * a, 0, -0.4 - 0.15 * a, heel, ball),
        s.ellipse(0.1 * d, -0.62 - 0.1 * a, ball - 0.06, 0.3),
    )
    strap = intersection(s.between(-0.5 - 0.1 * c, 0.02 + 0.14 * c), s.box(0, -0.2, ball + 0.09, 1, 0.1))
    inner = outline(sole + 0.08, 0.016)
    return Parts(strap, trim=sole, ink=cut(inner, strap))


def sandal(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: sole, toe strap, ankle strap, instep."""
    sole = s.box(0, 0.6, 0.95, 0.09 + 0.05 * a, 0.1)
    toe = cut(s.ellipse(0.5, 0.6, 0.36, 0.42 + 0.1 * b), s.ellipse(0.64 + 0.06 * b, 0.6, 0.26, 0.3))
    instep = s.capsule(-0.02, 0.5, 0.2 + 0.1 * d, 0.0, 0.09)
    over = s.capsule(0.2 + 0.1 * d, 0.0, -0.58, -0.24 - 0.14 * c, 0.08)
    counter = s.capsule(-0.78, 0.5, -0.72, -0.22 - 0.14 * c, 0.11)
    ankle = s.ring(-0.48, -0.28 - 0.14 * c, 0.34, 0.13, 0.06)
    straps = intersection(union(toe, instep, over, counter, ankle), s.above(0.6))
    buckle = outline(s.box(-0.2, -0.22 - 0.14 * c, 0.08, 0.09), 0.03)
    return Parts(cut(straps, sole), trim=sole, ink=buckle)


def flip_flop(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: length, width, strap, toe. Seen from above."""
    heel, ball = 0.28 + 0.05 * b, 0.38 + 0.07 * b
    sole = union(
        s.capsule(0, 0.62 + 0.08 * a, 0, -0.35 - 0.1 * a, heel, ball),
        s.ellipse(0.08 * d, -0.58 - 0.1 * a, ball - 0.05, 0.3),
    )
    post, end = -0.52 - 0.1 * a, 0.12 + 0.12 * c
    strap = s.folded.capsule(0, post, ball - 0.03, end, 0.06, 0.09)
    return Parts(sole, trim=union(strap, s.disc(0, post, 0.1)), ink=outline(sole + 0.07, 0.014))


SHOES: dict[str, Silhouette] = {
    "Sneaker": sneaker,
    "High-top": high_top,
    "Boot": boot,
    "Rain boot": rain_boot,
    "High heel": high_heel,
    "Wedge": wedge,
    "Loafer": loafer,
    "Ballet flat": ballet_flat,
    "Slipper": slipper,
    "Sandal": sandal,
    "Flip-flop": flip_flop,
}
