"""Silhouettes of toys."""

from __future__ import annotations

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


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


def rubber_duck(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: head, belly, tail, beak."""
    head = 0.36 + 0.05 * a
    body = union(
        s.ellipse(-0.08, 0.4, 0.74, 0.42 + 0.06 * b),
        s.disc(0.34, -0.34, head),
        s.capsule(-0.5, 0.3, -0.88, -0.02 - 0.14 * c, 0.22, 0.06),
        s.capsule(0.25, -0.1, 0.2, 0.2, 0.26),
    )
    beak = cut(s.ellipse(0.4 + head, -0.26, 0.2 + 0.04 * d, 0.1 + 0.03 * d), s.disc(0.34, -0.34, head - 0.04))
    wing = outline(s.ellipse(-0.18, 0.34, 0.34, 0.2), 0.022)
    return Parts(body, trim=beak, ink=union(s.disc(0.46, -0.44, 0.06), intersection(wing, s.below(0.3))))


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


def toy_train(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: cab height, boiler, chimney, wheels."""
    roof, boiler, wheel = -0.6 - 0.14 * a, 0.27 + 0.04 * b, 0.2 + 0.03 * d
    cab = s.box(-0.58, (roof + 0.45) / 2, 0.3, (0.45 - roof) / 2)
    barrel = s.box(0.2, 0.42 - boiler, 0.68, boiler, 0.1)
    top = 0.42 - 2 * boiler
    chimney = s.polygon(
        (0.4, top - 0.42 - 0.08 * c), (0.76, top - 0.42 - 0.08 * c), (0.66, top + 0.05), (0.5, top + 0.05)
    )
    wheels = union(*(s.disc(x, 0.52, wheel) for x in (-0.58, 0.0, 0.52)))
    window = s.box(-0.58, roof + 0.3, 0.17, 0.15)
    trim = union(s.box(-0.58, roof, 0.38, 0.07), chimney, s.ellipse(0.08, top, 0.16, 0.12), wheels, window)
    hubs = union(*(outline(s.disc(x, 0.52, wheel - 0.06), 0.022) for x in (-0.58, 0.0, 0.52)))
    return Parts(union(cab, barrel), trim, ink=union(hubs, s.capsule(-0.58, 0.52, 0.52, 0.52, 0.028)))


def toy_boat(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: sail height, big sail, small sail, hull."""
    top, deck = -0.84 - 0.12 * a, 0.4
    big = s.polygon((0.03, top), (0.66 + 0.12 * b, deck - 0.1), (0.03, deck - 0.1))
    small = s.polygon((-0.07, top + 0.2), (-0.07, deck - 0.1), (-0.5 - 0.14 * c, deck - 0.1))
    keel = 0.6 + 0.12 * d
    hull = s.polygon((-0.92, deck), (0.95, deck), (keel, 0.86), (-keel, 0.86))
    mast = s.box(-0.02, (top + deck) / 2, 0.03, (deck - top) / 2 + 0.05)
    return Parts(union(big, small), trim=union(hull, mast), ink=intersection(outline(s.above(0.54), 0.02), hull))


def toy_rocket(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: girth, nose, fins, window."""
    half, nose = 0.34 + 0.05 * a, -0.4 - 0.14 * b
    body = s.turned((-0.97, 0.02), (nose - 0.2, half * 0.6), (nose, half * 0.85), (0.1, half), (0.62, half * 0.75))
    fin = 0.62 + 0.1 * c
    fins = cut(s.folded.polygon((half * 0.7, 0.1), (fin, 0.55), (fin, 0.85), (half * 0.6, 0.6)), body)
    cone = intersection(s.above(nose), body)
    window = s.disc(0, -0.08, 0.13 + 0.03 * d)
    flame = s.turned((0.62, 0.2), (0.75, 0.17), (0.97, 0.02))
    return Parts(
        body, trim=union(fins, cone, window, flame), ink=union(outline(window, 0.024), s.box(0, 0.64, 0.26, 0.035))
    )


def kite(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, cross height, tail sway, bows."""
    half, cross, sway = 0.58 + 0.16 * a, -0.38 + 0.16 * b, 0.16 + 0.12 * c
    sail = s.polygon((0, -0.95), (half, cross), (0, 0.45), (-half, cross))
    tail = union(s.capsule(0, 0.45, sway, 0.7, 0.025), s.capsule(sway, 0.7, -sway, 0.97, 0.025))
    bow = 0.08 + 0.03 * d
    bows = union(s.ellipse(sway, 0.7, bow * 1.6, bow), s.ellipse(-sway, 0.97, bow * 1.6, bow))
    spars = union(s.box(0, -0.25, 0.016, 0.7), s.box(0, cross, half, 0.016))
    return Parts(sail, trim=union(tail, bows), ink=spars)


def ball(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: band, panel, second panel, spot."""
    sphere = s.disc(0, 0, 0.93)
    band = intersection(s.between(-0.16 - 0.05 * a, 0.16 + 0.05 * a), sphere)
    panel = outline(s.ellipse(0, 0, 0.42 + 0.1 * b, 0.93), 0.02)
    second = outline(s.ellipse(0, 0, 0.78 + 0.05 * c, 0.93), 0.02)
    spot = s.ellipse(0, -0.84, 0.3 + 0.06 * d, 0.09)
    return Parts(sphere, trim=union(band, spot), ink=intersection(union(panel, second), sphere))


def spinning_top(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, shoulder, stem, tip."""
    wide, shoulder = 0.78 + 0.1 * a, -0.12 + 0.12 * b
    body = s.turned((-0.42, 0.12), (shoulder - 0.05, wide * 0.9), (shoulder + 0.1, wide), (0.62, 0.24), (0.86, 0.05))
    stem = union(s.box(0, -0.6, 0.07, 0.25), s.ellipse(0, -0.8 - 0.06 * c, 0.16 + 0.03 * c, 0.13))
    tip = s.polygon((-0.12, 0.74), (0.12, 0.74), (0.02, 0.97 + 0.03 * d), (-0.02, 0.97 + 0.03 * d))
    band = intersection(s.between(shoulder + 0.08, shoulder + 0.18), body)
    return Parts(body, trim=union(cut(stem, body), tip, band), ink=intersection(outline(s.above(0.4), 0.02), body))


def robot(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: head, body, arms, legs."""
    head, half = 0.34 + 0.06 * a, 0.44 + 0.07 * b
    body = union(s.box(0, -0.54, head, 0.24, 0.06), s.box(0, 0.12, half, 0.36, 0.05))
    arm = s.folded.capsule(half + 0.06, -0.1, half + 0.24, 0.3 - 0.2 * c, 0.09)
    leg = union(s.folded.box(0.2, 0.66, 0.09, 0.22 + 0.03 * d), s.folded.box(0.24, 0.88 + 0.03 * d, 0.18, 0.08, 0.05))
    aerial = union(s.box(0, -0.84, 0.025, 0.1), s.disc(0, -0.94, 0.06))
    panel = s.box(0, 0.08, half * 0.6, 0.18)
    eyes = union(s.folded.disc(head * 0.45, -0.58, 0.075), s.box(0, -0.4, head * 0.5, 0.025))
    return Parts(body, trim=union(cut(union(arm, leg), body), aerial, panel), ink=union(eyes, outline(panel, 0.016)))


def building_blocks(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: block size, distance, arch, roof."""
    half = 0.36 + 0.04 * a
    x, top = half + 0.02 + 0.06 * (1 + b) / 2, 0.92 - 2 * half
    blocks = s.folded.box(x, 0.92 - half, half, half)
    beam = s.box(0, top - 0.16, x + half * 0.8, 0.16)
    arch = intersection(s.ellipse(0, top, half * (0.6 + 0.15 * c), 0.2), s.above(top))
    roof = s.polygon(
        (-0.04, top - 0.78 - 0.1 * d), (0.04, top - 0.78 - 0.1 * d), (0.55, top - 0.32), (-0.55, top - 0.32)
    )
    marks = union(
        outline(s.folded.box(x, 0.92 - half, half - 0.09, half - 0.09), 0.018),
        outline(s.disc(0, top - 0.16, 0.09), 0.016),
    )
    return Parts(union(blocks, roof), trim=cut(beam, arch), ink=marks)


TOYS: dict[str, Silhouette] = {
    "Teddy bear": teddy_bear,
    "Rubber duck": rubber_duck,
    "Toy car": toy_car,
    "Toy train": toy_train,
    "Toy boat": toy_boat,
    "Toy rocket": toy_rocket,
    "Kite": kite,
    "Ball": ball,
    "Spinning top": spinning_top,
    "Robot": robot,
    "Building blocks": building_blocks,
}
