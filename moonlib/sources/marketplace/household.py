"""Silhouettes of what stands at home: kitchen, lighting, furniture, decor, electronics, beauty and toys."""

from __future__ import annotations

import math

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouette import Parts, Silhouette


def mug(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, taper, handle size, handle thickness."""
    half, high = 0.52, 0.62 + 0.18 * a
    cup = s.trapezoid(-high, high, half + 0.08 * max(b, 0), half + 0.14 * min(b, 0)) - 0.04
    handle = s.ring(half, 0, 0.3 + 0.1 * c, 0.34 + 0.1 * c, 0.07 + 0.025 * d)
    rim = s.box(0, -high, half + 0.08 * max(b, 0) + 0.03, 0.06)
    return Parts(cup, trim=union(cut(handle, cup), rim))


def teapot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: roundness, spout, handle, lid."""
    high = 0.48 + 0.12 * a
    pot = s.ellipse(0, 0.2, 0.58, high)
    spout = s.capsule(-0.35, 0.3, -0.85 - 0.08 * b, -0.25 - 0.15 * b, 0.18, 0.07)
    handle = cut(s.ring(0.58, 0.1, 0.28 + 0.08 * c, 0.32 + 0.08 * c, 0.06), pot)
    lid = union(s.ellipse(0, 0.22 - high, 0.3, 0.1 + 0.05 * d), s.disc(0, 0.08 - high - 0.06 * d, 0.09 + 0.02 * d))
    foot = s.box(0, 0.2 + high, 0.3, 0.05)
    return Parts(union(pot, spout), trim=union(handle, lid, foot))


def frying_pan(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: pan size, roundness, handle length, handle width. Seen from above."""
    radius = 0.55 + 0.06 * a
    pan = s.ellipse(-0.35, 0.2, radius, radius * (0.9 + 0.1 * b))
    handle = s.capsule(0.05, -0.12, 0.7 + 0.15 * c, -0.62 - 0.12 * c, 0.07 + 0.02 * d, 0.1 + 0.03 * d)
    hole = s.disc(0.68 + 0.15 * c, -0.6 - 0.12 * c, 0.04)
    return Parts(pan, trim=cut(handle, pan, hole), ink=outline(pan + 0.12, 0.022))


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


def wine_glass(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: bowl width, bowl depth, stem, rim."""
    bowl, depth = 0.42 + 0.1 * a, 0.12 + 0.2 * b
    body = s.turned(
        (-0.95, bowl * (0.75 + 0.2 * d)), (-0.5, bowl), (-0.25, bowl * 0.93), (depth - 0.12, bowl * 0.45), (depth, 0.06)
    )
    base = 0.32 + 0.08 * c
    stem = s.turned((depth - 0.04, 0.06), (0.4, 0.045), (0.82, 0.06), (0.9, base), (0.97, base))
    return Parts(body, trim=stem, ink=intersection(outline(s.above(-0.6 + 0.2 * d), 0.016), body))


def bowl(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: depth, foot, rim, curve."""
    depth = 0.78 + 0.22 * a
    dish = intersection(s.ellipse(0, -0.35, 0.92 + 0.05 * d, depth), s.below(-0.35))
    foot = s.trapezoid(depth - 0.42, depth - 0.2 + 0.08 * b, 0.28, 0.34 + 0.08 * b)
    rim = s.ellipse(0, -0.35, 0.94 + 0.05 * d, 0.14 + 0.07 * c)
    return Parts(cut(dish, rim), trim=union(cut(foot, dish + 0.02), rim), ink=outline(rim + 0.05, 0.014))


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


def chair(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back width, seat height, legs, back rest."""
    half, seat = 0.42 + 0.07 * a, 0.15 + 0.13 * b
    back = s.box(0, (seat - 0.95) / 2, half, (seat + 0.95) / 2, 0.1 + 0.08 * d)
    gap = s.folded.box(half * 0.42, -0.3 + 0.1 * d, half * 0.24, 0.3 + 0.12 * d, 0.05)
    cushion = s.box(0, seat, half + 0.1, 0.1, 0.06)
    leg = s.folded.capsule(half - 0.02, seat, half + 0.04 + 0.12 * c, 0.95, 0.055, 0.04)
    return Parts(union(cut(back, gap), cushion), trim=cut(leg, cushion))


def sofa(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back height, arm width, legs, roundness."""
    arm, round_ = 0.17 + 0.06 * b, 0.1 + 0.07 * d
    back = s.box(0, 0, 0.82, 0.48 + 0.14 * a, round_ + 0.05)
    arms = s.folded.box(0.98 - arm, 0.18, arm, 0.36, round_)
    seat = s.box(0, 0.28, 0.82, 0.24, 0.06)
    leg = s.folded.capsule(0.75, 0.5, 0.78, 0.64 + 0.12 * c, 0.055, 0.035)
    seams = union(s.box(0, 0.12, 0.014, 0.38), s.box(0, 0.14, 0.96 - 2 * arm, 0.014), outline(arms, 0.014))
    return Parts(union(back, arms, seat), trim=leg, ink=seams)


def table(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, top thickness, leg splay, apron."""
    top, thick = -0.42 - 0.14 * a, 0.08 + 0.035 * b
    board = s.box(0, top, 0.97, thick, 0.05)
    apron = s.box(0, top + 0.14, 0.78, 0.13 + 0.06 * d)
    leg = s.folded.capsule(0.72, top, 0.74 + 0.17 * c, 0.68, 0.075, 0.05)
    return Parts(union(board, apron), trim=cut(leg, board, apron), ink=s.box(0, top + 0.19, 0.1, 0.02))


def bookcase(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, shelves, board thickness, books."""
    half, thick = 0.52 + 0.14 * a, 0.06 + 0.02 * c
    case = s.box(0, 0, half, 0.95)
    shelves = 3 + round(0.5 + 0.5 * b)
    pitch = (1.9 - thick) / shelves
    level = np.mod(s.y + 0.95 - thick / 2, pitch) - pitch / 2
    inside = np.abs(s.x) - (half - thick)
    gap = intersection(inside, np.abs(level) - (pitch - thick) / 2)
    shelf_books = intersection(
        np.abs(s.x + half * 0.4 * d) - half * 0.45,
        np.abs(level - 0.06) - (pitch - thick) / 2 + 0.06,
        s.between(-0.9, 0.9),
    )
    spine = s.x * 9
    spines = (np.abs(spine - np.rint(spine)) - 0.12) / 9
    return Parts(cut(case, gap), trim=intersection(shelf_books, inside), ink=intersection(spines, shelf_books))


def stool(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: seat width, seat thickness, splay, rung."""
    half = 0.55 + 0.12 * a
    seat = s.box(0, -0.55, half, 0.16 + 0.07 * b, 0.14)
    foot = half * 0.85 + 0.16 * c
    leg = s.folded.capsule(half * 0.6, -0.5, foot, 0.85, 0.065, 0.05)
    rung = s.box(0, 0.3 + 0.2 * d, (half * 0.6 + foot) / 2, 0.04)
    return Parts(seat, trim=cut(union(leg, rung), seat))


def cushion(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: aspect, pinch, piping, tassels."""
    half, high = 0.78 + 0.1 * a, 0.78 - 0.12 * a
    pinch = 0.1 + 0.07 * b
    u, v = s.x / half, s.y / high
    pad = intersection(np.abs(u) - 1 + pinch * (1 - v * v), np.abs(v) - 1 + pinch * (1 - u * u)) * 0.78
    tassel = Plane(np.abs(s.x), np.abs(s.y)).disc(half, high, 0.09 + 0.05 * d)
    return Parts(pad, trim=union(outline(pad, 0.035 + 0.015 * c), cut(tassel, pad)))


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


def wall_clock(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: roundness, rim, hour hand, minute hand."""
    face = s.box(0, 0, 0.9, 0.9, 0.55 + 0.45 * a)
    rim = outline(face + 0.05, 0.06 + 0.03 * b)
    ticks = union(s.folded.box(0.68, 0, 0.06, 0.025), Plane(s.x, np.abs(s.y)).box(0, 0.68, 0.025, 0.06))
    hour = s.capsule(0, 0, 0.38 * math.sin(1.5 * c), -0.38 * math.cos(1.5 * c), 0.045)
    minute = s.capsule(0, 0, 0.55 * math.sin(2.5 + d), -0.55 * math.cos(2.5 + d), 0.03)
    return Parts(face, trim=rim, ink=union(ticks, hour, minute))


def rug(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: aspect, roundness, border, fringe."""
    high = 0.56 + 0.14 * a
    field = s.box(0, 0, 0.86, high, 0.04 + high * max(0.0, 0.9 * b))
    border = outline(field + 0.16 + 0.04 * c, 0.035 + 0.02 * c)
    thread = s.y * 9
    threads = (np.abs(thread - np.rint(thread)) - 0.28) / 9
    fringe = intersection(s.box(0, 0, 0.95 + 0.04 * d, high * (0.97 - 0.7 * max(0.0, b))), threads)
    return Parts(field, trim=union(cut(fringe, field), border))


def headphones(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: band width, band thickness, cup height, cup width."""
    wide = 0.66 + 0.08 * a
    band = intersection(s.ring(0, 0.12, wide, 0.92, 0.08 + 0.03 * b), s.above(0.2))
    cup = s.folded.box(wide, 0.42, 0.21 + 0.05 * d, 0.38 + 0.09 * c, 0.18)
    pad = s.folded.box(wide - 0.22 - 0.05 * d, 0.42, 0.08, 0.3 + 0.08 * c, 0.07)
    return Parts(union(cup, band), trim=cut(pad, cup), ink=s.folded.box(wide + 0.05, 0.42, 0.015, 0.22))


def speaker(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, woofer, tweeter."""
    half, woofer, tweeter = 0.55 + 0.12 * a, 0.33 + 0.08 * c, 0.17 + 0.06 * d
    case = s.box(0, 0, half, 0.93, 0.13 + 0.11 * b)
    low, high = s.disc(0, 0.36, woofer), s.disc(0, -0.48, tweeter)
    ink = union(outline(low + 0.1, 0.02), s.disc(0, 0.36, woofer * 0.35), s.disc(0, -0.48, tweeter * 0.4))
    return Parts(case, trim=union(low, high), ink=ink)


def phone_case(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, camera hole, camera place."""
    half = 0.5 + 0.06 * a
    shell = s.box(0, 0, half, 0.95, 0.14 + 0.09 * b)
    hole_width, hole_height = 0.16 + 0.03 * c, 0.2 + 0.1 * c
    x = (half - hole_width - 0.1) * (-1 if d < 0.33 else 0)
    hole = s.box(x, -0.9 + hole_height + 0.06, hole_width, hole_height, 0.1)
    return Parts(cut(shell, hole), trim=outline(shell + 0.025, 0.03), ink=outline(hole - 0.03, 0.02))


def camera(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, lens size, hump, lens place."""
    high, lens, x = 0.5 + 0.09 * a, 0.35 + 0.07 * b, 0.14 * d
    case = s.box(0, 0.12, 0.93, high, 0.13)
    hump = s.trapezoid(-0.32 - high - 0.05 * c, 0, 0.24 + 0.08 * c, 0.4) - 0.03
    button = s.box(0.66, 0.08 - high, 0.14, 0.06)
    barrel = s.disc(x, 0.16, lens)
    ink = union(s.disc(x, 0.16, lens * 0.5), outline(barrel + 0.08, 0.02), s.box(-0.68, -0.12, 0.12, 0.05))
    return Parts(union(case, hump), trim=union(barrel, cut(button, case)), ink=ink)


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


def lipstick(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: girth, bullet height, slant, collar."""
    half, top = 0.26 + 0.06 * a, -0.66 - 0.25 * b
    case = s.box(0, 0.52, half + 0.05, 0.42, 0.03)
    collar = s.box(0, 0, half, 0.17 + 0.05 * d, 0.02)
    bullet = intersection(s.box(0, -0.3, half - 0.06, 0.65, 0.14), top + (0.9 + 0.6 * c) * s.x - s.y)
    return Parts(union(case, bullet), trim=collar, ink=s.box(0, 0.16, half + 0.05, 0.018))


def hand_mirror(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, frame, handle length, handle width."""
    wide, frame = 0.52 + 0.1 * a, 0.12 + 0.035 * b
    head = s.ellipse(0, -0.36, wide, 0.58)
    glass = s.ellipse(0, -0.36, wide - frame, 0.58 - frame)
    handle = s.turned((0.1, 0.12), (0.5, 0.07 + 0.03 * d), (0.85 + 0.1 * c, 0.13 + 0.05 * d), (0.95 + 0.1 * c, 0.06))
    gleam = s.capsule(-0.16, -0.3, 0.08, -0.6, 0.022)
    return Parts(union(cut(head, glass), handle), trim=glass, ink=gleam)


def teddy_bear(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: head, ears, belly, limbs."""
    head, ear, belly = 0.38 + 0.06 * a, 0.15 + 0.05 * b, 0.42 + 0.08 * c
    limb = 0.16 + 0.04 * d
    body = union(
        s.disc(0, -0.48, head),
        s.ellipse(0, 0.32, belly, 0.5),
        s.folded.disc(head * 0.8, -0.5 - head * 0.75, ear),
        s.folded.capsule(belly * 0.8, 0.05, belly + 0.22, 0.25 + 0.1 * d, limb),
        s.folded.capsule(belly * 0.6, 0.7, belly + 0.08, 0.8, limb + 0.04),
    )
    trim = union(
        s.ellipse(0, -0.38, head * 0.45, head * 0.36), s.folded.disc(head * 0.8, -0.5 - head * 0.75, ear * 0.5)
    )
    eyes = union(s.folded.disc(head * 0.4, -0.6, 0.05), s.ellipse(0, -0.44, 0.07, 0.05))
    return Parts(body, trim, ink=eyes)


def toy_car(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: roof height, roof length, hood, wheels."""
    roof, hood, wheel = -0.4 - 0.16 * a, -0.02 + 0.1 * c, 0.2 + 0.06 * d
    front = 0.22 + 0.16 * b
    shell = s.skyline(
        (-0.95, 0.05),
        (-0.78, -0.02),
        (-0.55, roof),
        (front, roof),
        (front + 0.28, hood),
        (0.86, hood + 0.06),
        (0.95, 0.2),
    )
    shell = intersection(shell, s.above(0.42))
    window = s.polygon((-0.48, roof + 0.1), (front - 0.04, roof + 0.1), (front + 0.12, -0.02), (-0.6, -0.02))
    wheels = s.folded.disc(0.55, 0.42, wheel)
    ink = union(cut(wheels, s.folded.disc(0.55, 0.42, wheel * 0.45)), s.box((front - 0.5) / 2, -0.1, 0.03, 0.3))
    return Parts(shell, trim=union(window, wheels), ink=ink)


def kite(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, cross height, tail sway, bows."""
    half, cross, sway = 0.58 + 0.16 * a, -0.38 + 0.16 * b, 0.16 + 0.12 * c
    sail = s.polygon((0, -0.95), (half, cross), (0, 0.45), (-half, cross))
    tail = union(s.capsule(0, 0.45, sway, 0.7, 0.025), s.capsule(sway, 0.7, -sway, 0.97, 0.025))
    bow = 0.08 + 0.03 * d
    bows = union(s.ellipse(sway, 0.7, bow * 1.6, bow), s.ellipse(-sway, 0.97, bow * 1.6, bow))
    spars = union(s.box(0, -0.25, 0.016, 0.7), s.box(0, cross, half, 0.016))
    return Parts(sail, trim=union(tail, bows), ink=spars)


HOUSEHOLD: dict[str, Silhouette] = {
    "Mug": mug,
    "Teapot": teapot,
    "Frying pan": frying_pan,
    "Water bottle": water_bottle,
    "Wine glass": wine_glass,
    "Bowl": bowl,
    "Table lamp": table_lamp,
    "Pendant lamp": pendant_lamp,
    "Floor lamp": floor_lamp,
    "Lantern": lantern,
    "Chair": chair,
    "Sofa": sofa,
    "Table": table,
    "Bookcase": bookcase,
    "Stool": stool,
    "Cushion": cushion,
    "Vase": vase,
    "Plant pot": plant_pot,
    "Wall clock": wall_clock,
    "Rug": rug,
    "Headphones": headphones,
    "Speaker": speaker,
    "Phone case": phone_case,
    "Camera": camera,
    "Perfume": perfume,
    "Lipstick": lipstick,
    "Hand mirror": hand_mirror,
    "Teddy bear": teddy_bear,
    "Toy car": toy_car,
    "Kite": kite,
}
