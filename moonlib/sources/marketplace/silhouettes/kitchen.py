"""Silhouettes of kitchenware."""

from __future__ import annotations

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def mug(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, taper, handle size, handle thickness."""
    half, high = 0.52, 0.62 + 0.18 * a
    cup = s.trapezoid(-high, high, half + 0.08 * max(b, 0), half + 0.14 * min(b, 0)) - 0.04
    handle = s.ring(half, 0, 0.3 + 0.1 * c, 0.34 + 0.1 * c, 0.07 + 0.025 * d)
    rim = s.box(0, -high, half + 0.08 * max(b, 0) + 0.03, 0.06)
    return Parts(cup, trim=union(cut(handle, cup), rim))


def wine_glass(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: bowl width, bowl depth, stem, rim."""
    bowl, depth = 0.42 + 0.1 * a, 0.12 + 0.2 * b
    body = s.turned(
        (-0.95, bowl * (0.75 + 0.2 * d)), (-0.5, bowl), (-0.25, bowl * 0.93), (depth - 0.12, bowl * 0.45), (depth, 0.06)
    )
    base = 0.32 + 0.08 * c
    stem = s.turned((depth - 0.04, 0.06), (0.4, 0.045), (0.82, 0.06), (0.9, base), (0.97, base))
    return Parts(body, trim=stem, ink=intersection(outline(s.above(-0.6 + 0.2 * d), 0.016), body))


def teapot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: roundness, spout, handle, lid."""
    high = 0.48 + 0.12 * a
    pot = s.ellipse(0, 0.2, 0.58, high)
    spout = s.capsule(-0.35, 0.3, -0.85 - 0.08 * b, -0.25 - 0.15 * b, 0.18, 0.07)
    handle = cut(s.ring(0.58, 0.1, 0.28 + 0.08 * c, 0.32 + 0.08 * c, 0.06), pot)
    lid = union(s.ellipse(0, 0.22 - high, 0.3, 0.1 + 0.05 * d), s.disc(0, 0.08 - high - 0.06 * d, 0.09 + 0.02 * d))
    foot = s.box(0, 0.2 + high, 0.3, 0.05)
    return Parts(union(pot, spout), trim=union(handle, lid, foot))


def kettle(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, belly, spout, handle."""
    top, half = -0.2 - 0.16 * a, 0.66 + 0.06 * b
    pot = s.turned((top, 0.28), (top + 0.14, 0.46 + 0.05 * b), (0.7, half), (0.85, half - 0.06))
    spout = s.capsule(0.42, 0.4, 0.86 + 0.06 * c, -0.05 - 0.14 * c, 0.17, 0.07)
    handle = intersection(s.ring(0, top + 0.12, 0.46, 0.56 + 0.1 * d, 0.06), s.above(top + 0.12))
    lid = union(s.box(0, top, 0.3, 0.06), s.disc(0, top - 0.12, 0.09))
    return Parts(union(pot, spout), trim=union(cut(handle, pot), lid), ink=s.box(0, 0.68, half, 0.018))


def jug(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: neck, belly, handle, lip."""
    neck, belly = 0.28 + 0.07 * a, 0.48 + 0.09 * b
    body = s.turned((-0.82, neck + 0.06), (-0.4, neck), (0.2, belly), (0.65, belly * 0.92), (0.92, belly * 0.7))
    lip = s.polygon((-neck - 0.3 - 0.08 * d, -0.88), (-neck + 0.2, -0.86), (-neck + 0.1, -0.5))
    handle = cut(s.ring(neck + 0.12, -0.28, 0.3 + 0.07 * c, 0.42, 0.06), body)
    foot = s.box(0, 0.92, belly * 0.72, 0.05)
    return Parts(union(body, lip), trim=union(handle, foot), ink=intersection(outline(s.above(-0.3), 0.016), body))


def frying_pan(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: pan size, roundness, handle length, handle width. Seen from above."""
    radius = 0.55 + 0.06 * a
    pan = s.ellipse(-0.35, 0.2, radius, radius * (0.9 + 0.1 * b))
    handle = s.capsule(0.05, -0.12, 0.7 + 0.15 * c, -0.62 - 0.12 * c, 0.07 + 0.02 * d, 0.1 + 0.03 * d)
    hole = s.disc(0.68 + 0.15 * c, -0.6 - 0.12 * c, 0.04)
    return Parts(pan, trim=cut(handle, pan, hole), ink=outline(pan + 0.12, 0.022))


def stockpot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, width, handles, lid."""
    half, high = 0.64 + 0.08 * b, 0.42 + 0.1 * a
    pot = s.box(0, 0.85 - high, half, high, 0.1)
    top = 0.85 - 2 * high
    ears = cut(s.folded.ring(half + 0.04, top + 0.3, 0.18 + 0.04 * c, 0.11, 0.05), pot)
    lid = intersection(s.ellipse(0, top, half + 0.04, 0.24 + 0.07 * d), s.above(top + 0.03))
    knob = s.box(0, top - 0.3 - 0.07 * d, 0.13, 0.06, 0.05)
    return Parts(union(pot, lid), trim=union(ears, knob), ink=s.box(0, top + 0.02, half + 0.04, 0.026))


def water_bottle(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: girth, shoulder, cap, waist."""
    half, shoulder = 0.32 + 0.09 * a, -0.38 + 0.16 * b
    neck = 0.16 + 0.05 * c
    body = s.turned(
        (-0.72, neck),
        (shoulder - 0.1, neck + 0.02),
        (shoulder + 0.12, half),
        (0.25, half - 0.05 - 0.06 * d),
        (0.6, half),
        (0.95, half - 0.03),
    )
    cap = s.box(0, -0.78, neck + 0.05, 0.16 + 0.05 * c, 0.06)
    loop = s.ring(0, -0.95, 0.1, 0.1, 0.03)
    return Parts(body, trim=union(cap, loop), ink=s.box(0, 0.9, half, 0.015))


def travel_mug(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, taper, lid, sleeve."""
    half, foot = 0.42 + 0.06 * a, 0.3 + 0.06 * b
    cup = s.trapezoid(-0.62, 0.96, half, foot)
    lid = union(s.box(0, -0.66, half + 0.05, 0.08), s.trapezoid(-0.86 - 0.07 * c, -0.68, half - 0.14, half - 0.02))
    sleeve = intersection(cup - 0.03, s.between(-0.15 - 0.14 * d, 0.45 + 0.1 * d))
    sip = s.box(half * 0.4, -0.9 - 0.07 * c, 0.1, 0.05)
    return Parts(cup, trim=union(lid, sleeve, sip), ink=intersection(outline(sleeve, 0.014), cup))


def lunch_box(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, roundness, lid, handle."""
    high = 0.48 + 0.08 * a
    case = s.box(0, 0.2, 0.9, high, 0.16 + 0.1 * b)
    line = 0.2 - high * (0.3 + 0.14 * c)
    clips = s.folded.box(0.48, line, 0.09, 0.14)
    handle = outline(s.box(0, 0.2 - high, 0.32 + 0.06 * d, 0.2 + 0.05 * d, 0.12), 0.05)
    return Parts(case, trim=union(cut(handle, case), clips), ink=s.box(0, line, 0.9, 0.025))


def bowl(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: depth, foot, rim, curve."""
    depth = 0.78 + 0.22 * a
    dish = intersection(s.ellipse(0, -0.35, 0.92 + 0.05 * d, depth), s.below(-0.35))
    foot = s.trapezoid(depth - 0.42, depth - 0.2 + 0.08 * b, 0.28, 0.34 + 0.08 * b)
    rim = s.ellipse(0, -0.35, 0.94 + 0.05 * d, 0.14 + 0.07 * c)
    return Parts(cut(dish, rim), trim=union(cut(foot, dish + 0.02), rim), ink=outline(rim + 0.05, 0.014))


def plate(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: roundness, rim, well, line. Seen from above."""
    disc = s.ellipse(0, 0, 0.94, 0.88 + 0.06 * a)
    rim = outline(disc + 0.1 + 0.02 * b, 0.06 + 0.025 * b)
    well = outline(disc + 0.34 + 0.06 * c, 0.016)
    return Parts(disc, trim=rim, ink=union(well, outline(disc + 0.25 + 0.03 * d, 0.01)))


def chopping_board(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, handle, groove. Seen from above."""
    half = 0.56 + 0.1 * a
    board = s.box(0, 0.2, half, 0.74, 0.14 + 0.1 * b)
    handle = s.box(0, -0.7, 0.17 + 0.03 * c, 0.26, 0.12)
    hole = s.disc(0, -0.8, 0.07)
    groove = outline(board + 0.12 + 0.03 * d, 0.02)
    return Parts(cut(union(board, handle), hole), trim=outline(hole - 0.02, 0.03), ink=groove)


def kitchen_knife(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: blade height, tip, handle length, handle width."""
    high, grip = 0.24 + 0.06 * a, 0.36 + 0.05 * c
    blade = s.polygon((-0.3, -0.2), (0.55 - 0.15 * b, -0.2), (0.98, high - 0.12), (0.85, high), (-0.26, high))
    handle = s.box(-0.3 - grip, -0.08, grip, 0.12 + 0.03 * d, 0.08)
    rivets = union(*(s.disc(-0.3 - grip * k, -0.08, 0.035) for k in (0.4, 1.0, 1.6)))
    edge = intersection(outline(s.above(high - 0.1), 0.012), blade)
    return Parts(blade, trim=handle, ink=union(rivets, edge))


KITCHEN: dict[str, Silhouette] = {
    "Mug": mug,
    "Wine glass": wine_glass,
    "Teapot": teapot,
    "Kettle": kettle,
    "Jug": jug,
    "Frying pan": frying_pan,
    "Stockpot": stockpot,
    "Water bottle": water_bottle,
    "Travel mug": travel_mug,
    "Lunch box": lunch_box,
    "Bowl": bowl,
    "Plate": plate,
    "Chopping board": chopping_board,
    "Kitchen knife": kitchen_knife,
}
