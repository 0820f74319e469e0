"""Silhouettes of bags."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def handbag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, taper, handle, flap."""
    top, wide = -0.15 - 0.18 * a, 0.78
    body = s.trapezoid(top, 0.8, wide - 0.14 - 0.14 * b, wide) - 0.05
    handle = intersection(s.ring(0, top, 0.4 + 0.1 * d, 0.5 + 0.2 * c, 0.055), s.above(top))
    flap = outline(s.ellipse(0, top - 0.1, wide, 0.5 + 0.15 * d), 0.02)
    clasp = s.box(0, top + 0.42 + 0.15 * d, 0.08, 0.07)
    return Parts(body, trim=union(handle, clasp), ink=intersection(flap, body + 0.03))


def tote_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, taper, handle length, handle spread."""
    half, reach = 0.6 + 0.1 * a, 0.55 + 0.2 * c
    body = s.trapezoid(-0.2, 0.9, half, half + 0.12 * b)
    spread = 0.28 + 0.1 * d
    handle = intersection(outline(s.box(0, -0.1, spread, reach, 0.2), 0.05), s.above(0.05))
    return Parts(cut(body, handle), trim=union(handle, s.box(0, -0.16, half - 0.01, 0.03, 0)))


def bucket_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, taper, strap, base."""
    half = 0.54 + 0.08 * a
    body = s.turned((-0.34, half - 0.02), (-0.16, half - 0.16), (0.85, half + 0.1 * b), (0.93, half - 0.05))
    strap = intersection(s.ring(0, -0.2, half - 0.12, 0.62 + 0.12 * c, 0.045), s.above(-0.2))
    base = intersection(s.below(0.68 - 0.12 * d), body)
    cord = intersection(s.between(-0.2, -0.12), body)
    ends = s.folded.capsule(0.03, -0.16, 0.12, 0.2, 0.03)
    return Parts(body, trim=union(cut(strap, body), base), ink=union(cord, ends))


