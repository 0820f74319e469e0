"""Silhouettes of what is worn and carried: fashion, shoes, bags and accessories."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouette import Parts, Silhouette


def t_shirt(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, sleeve length, neckline, length."""
    half, hem = 0.46 + 0.1 * a, 0.75 + 0.2 * d
    reach = 0.28 + 0.17 * b
    neck = s.ellipse(0, -0.72, 0.2 + 0.05 * c, 0.17 + 0.14 * c)
    cuff = (half + reach, -0.48 + 0.9 * reach)
    sleeve = s.folded.capsule(half - 0.12, -0.5, *cuff, 0.21, 0.17)
    torso = s.turned((-0.72, 0.24), (-0.58, half), (hem, half + 0.04))
    body = cut(union(torso, sleeve), neck, s.folded.polygon(*_beyond(cuff)))
    return Parts(body, trim=intersection(outline(neck, 0.05), torso))


def _beyond(cuff: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """A corner that cuts the round end off a sleeve that points down and outwards."""
    x, y = cuff
    return (x - 0.3, y + 0.3), (x + 0.3, y - 0.3), (x + 0.8, y + 0.2), (x + 0.2, y + 0.8)


def hoodie(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, sleeve spread, hood, pocket."""
    half = 0.45 + 0.09 * a
    sleeve = s.folded.capsule(half - 0.1, -0.35, half + 0.24 + 0.14 * b, 0.62, 0.19, 0.13)
    torso = s.turned((-0.6, 0.24), (-0.48, half), (0.8, half))
    hood = s.ellipse(0, -0.66, 0.31 + 0.09 * c, 0.3 + 0.08 * c)
    face = s.ellipse(0, -0.62, 0.17 + 0.05 * c, 0.19 + 0.05 * c)
    pocket = s.trapezoid(0.2 - 0.05 * d, 0.6, 0.2 + 0.08 * d, 0.34 + 0.06 * d)
    strings = s.folded.capsule(0.09, -0.4, 0.11, -0.08 - 0.1 * d, 0.02)
    trim = union(cut(hood, face), intersection(s.between(0.7, 0.82), torso))
    return Parts(cut(union(torso, sleeve), face), trim, ink=union(strings, outline(pocket, 0.015)))


def dress(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: waist, flare, waist height, sleeves."""
    waist, height, hem = 0.23 + 0.06 * a, -0.15 + 0.14 * c, 0.62 + 0.22 * b
    body = s.turned((-0.9, 0.2), (-0.75, 0.36), (-0.5, 0.3), (height, waist), (0.95, hem))
    sleeve = s.folded.capsule(0.3, -0.7, 0.42 + 0.16 * d, -0.5 + 0.25 * d, 0.12)
    body = cut(union(body, sleeve), s.ellipse(0, -0.92, 0.17, 0.2))
    return Parts(body, trim=intersection(s.between(height - 0.05, height + 0.05), body))


def trousers(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: stance, flare, rise, length."""
    hip, crotch, end = 0.42 + 0.06 * a, -0.35 + 0.14 * c, 0.85 + 0.15 * d
    middle, half = 0.3 + 0.09 * a, 0.17 + 0.09 * b
    leg = s.folded.polygon((0, crotch - 0.25), (hip, crotch - 0.25), (middle + half, end), (middle - half, end))
    seat = s.trapezoid(-0.92, crotch, hip - 0.08, hip)
    pocket = s.folded.capsule(0.2, -0.74, 0.36, -0.58, 0.018)
    fly = s.capsule(0, -0.8, 0, crotch, 0.014)
    return Parts(union(leg, seat), trim=s.box(0, -0.9, hip - 0.05, 0.07), ink=union(pocket, fly))


def skirt(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: waist, flare, pleats, length."""
    waist, hem, end = 0.34 + 0.06 * a, 0.68 + 0.24 * b, 0.6 + 0.3 * d
    flat = s.x / (waist + (hem - waist) * np.clip((s.y + 0.7) / (end + 0.7), 0, 1))
    pleats = 2 + round(1.5 + 1.5 * c)
    fold = np.abs(flat * pleats - np.rint(flat * pleats))
    body = intersection(s.trapezoid(-0.75, end + 0.1, waist, hem), s.y - end - 0.25 * fold)
    ink = intersection(fold * 0.25 - 0.018, s.below(-0.35))
    return Parts(body, trim=s.box(0, -0.74, waist + 0.03, 0.09), ink=ink)


def tank_top(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, straps, neckline, hem."""
    half, strap = 0.48 + 0.08 * a, 0.25 + 0.06 * b
    torso = s.turned((-0.9, strap + 0.1), (-0.3, half), (0.3, half - 0.06), (0.92, half + 0.1 * d))
    neck = s.ellipse(0, -0.95, strap - 0.02, 0.42 + 0.16 * c)
    arm = s.folded.ellipse(half + 0.12, -0.62, 0.24, 0.38)
    body = cut(torso, neck, arm)
    return Parts(body, trim=intersection(union(outline(neck, 0.05), s.between(0.84, 0.95)), body))


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


def handbag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, taper, handle, flap."""
    top, wide = -0.15 - 0.18 * a, 0.78
    body = s.trapezoid(top, 0.8, wide - 0.14 - 0.14 * b, wide) - 0.05
    handle = intersection(s.ring(0, top, 0.4 + 0.1 * d, 0.5 + 0.2 * c, 0.055), s.above(top))
    flap = outline(s.ellipse(0, top - 0.1, wide, 0.5 + 0.15 * d), 0.02)
    clasp = s.box(0, top + 0.42 + 0.15 * d, 0.08, 0.07)
    return Parts(body, trim=union(handle, clasp), ink=intersection(flap, body + 0.03))


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


def suitcase(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, ridges, handle."""
    half = 0.5 + 0.13 * a
    body = s.box(0, 0.18, half, 0.66, 0.14 + 0.1 * b)
    handle = outline(s.box(0, -0.55, 0.22 + 0.06 * d, 0.35 + 0.1 * d, 0.08), 0.04)
    wheels = s.folded.disc(half - 0.14, 0.88, 0.09)
    ridge = s.x * (3 + c)
    ridges = intersection((np.abs(ridge - np.rint(ridge)) - 0.06) / (3 + c), s.between(-0.36, 0.72))
    return Parts(body, trim=union(cut(handle, body), wheels), ink=ridges)


def tote_bag(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, taper, handle length, handle spread."""
    half, reach = 0.6 + 0.1 * a, 0.55 + 0.2 * c
    body = s.trapezoid(-0.2, 0.9, half, half + 0.12 * b)
    spread = 0.28 + 0.1 * d
    handle = intersection(outline(s.box(0, -0.1, spread, reach, 0.2), 0.05), s.above(0.05))
    return Parts(cut(body, handle), trim=union(handle, s.box(0, -0.16, half - 0.01, 0.03, 0)))


def wallet(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, roundness, flap, clasp."""
    half = 0.5 + 0.12 * a
    body = s.box(0, 0, 0.92, half, 0.1 + 0.08 * b)
    flap = s.box(0, -half, 0.92, half + 0.15 * c, 0.1)
    clasp = s.box(0.5 * d, 0.15 * c + 0.02, 0.1, 0.13, 0.06)
    stitches = intersection(outline(body + 0.09, 0.012), s.below(0.15 * c))
    return Parts(body, trim=clasp, ink=union(intersection(outline(flap, 0.018), body), stitches))


def baseball_cap(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: crown height, brim length, brim droop, width."""
    half, crown = 0.58 + 0.06 * d, 0.78 + 0.16 * a
    dome = intersection(s.ellipse(-0.25, 0.3, half, crown), s.above(0.3))
    brim = s.capsule(-0.1, 0.3, 0.72 + 0.2 * b, 0.42 + 0.1 * c, 0.1, 0.06)
    seams = intersection(union(outline(s.ellipse(-0.25, 0.3, half * 0.45, crown), 0.015)), dome)
    return Parts(dome, trim=union(brim, s.disc(-0.25, 0.3 - crown, 0.08)), ink=seams)


def sunglasses(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: lens height, lens roundness, bridge, frame."""
    lens_width, lens_height, gap = 0.38, 0.3 + 0.09 * a, 0.5 + 0.04 * c
    lens = s.folded.box(gap, 0.03, lens_width, lens_height, 0.18 + 0.14 * b)
    frame = lens - (0.1 + 0.035 * d)
    bridge = s.box(0, -0.12 + 0.08 * c, 0.3, 0.06)
    arm = s.folded.capsule(0.9, -0.12, 1.02, -0.42, 0.05)
    return Parts(
        union(cut(frame, lens), bridge, arm), trim=lens, ink=s.folded.capsule(gap - 0.1, 0.1, gap + 0.05, -0.12, 0.02)
    )


def wristwatch(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: case, case roundness, strap width, crown."""
    case = 0.4 + 0.08 * a
    shell = s.box(0, 0, case, case, case * (0.7 + 0.35 * b))
    strap = s.turned(
        (-0.98, 0.17 + 0.05 * c), (-0.35, 0.27 + 0.07 * c), (0.35, 0.27 + 0.07 * c), (0.98, 0.17 + 0.05 * c)
    )
    crown = s.box(case + 0.04, 0.1 * d, 0.06, 0.07 + 0.03 * d)
    hands = union(s.capsule(0, 0, 0.02, -case * 0.6, 0.025), s.capsule(0, 0, case * 0.42, case * 0.15, 0.03))
    holes = s.capsule(0, 0.6, 0, 0.9, 0.03)
    return Parts(cut(strap, shell), trim=union(shell, crown), ink=union(hands, outline(shell + 0.09, 0.015), holes))


def umbrella(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: dome height, scallops, shaft length, hook."""
    high, end = 0.62 + 0.18 * a, 0.62 + 0.15 * c
    ribs = 2 + round(1 + b)
    scallop = s.x * ribs
    scallop = np.abs(scallop - np.rint(scallop))
    dome = intersection(s.ellipse(0, -0.05, 0.95, high), s.y + 0.05 - 0.22 * scallop + 0.05)
    hook = intersection(s.ring(0.14 + 0.03 * d, end, 0.14 + 0.03 * d, 0.17, 0.045), s.below(end))
    pole = union(s.box(0, (end - high) / 2, 0.04, (end + high) / 2 + 0.04), hook)
    return Parts(dome, trim=cut(pole, dome + 0.02), ink=outline(s.ellipse(0, -0.05, 0.32, high), 0.014))


def necktie(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: blade width, knot, length, tip."""
    wide, end = 0.27 + 0.09 * a, 0.72 + 0.1 * c
    blade = s.turned((-0.72, 0.11), (end, wide), (end + 0.2 + 0.1 * d, 0.005))
    knot = s.trapezoid(-0.98, -0.66, 0.2 + 0.06 * b, 0.12)
    return Parts(blade, trim=knot)


WEARABLES: dict[str, Silhouette] = {
    "T-shirt": t_shirt,
    "Hoodie": hoodie,
    "Dress": dress,
    "Trousers": trousers,
    "Skirt": skirt,
    "Tank top": tank_top,
    "Sneaker": sneaker,
    "Boot": boot,
    "High heel": high_heel,
    "Slipper": slipper,
    "Handbag": handbag,
    "Backpack": backpack,
    "Suitcase": suitcase,
    "Tote bag": tote_bag,
    "Wallet": wallet,
    "Baseball cap": baseball_cap,
    "Sunglasses": sunglasses,
    "Wristwatch": wristwatch,
    "Umbrella": umbrella,
    "Necktie": necktie,
}
