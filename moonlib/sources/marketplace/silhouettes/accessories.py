"""Silhouettes of accessories."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def baseball_cap(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: crown height, brim length, brim droop, width."""
    half, crown = 0.58 + 0.06 * d, 0.78 + 0.16 * a
    dome = intersection(s.ellipse(-0.25, 0.3, half, crown), s.above(0.3))
    brim = s.capsule(-0.1, 0.3, 0.72 + 0.2 * b, 0.42 + 0.1 * c, 0.1, 0.06)
    seams = intersection(union(outline(s.ellipse(-0.25, 0.3, half * 0.45, crown), 0.015)), dome)
    return Parts(dome, trim=union(brim, s.disc(-0.25, 0.3 - crown, 0.08)), ink=seams)


def beanie(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, width, cuff, pompom."""
    half, cuff = 0.62 + 0.08 * b, 0.2 + 0.06 * c
    dome = intersection(s.ellipse(0, 0.4, half, 0.9 + 0.12 * a), s.above(0.4))
    turned_up = s.box(0, 0.45, half + 0.06, cuff, 0.08)
    pompom = s.disc(0, -0.54 - 0.12 * a, 0.2 + 0.07 * d)
    rib = s.x * 9
    ribs = intersection((np.abs(rib - np.rint(rib)) - 0.1) / 9, turned_up)
    return Parts(dome, trim=union(turned_up, pompom), ink=ribs)


def sun_hat(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: crown height, brim, crown width, band."""
    half = 0.46 + 0.07 * c
    crown = intersection(s.ellipse(0, 0.22, half, 0.72 + 0.14 * a), s.above(0.3))
    brim = s.ellipse(0, 0.28, 0.97, 0.2 + 0.07 * b)
    band = intersection(s.between(0.02 - 0.06 * d, 0.2), crown)
    return Parts(
        union(crown, brim),
        trim=band,
        ink=intersection(outline(s.ellipse(0, 0.22, half + 0.02, 0.1), 0.02), s.below(0.22)),
    )


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


def necklace(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, length, pendant, beads."""
    wide, low = 0.6 + 0.1 * a, 0.42 + 0.14 * b
    chain = s.ring(0, low - 0.75, wide, 0.75, 0.028)
    pendant = s.folded.polygon((0, low - 0.02), (0.2 + 0.06 * c, low + 0.2), (0, low + 0.52))
    beads = union(
        *(s.folded.disc(wide * x, low - 0.75 + 0.75 * y, 0.07 + 0.03 * d) for x, y in ((0.5, 0.866), (0.8, 0.6)))
    )
    ring = s.ring(0, low, 0.06, 0.06, 0.03)
    return Parts(union(pendant - 0.05, beads), trim=union(chain, ring), ink=outline(pendant + 0.05, 0.012))


def earrings(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: drop length, drop width, hook, stone."""
    long, wide = 0.46 + 0.1 * a, 0.26 + 0.06 * b
    drop = union(
        s.folded.ellipse(0.5, 0.3, wide, long),
        s.folded.polygon((0.5, -0.5), (0.5 + wide * 0.7, 0.1), (0.5 - wide * 0.7, 0.1)),
    )
    hook = s.folded.ring(0.5, -0.68, 0.12 + 0.04 * c, 0.18, 0.035)
    stone = s.folded.disc(0.5, 0.34, 0.1 + 0.05 * d)
    return Parts(drop, trim=union(hook, stone), ink=outline(stone, 0.016))


def necktie(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: blade width, knot, length, tip."""
    wide, end = 0.27 + 0.09 * a, 0.72 + 0.1 * c
    blade = s.turned((-0.72, 0.11), (end, wide), (end + 0.2 + 0.1 * d, 0.005))
    knot = s.trapezoid(-0.98, -0.66, 0.2 + 0.06 * b, 0.12)
    return Parts(blade, trim=knot)


def bow_tie(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, waist, knot, pointedness."""
    high = 0.42 + 0.09 * a
    wing = s.folded.polygon(
        (0, -0.14 - 0.04 * b), (0.9, -high), (0.95 + 0.06 * d, 0), (0.9, high), (0, 0.14 + 0.04 * b)
    )
    knot = s.box(0, 0, 0.17 + 0.04 * c, 0.2 + 0.04 * c, 0.07)
    folds = s.folded.capsule(0.22, 0, 0.5, 0.12, 0.018)
    return Parts(wing, trim=knot, ink=union(folds, s.folded.capsule(0.22, -0.06, 0.45, -0.16, 0.016)))


def scarf(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: loop, width, long end, fringe."""
    half, low = 0.18 + 0.04 * b, 0.62 + 0.14 * c
    loop = s.ring(0, -0.52, 0.42 + 0.06 * a, 0.24, 0.18)
    long_end = s.polygon((-0.32, -0.4), (-0.32 + 2 * half, -0.36), (-0.36 + 2 * half, low), (-0.42, low))
    short_end = s.polygon((0.06, -0.4), (0.06 + 2 * half, -0.4), (0.14 + 2 * half, low - 0.3), (0.14, low - 0.3))
    thread = s.x * 12
    threads = (np.abs(thread - np.rint(thread)) - 0.3) / 12
    fringe = union(
        s.box(-0.4 + half, low + 0.1, half, 0.12 + 0.04 * d), s.box(0.14 + half, low - 0.2, half, 0.12 + 0.04 * d)
    )
    edge = intersection(outline(short_end, 0.014), s.below(-0.3))
    return Parts(union(loop, long_end, short_end), trim=intersection(fringe, threads), ink=edge)


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


def belt(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: coil height, strap width, buckle, tip. Lies coiled."""
    high, strap = 0.46 + 0.1 * a, 0.13 + 0.03 * b
    coil = s.ring(-0.06, -0.08, 0.74, high, strap)
    tip = s.capsule(0.2, high - 0.08, 0.92, high + 0.02 + 0.12 * d, strap)
    buckle = outline(s.box(0.12, high - 0.06, 0.2 + 0.05 * c, strap + 0.1, 0.06), 0.05)
    holes = union(*(s.disc(x, high - 0.04, 0.035) for x in (0.5, 0.66, 0.82)))
    prong = s.capsule(-0.05, high - 0.06, 0.3, high - 0.06, 0.03)
    return Parts(union(coil, tip), trim=union(buckle, prong), ink=holes)


def glove(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: finger length, width, thumb, cuff."""
    half, top = 0.36 + 0.05 * b, -0.62 - 0.16 * a
    fingers = [
        s.capsule(x * half, 0.1, x * half * 1.15, top + drop, 0.115, 0.095)
        for x, drop in ((-0.75, 0.16), (-0.25, 0.0), (0.25, 0.03), (0.75, 0.2))
    ]
    thumb = s.capsule(half * 0.6, 0.45, half + 0.36, 0.02 - 0.14 * c, 0.15, 0.11)
    palm = s.box(0, 0.3, half + 0.06, 0.36, 0.16)
    cuff = s.box(0, 0.74 + 0.04 * d, half - 0.01, 0.15 + 0.05 * d, 0.05)
    seams = s.folded.capsule(half * 0.5, 0.1, half * 0.4, 0.4, 0.016)
    return Parts(union(palm, thumb, *fingers), trim=cuff, ink=union(seams, s.capsule(0, 0.1, 0, 0.4, 0.016)))


def sock(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: length, width, foot, cuff."""
    half, top, toe = 0.26 + 0.04 * b, -0.72 - 0.2 * a, 0.5 + 0.12 * c
    shaft = s.box(-0.3, (top + 0.4) / 2, half, (0.4 - top) / 2, 0.05)
    foot = s.capsule(-0.3, 0.42, toe, 0.62, half, half - 0.04)
    body = union(shaft, foot)
    cuff = intersection(s.above(top + 0.2 + 0.06 * d), s.box(-0.3, top + 0.2, half + 0.04, 0.3))
    heel = intersection(body, s.disc(-0.5, 0.58, 0.28))
    tip = intersection(body, toe + 0.02 - s.x)
    return Parts(body, trim=union(cuff, heel, tip))


ACCESSORIES: dict[str, Silhouette] = {
    "Baseball cap": baseball_cap,
    "Beanie": beanie,
    "Sun hat": sun_hat,
    "Sunglasses": sunglasses,
    "Wristwatch": wristwatch,
    "Necklace": necklace,
    "Earrings": earrings,
    "Necktie": necktie,
    "Bow tie": bow_tie,
    "Scarf": scarf,
    "Umbrella": umbrella,
    "Belt": belt,
    "Glove": glove,
    "Sock": sock,
}