def briefcase(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, roundness, handle, flap."""
    high = 0.56 + 0.09 * a
    top, seam = 0.22 - high, 0.2 + 0.14 * d
    body = s.box(0, 0.22, 0.95, high, 0.1 + 0.06 * b)
    handle = outline(s.box(0, top, 0.24 + 0.06 * c, 0.2 + 0.05 * c, 0.08), 0.045)
    clasps = s.folded.box(0.5, seam, 0.08, 0.12)
    ink = union(
        s.box(0, seam, 0.95, 0.018), intersection(outline(s.folded.box(0.5, 0, 0.11, 2), 0.012), body, s.above(seam))
    )
    return Parts(body, trim=union(cut(handle, body), clasps), ink=ink)


def backpack(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, pocket, straps."""
    half = 0.52 + 0.1 * a
    body = s.box(0, 0.05, half, 0.82, 0.3 + 0.18 * b)
    pocket = s.box(0, 0.45, half - 0.12, 0.26 + 0.1 * c, 0.12)
    loop = cut(s.ring(0, -0.78, 0.17, 0.17, 0.045), body)
    strap = s.folded.capsule(half + 0.02, -0.2, half + 0.1 + 0.07 * d, 0.6, 0.07)
    zip_line = outline(s.ellipse(0, 0.1, half - 0.1, 0.68), 0.014)
    return Parts(
        cut(body, pocket), trim=union(pocket, loop, cut(strap, body)), ink=intersection(zip_line, s.above(-0.1))
    )


def drawstring_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, gathering, length, cords."""
    half, low = 0.58 + 0.1 * a, 0.82 + 0.1 * c
    gathered = 0.14 + 0.05 * b
    body = s.turned((-0.95, gathered + 0.2), (-0.7, gathered), (-0.45, half - 0.12), (low, half)) - 0.02
    cord = s.folded.capsule(gathered, -0.7, half + 0.16 + 0.06 * d, 0.1, 0.035)
    cord = union(cord, s.folded.capsule(half + 0.16 + 0.06 * d, 0.1, half - 0.05, low - 0.08, 0.035))
    corner = s.folded.polygon((half, low - 0.3), (half + 0.05, low + 0.05), (half - 0.3, low + 0.05))
    folds = union(s.folded.capsule(0.06, -0.62, 0.16, -0.2, 0.016), s.capsule(0, -0.62, 0, -0.3, 0.016))
    return Parts(body, trim=union(cord, intersection(corner, body), s.box(0, -0.7, gathered + 0.03, 0.05)), ink=folds)


def suitcase(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, ridges, handle."""
    half = 0.5 + 0.13 * a
    body = s.box(0, 0.18, half, 0.66, 0.14 + 0.1 * b)
    handle = outline(s.box(0, -0.55, 0.22 + 0.06 * d, 0.35 + 0.1 * d, 0.08), 0.04)
    wheels = s.folded.disc(half - 0.14, 0.88, 0.09)
    ridge = s.x * (3 + c)
    ridges = intersection((np.abs(ridge - np.rint(ridge)) - 0.06) / (3 + c), s.between(-0.36, 0.72))
    return Parts(body, trim=union(cut(handle, body), wheels), ink=ridges)


def duffel_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, roundness, handles, straps."""
    high, apart = 0.44 + 0.08 * a, 0.36 + 0.1 * d
    body = s.box(0, 0.28, 0.97, high, high * (0.7 + 0.28 * b))
    handle = intersection(outline(s.box(0, 0.2 - high, apart, 0.36 + 0.1 * c, 0.2), 0.05), s.above(0.3 - high))
    straps = intersection(s.folded.box(apart, 0.28, 0.06, 1), body)
    zip_line = s.box(0, 0.42 - high, 0.7, 0.022)
    return Parts(body, trim=union(handle, straps, intersection(s.folded.box(0.95, 0.28, 0.09, 1), body)), ink=zip_line)


def messenger_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, flap, strap, buckles."""
    high = 0.46 + 0.08 * a
    middle = 0.92 - high
    body = s.box(0, middle, 0.74, high, 0.1)
    fold = middle + high * (0.35 + 0.25 * b)
    flap = intersection(s.box(0, middle, 0.79, high, 0.12), s.above(fold))
    strap = intersection(s.ring(0, middle - high + 0.1, 0.66, 0.82 + 0.14 * c, 0.06), s.above(middle - high))
    buckles = s.folded.box(0.36 + 0.1 * d, fold, 0.07, 0.16)
    edge = intersection(outline(s.above(fold), 0.02), body)
    return Parts(union(body, flap), trim=union(strap, buckles), ink=edge)


def belt_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, depth, belt, pocket."""
    wide, deep = 0.62 + 0.08 * a, 0.5 + 0.1 * b
    pouch = intersection(s.ellipse(0, -0.12, wide, deep), s.below(-0.2))
    flat = s.box(0, -0.16, wide, 0.12, 0.1)
    belt = s.folded.capsule(wide - 0.08, -0.16, 0.97, -0.28 - 0.14 * c, 0.085)
    buckle = s.box(0.9, -0.26 - 0.12 * c, 0.09, 0.14)
    pocket = intersection(outline(s.ellipse(0, -0.06, wide * 0.7, deep * (0.66 + 0.12 * d)), 0.018), s.below(0.06))
    return Parts(
        union(pouch, flat), trim=union(cut(belt, flat), buckle), ink=union(s.box(0, -0.08, wide - 0.1, 0.022), pocket)
    )


def wallet(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, roundness, flap, clasp."""
    half = 0.5 + 0.12 * a
    body = s.box(0, 0, 0.92, half, 0.1 + 0.08 * b)
    flap = s.box(0, -half, 0.92, half + 0.15 * c, 0.1)
    clasp = s.box(0.5 * d, 0.15 * c + 0.02, 0.1, 0.13, 0.06)
    stitches = intersection(outline(body + 0.09, 0.012), s.below(0.15 * c))
    return Parts(body, trim=clasp, ink=union(intersection(outline(flap, 0.018), body), stitches))


def clutch(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, flap, loop, clasp."""
    high = 0.5 + 0.08 * a
    body = s.box(0, 0.05, 0.9, high, 0.05)
    tip = 0.22 + 0.16 * b
    flap = s.polygon((-0.9, 0.05 - high), (0.9, 0.05 - high), (0, tip))
    clasp = s.disc(0, tip - 0.05, 0.1 + 0.03 * d)
    loop = cut(s.ring(0.98, 0.25, 0.16 + 0.03 * c, 0.34 + 0.08 * c, 0.04), body)
    return Parts(body, trim=union(clasp, loop), ink=outline(flap, 0.022))


BAGS: dict[str, Silhouette] = {
    "Handbag": handbag,
    "Tote bag": tote_bag,
    "Bucket bag": bucket_bag,
    "Briefcase": briefcase,
    "Backpack": backpack,
    "Drawstring bag": drawstring_bag,
    "Suitcase": suitcase,
    "Duffel bag": duffel_bag,
    "Messenger bag": messenger_bag,
    "Belt bag": belt_bag,
    "Wallet": wallet,
    "Clutch": clutch,
}
