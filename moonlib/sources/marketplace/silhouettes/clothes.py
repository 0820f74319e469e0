"""Silhouettes of clothes."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Field, Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def _beyond(cuff: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """A corner that cuts the round end off a sleeve that points down and outwards."""
    x, y = cuff
    return (x - 0.3, y + 0.3), (x + 0.3, y - 0.3), (x + 0.8, y + 0.2), (x + 0.2, y + 0.8)


def _buttons(s: Plane, x: float, top: float, bottom: float, pitch: float) -> Field:
    """A row of buttons down from `top`."""
    down = s.y - top
    down = down - pitch * np.clip(np.rint(down / pitch), 0, int((bottom - top) / pitch))
    button: Field = np.sqrt((s.x - x) ** 2 + down * down) - 0.03
    return button


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


def polo_shirt(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, sleeve length, collar, length."""
    body = t_shirt(s, a, b, -1, d).body
    collar = s.folded.polygon((0.02, -0.86), (0.22, -0.82), (0.3 + 0.05 * c, -0.6), (0.14 + 0.04 * c, -0.46))
    opening = s.polygon((-0.1, -0.85), (0.1, -0.85), (0, -0.5))
    placket = s.box(0, -0.36, 0.06, 0.2 + 0.05 * c)
    return Parts(cut(body, opening), trim=union(collar, placket), ink=_buttons(s, 0, -0.45, -0.2, 0.14))


