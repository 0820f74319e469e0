"""Silhouettes of furniture."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def chair(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back width, seat height, legs, back rest."""
    half, seat = 0.42 + 0.07 * a, 0.15 + 0.13 * b
    back = s.box(0, (seat - 0.95) / 2, half, (seat + 0.95) / 2, 0.1 + 0.08 * d)
    gap = s.folded.box(half * 0.42, -0.3 + 0.1 * d, half * 0.24, 0.3 + 0.12 * d, 0.05)
    cushion = s.box(0, seat, half + 0.1, 0.1, 0.06)
    leg = s.folded.capsule(half - 0.02, seat, half + 0.04 + 0.12 * c, 0.95, 0.055, 0.04)
    return Parts(union(cut(back, gap), cushion), trim=cut(leg, cushion))


def office_chair(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back width, back height, arm rests, base."""
    half, top = 0.36 + 0.06 * a, -0.8 - 0.14 * b
    back = s.box(0, (top + 0.02) / 2, half, (0.02 - top) / 2, 0.16)
    seat = s.box(0, 0.14, half + 0.12, 0.1, 0.08)
    rest = s.folded.capsule(half + 0.12, 0.1, half + 0.16, -0.14 - 0.1 * c, 0.04)
    rest = union(rest, s.folded.box(half + 0.16, -0.16 - 0.1 * c, 0.07, 0.04))
    foot = 0.5 + 0.1 * d
    base = union(s.box(0, 0.45, 0.055, 0.28), s.folded.capsule(0, 0.7, foot, 0.84, 0.05), s.box(0, 0.8, 0.05, 0.1))
    wheels = union(s.folded.disc(foot, 0.9, 0.085), s.disc(0, 0.92, 0.085))
    return Parts(union(back, seat), trim=cut(union(rest, base), seat), ink=union(wheels, s.box(0, 0.03, half, 0.014)))


def rocking_chair(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back height, lean, rockers, arm rest. Seen from the side."""
    top, lean = -0.78 - 0.14 * a, 0.72 + 0.12 * b
    back, seat = s.capsule(-0.4, 0.2, -lean, top, 0.11), s.capsule(-0.4, 0.2, 0.5, 0.1, 0.11)
    rocker = intersection(s.ring(-0.05, -0.4, 1.05, 1.28 + 0.06 * c, 0.045), s.below(0.55))
    legs = union(s.capsule(-0.4, 0.25, -0.48, 0.76, 0.045), s.capsule(0.42, 0.15, 0.5, 0.72, 0.045))
    arm = -0.22 - 0.1 * d
    rest = union(s.capsule(-0.5, arm, 0.4, arm, 0.05), s.capsule(0.36, arm, 0.4, 0.1, 0.04))
    return Parts(union(back, seat), trim=union(rocker, cut(union(legs, rest), back, seat)))


def stool(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: seat width, seat thickness, splay, rung."""
    half = 0.55 + 0.12 * a
    seat = s.box(0, -0.55, half, 0.16 + 0.07 * b, 0.14)
    foot = half * 0.85 + 0.16 * c
    leg = s.folded.capsule(half * 0.6, -0.5, foot, 0.85, 0.065, 0.05)
    rung = s.box(0, 0.3 + 0.2 * d, (half * 0.6 + foot) / 2, 0.04)
    return Parts(seat, trim=cut(union(leg, rung), seat))


def sofa(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back height, arm width, legs, roundness."""
    arm, round_ = 0.17 + 0.06 * b, 0.1 + 0.07 * d
    back = s.box(0, 0, 0.82, 0.48 + 0.14 * a, round_ + 0.05)
    arms = s.folded.box(0.98 - arm, 0.18, arm, 0.36, round_)
    seat = s.box(0, 0.28, 0.82, 0.24, 0.06)
    leg = s.folded.capsule(0.75, 0.5, 0.78, 0.64 + 0.12 * c, 0.055, 0.035)
    seams = union(s.box(0, 0.12, 0.014, 0.38), s.box(0, 0.14, 0.96 - 2 * arm, 0.014), outline(arms, 0.014))
    return Parts(union(back, arms, seat), trim=leg, ink=seams)


def armchair(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back height, arm width, legs, roundness."""
    arm, top = 0.18 + 0.05 * b, -0.72 - 0.16 * a
    back = s.box(0, (top + 0.6) / 2, 0.54, (0.6 - top) / 2, 0.24 + 0.14 * d)
    arms = s.folded.box(0.78 - arm, 0.22, arm, 0.4, 0.12 + 0.06 * d)
    seat = s.box(0, 0.42, 0.56, 0.22, 0.06)
    leg = s.folded.capsule(0.56, 0.6, 0.62, 0.82 + 0.12 * c, 0.06, 0.035)
    seams = union(s.box(0, 0.18, 0.78 - 2 * arm, 0.018), outline(arms, 0.016), s.folded.disc(0.2, -0.3, 0.035))
    return Parts(union(back, arms, seat), trim=leg, ink=seams)


def bench(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: back height, slats, legs, arm rests."""
    top, pitch = -0.5 - 0.14 * a, 0.2 + 0.03 * b
    slats = union(*(s.box(0, top + pitch * k, 0.92, 0.075, 0.03) for k in range(3)))
    seat = s.box(0, 0.2, 0.97, 0.09, 0.03)
    leg = s.folded.capsule(0.74, 0.2, 0.78 + 0.1 * c, 0.75, 0.07, 0.05)
    post = s.folded.box(0.72, (top + 0.2) / 2, 0.05, (0.25 - top) / 2)
    rest = s.folded.box(0.9, -0.05 - 0.08 * d, 0.07, 0.05)
    return Parts(union(slats, seat), trim=union(cut(leg, seat), cut(post, slats, seat), rest))


def table(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, top thickness, leg splay, apron."""
    top, thick = -0.42 - 0.14 * a, 0.08 + 0.035 * b
    board = s.box(0, top, 0.97, thick, 0.05)
    apron = s.box(0, top + 0.14, 0.78, 0.13 + 0.06 * d)
    leg = s.folded.capsule(0.72, top, 0.74 + 0.17 * c, 0.68, 0.075, 0.05)
    return Parts(union(board, apron), trim=cut(leg, board, apron), ink=s.box(0, top + 0.19, 0.1, 0.02))


def desk(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, drawers' width, leg, shelf."""
    top, wide = -0.4 - 0.14 * a, 0.34 + 0.07 * b
    board = s.box(0, top, 0.97, 0.08, 0.02)
    chest = s.box(0.92 - wide, (top + 0.68) / 2, wide, (0.68 - top) / 2, 0.02)
    leg = s.capsule(-0.84, top, -0.84 - 0.08 * c, 0.68, 0.065)
    shelf = s.box(-0.1, top + 0.24 + 0.08 * d, 0.8, 0.03)
    third = (0.68 - top) / 3
    lines = intersection(union(*(outline(s.above(top + third * k), 0.016) for k in (1, 2))), chest)
    knobs = union(*(s.disc(0.92 - wide, top + third * (k + 0.55), 0.05) for k in range(3)))
    return Parts(union(board, chest), trim=union(cut(union(leg, shelf), board, chest), knobs), ink=lines)


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


def wardrobe(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, drawer, cornice, feet."""
    half, low = 0.6 + 0.1 * a, 0.5 - 0.16 * b
    case = s.box(0, 0, half, 0.86, 0.02)
    cornice = s.box(0, -0.88, half + 0.06 + 0.03 * c, 0.06 + 0.02 * c)
    feet = s.folded.box(half - 0.12, 0.9, 0.1, 0.06 + 0.03 * d)
    knobs = union(s.folded.box(0.09, (low - 0.8) / 2, 0.03, 0.12), s.folded.disc(half * 0.5, (low + 0.86) / 2, 0.05))
    ink = union(intersection(s.box(0, 0, 0.016, 0.86), s.above(low)), s.box(0, low, half, 0.018))
    panel = outline(s.folded.box(half / 2, (low - 0.82) / 2, half / 2 - 0.12, (low + 0.82) / 2 - 0.12), 0.012)
    return Parts(case, trim=union(cornice, cut(feet, case), knobs), ink=union(ink, panel))


def chest_of_drawers(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, drawers, top, feet."""
    high, drawers = 0.6 + 0.12 * a, 3 + round(0.5 + 0.5 * b)
    case = s.box(0, 0.05, 0.82, high, 0.02)
    board = s.box(0, 0.05 - high, 0.88 + 0.05 * c, 0.06)
    feet = s.folded.capsule(0.68, high, 0.72, high + 0.18 + 0.06 * d, 0.07, 0.04)
    pitch = 2 * high / drawers
    level = np.mod(s.y - 0.05 + high, pitch) - pitch / 2
    front = intersection(np.abs(level) - pitch / 2 + 0.05, np.abs(s.x) - 0.75, case)
    knobs = intersection(np.sqrt((s.folded.x - 0.4) ** 2 + level * level) - 0.06, case)
    return Parts(case, trim=union(board, cut(feet, case), knobs), ink=outline(front, 0.014))


def bed(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: headboard, mattress, footboard, pillow. Seen from the side."""
    thick = 0.2 + 0.06 * b
    mattress = s.box(0.03, 0.36 - thick, 0.88, thick, 0.1)
    blanket = s.box(0.3, 0.4 - thick, 0.6, thick + 0.06, 0.08)
    head = s.box(-0.9, 0.1 - 0.12 * a, 0.08, 0.62 + 0.12 * a, 0.06)
    foot = s.box(0.94, 0.35 - 0.1 * c, 0.06, 0.38 + 0.1 * c, 0.05)
    frame = union(s.box(0, 0.46, 0.92, 0.09), s.folded.box(0.88, 0.64, 0.05, 0.14))
    pillow = s.box(-0.56, 0.3 - 2 * thick, 0.22 + 0.04 * d, 0.1 + 0.03 * d, 0.1)
    fold = intersection(outline(-0.22 - s.x, 0.02), blanket)
    return Parts(union(mattress, blanket), trim=union(head, foot, frame, pillow), ink=fold)


FURNITURE: dict[str, Silhouette] = {
    "Chair": chair,
    "Office chair": office_chair,
    "Rocking chair": rocking_chair,
    "Stool": stool,
    "Sofa": sofa,
    "Armchair": armchair,
    "Bench": bench,
    "Table": table,
    "Desk": desk,
    "Bookcase": bookcase,
    "Wardrobe": wardrobe,
    "Chest of drawers": chest_of_drawers,
    "Bed": bed,
}