def shirt(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, sleeve spread, collar, length."""
    half, hem = 0.42 + 0.08 * a, 0.8 + 0.14 * d
    cuff = (half + 0.22 + 0.14 * b, 0.46)
    sleeve = s.folded.capsule(half - 0.12, -0.5, *cuff, 0.18, 0.11)
    torso = s.turned((-0.78, 0.2), (-0.62, half), (hem, half + 0.03))
    tails = s.ellipse(0, hem - 0.05, half + 0.03, 0.2)
    collar = s.folded.polygon((0.02, -0.92), (0.2, -0.86), (0.26 + 0.05 * c, -0.62), (0.1, -0.5 + 0.05 * c))
    trim = union(collar, s.folded.capsule(cuff[0] - 0.02, cuff[1] - 0.02, *cuff, 0.125))
    front = intersection(outline(np.abs(s.x) - 0.05, 0.012), s.between(-0.5, hem + 0.1))
    ink = union(front, _buttons(s, 0, -0.4, hem, 0.24), outline(s.box(0.22, -0.2, 0.1, 0.12), 0.012))
    return Parts(union(torso, sleeve, tails), trim, ink)


def tank_top(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, straps, neckline, hem."""
    half, strap = 0.48 + 0.08 * a, 0.25 + 0.06 * b
    torso = s.turned((-0.9, strap + 0.1), (-0.3, half), (0.3, half - 0.06), (0.92, half + 0.1 * d))
    neck = s.ellipse(0, -0.95, strap - 0.02, 0.42 + 0.16 * c)
    arm = s.folded.ellipse(half + 0.12, -0.62, 0.24, 0.38)
    body = cut(torso, neck, arm)
    return Parts(body, trim=intersection(union(outline(neck, 0.05), s.between(0.84, 0.95)), body))


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


def sweater(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, sleeve spread, collar, hem."""
    half = 0.5 + 0.09 * a
    cuff = (half + 0.24 + 0.12 * b, 0.55)
    sleeve = s.folded.capsule(half - 0.14, -0.38, *cuff, 0.22, 0.15)
    torso = s.turned((-0.72, 0.24), (-0.56, half), (0.55, half + 0.05), (0.8, half - 0.03))
    neck = s.box(0, -0.74 - 0.06 * c, 0.23, 0.13 + 0.07 * c, 0.08)
    hem = intersection(s.between(0.58 - 0.1 * d, 0.8), torso)
    wrist = s.folded.capsule(cuff[0] - 0.03, 0.45, *cuff, 0.16)
    rib = s.x * 11
    ribs = intersection((np.abs(rib - np.rint(rib)) - 0.13) / 11, union(hem, neck))
    return Parts(union(torso, sleeve), trim=union(neck, hem, wrist), ink=ribs)


def jacket(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, sleeve spread, opening, length."""
    half, hem, gap = 0.48 + 0.08 * a, 0.6 + 0.14 * d, 0.14 + 0.09 * c
    sleeve = s.folded.capsule(half - 0.12, -0.42, half + 0.22 + 0.12 * b, 0.6, 0.2, 0.13)
    torso = s.turned((-0.76, 0.22), (-0.6, half), (hem, half + 0.02))
    front = s.polygon((-0.03, -0.8), (0.03, -0.8), (gap, hem + 0.05), (-gap, hem + 0.05))
    collar = s.folded.polygon((0.0, -0.92), (0.24, -0.9), (0.4, -0.62), (0.1, -0.24))
    band = intersection(s.between(hem - 0.13, hem), torso)
    pocket = s.folded.capsule(0.24, 0.3, 0.36, 0.08, 0.022)
    zip_line = outline(front, 0.02)
    return Parts(
        union(cut(torso, front), sleeve),
        trim=union(cut(collar, front), cut(band, front)),
        ink=union(pocket, intersection(zip_line, torso)),
    )


def coat(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: shoulders, flare, belt height, lapels."""
    half, waist, hem = 0.38 + 0.06 * a, -0.1 + 0.12 * c, 0.48 + 0.12 * b
    sleeve = s.folded.capsule(half - 0.1, -0.62, half + 0.2, 0.3, 0.15, 0.11)
    torso = s.turned((-0.9, 0.18), (-0.78, half), (waist, 0.32), (0.98, hem))
    lapel = s.folded.polygon((0.01, -0.92), (0.2, -0.9), (0.26 + 0.06 * d, -0.58), (0.02, waist - 0.12))
    belt = intersection(s.between(waist - 0.06, waist + 0.06), torso)
    ink = union(
        intersection(s.box(0, 0.5, 0.014, 0.48), s.below(waist)),
        _buttons(s.folded, 0.14, waist + 0.22, 0.75, 0.24),
        s.box(0, waist, 0.07, 0.09),
    )
    return Parts(union(torso, sleeve), trim=union(lapel, belt), ink=ink)


def dress(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: waist, flare, waist height, sleeves."""
    waist, height, hem = 0.23 + 0.06 * a, -0.15 + 0.14 * c, 0.62 + 0.22 * b
    body = s.turned((-0.9, 0.2), (-0.75, 0.36), (-0.5, 0.3), (height, waist), (0.95, hem))
    sleeve = s.folded.capsule(0.3, -0.7, 0.42 + 0.16 * d, -0.5 + 0.25 * d, 0.12)
    body = cut(union(body, sleeve), s.ellipse(0, -0.92, 0.17, 0.2))
    return Parts(body, trim=intersection(s.between(height - 0.05, height + 0.05), body))


def dungarees(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: hips, flare, bib, length."""
    hip, end, bib = 0.42 + 0.06 * a, 0.85 + 0.12 * d, 0.26 + 0.05 * c
    leg = s.folded.polygon((0, 0), (hip, 0), (0.42 + 0.12 * b, end), (0.14 - 0.04 * b, end))
    body = union(leg, s.trapezoid(-0.3, 0.2, hip - 0.1, hip), s.box(0, -0.42, bib, 0.22))
    strap = s.folded.capsule(bib - 0.06, -0.58, bib - 0.02, -0.95, 0.05)
    pocket = s.box(0, -0.4, bib * 0.6, 0.12)
    ink = union(
        outline(pocket, 0.014), s.folded.disc(bib - 0.06, -0.56, 0.045), s.folded.capsule(0.24, 0, hip, -0.12, 0.016)
    )
    return Parts(body, trim=union(strap, pocket, intersection(s.between(-0.26, -0.17), body)), ink=ink)


def swimsuit(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: hips, leg cut, neckline, straps."""
    hip = 0.42 + 0.06 * a
    torso = s.turned((-0.95, 0.3), (-0.4, 0.38), (0, 0.28), (0.4, hip), (0.9, 0.12))
    leg = s.folded.ellipse(hip + 0.12, 0.82 + 0.06 * b, hip - 0.02, 0.42 + 0.1 * b)
    neck = s.ellipse(0, -1.0, 0.2 + 0.03 * d, 0.5 + 0.18 * c)
    arm = s.folded.ellipse(0.48, -0.85, 0.18 - 0.03 * d, 0.42)
    body = cut(torso, leg, neck, arm)
    return Parts(body, trim=intersection(union(outline(neck, 0.04), outline(leg, 0.04)), body))


def trousers(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: stance, flare, rise, length."""
    hip, crotch, end = 0.42 + 0.06 * a, -0.35 + 0.14 * c, 0.85 + 0.15 * d
    middle, half = 0.3 + 0.09 * a, 0.17 + 0.09 * b
    leg = s.folded.polygon((0, crotch - 0.25), (hip, crotch - 0.25), (middle + half, end), (middle - half, end))
    seat = s.trapezoid(-0.92, crotch, hip - 0.08, hip)
    pocket = s.folded.capsule(0.2, -0.74, 0.36, -0.58, 0.018)
    fly = s.capsule(0, -0.8, 0, crotch, 0.014)
    return Parts(union(leg, seat), trim=s.box(0, -0.9, hip - 0.05, 0.07), ink=union(pocket, fly))


def shorts(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: hips, flare, length, waistband."""
    hip, end, band = 0.6 + 0.07 * a, 0.5 + 0.2 * c, 0.1 + 0.03 * d
    leg = s.folded.polygon((0, -0.15), (hip, -0.15), (hip + 0.16 + 0.1 * b, end), (0.07, end))
    body = union(leg, s.trapezoid(-0.6, -0.05, hip - 0.12, hip), s.trapezoid(-0.1, 0.05, hip, 0.3))
    waist = s.box(0, -0.6, hip - 0.1, band)
    cords = s.folded.capsule(0.04, -0.55, 0.1, -0.22, 0.022)
    hem = intersection(s.between(end - 0.09, end), body)
    return Parts(body, trim=union(waist, hem), ink=union(cords, s.folded.capsule(hip - 0.16, -0.45, hip, -0.2, 0.016)))


def skirt(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: waist, flare, pleats, length."""
    waist, hem, end = 0.34 + 0.06 * a, 0.68 + 0.24 * b, 0.6 + 0.3 * d
    flat = s.x / (waist + (hem - waist) * np.clip((s.y + 0.7) / (end + 0.7), 0, 1))
    pleats = 2 + round(1.5 + 1.5 * c)
    fold = np.abs(flat * pleats - np.rint(flat * pleats))
    body = intersection(s.trapezoid(-0.75, end + 0.1, waist, hem), s.y - end - 0.25 * fold)
    ink = intersection(fold * 0.25 - 0.018, s.below(-0.35))
    return Parts(body, trim=s.box(0, -0.74, waist + 0.03, 0.09), ink=ink)


CLOTHES: dict[str, Silhouette] = {
    "T-shirt": t_shirt,
    "Polo shirt": polo_shirt,
    "Shirt": shirt,
    "Tank top": tank_top,
    "Hoodie": hoodie,
    "Sweater": sweater,
    "Jacket": jacket,
    "Coat": coat,
    "Dress": dress,
    "Dungarees": dungarees,
    "Swimsuit": swimsuit,
    "Trousers": trousers,
    "Shorts": shorts,
    "Skirt": skirt,
}
