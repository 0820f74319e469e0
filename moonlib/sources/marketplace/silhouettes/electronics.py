"""Silhouettes of electronics."""

from __future__ import annotations

import numpy as np

from moonlib.sources.marketplace.sdf import Plane, cut, intersection, outline, union
from moonlib.sources.marketplace.silhouettes.silhouette import Parts, Silhouette


def headphones(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: band width, band thickness, cup height, cup width."""
    wide = 0.66 + 0.08 * a
    band = intersection(s.ring(0, 0.12, wide, 0.92, 0.08 + 0.03 * b), s.above(0.2))
    cup = s.folded.box(wide, 0.42, 0.21 + 0.05 * d, 0.38 + 0.09 * c, 0.18)
    pad = s.folded.box(wide - 0.22 - 0.05 * d, 0.42, 0.08, 0.3 + 0.08 * c, 0.07)
    return Parts(union(cup, band), trim=cut(pad, cup), ink=s.folded.box(wide + 0.05, 0.42, 0.015, 0.22))


def earbuds(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: bud, stem, tips, distance."""
    x, bud, low = 0.44 + 0.07 * d, 0.25 + 0.03 * a, 0.5 + 0.18 * b
    body = union(s.folded.ellipse(x, -0.36, bud, bud + 0.06), s.folded.capsule(x + 0.06, -0.3, x + 0.1, low, 0.13, 0.1))
    tips = s.folded.ellipse(x - bud - 0.02, -0.42, 0.13 + 0.03 * c, 0.19 + 0.03 * c)
    ends = s.folded.capsule(x + 0.098, low - 0.04, x + 0.1, low, 0.11)
    return Parts(body, trim=union(tips, ends), ink=s.folded.box(x + 0.06, -0.18, 0.03, 0.08))


def speaker(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, roundness, woofer, tweeter."""
    half, woofer, tweeter = 0.55 + 0.12 * a, 0.33 + 0.08 * c, 0.17 + 0.06 * d
    case = s.box(0, 0, half, 0.93, 0.13 + 0.11 * b)
    low, high = s.disc(0, 0.36, woofer), s.disc(0, -0.48, tweeter)
    ink = union(outline(low + 0.1, 0.02), s.disc(0, 0.36, woofer * 0.35), s.disc(0, -0.48, tweeter * 0.4))
    return Parts(case, trim=union(low, high), ink=ink)


def radio(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, speaker, dial, handle."""
    high = 0.46 + 0.07 * a
    top = 0.3 - high
    case = s.box(0, 0.3, 0.93, high, 0.12)
    speaker, dial = s.disc(-0.42, 0.32, 0.32 + 0.05 * b), s.disc(0.52, 0.46, 0.15 + 0.04 * c)
    aerial = s.capsule(0.5, top, 0.92, -0.92, 0.025)
    handle = outline(s.box(-0.1, top, 0.5, 0.2 + 0.06 * d, 0.1), 0.045)
    window = outline(s.box(0.45, 0.08, 0.34, 0.1), 0.018)
    ink = union(outline(speaker + 0.1, 0.016), outline(speaker + 0.2, 0.016), s.disc(0.52, 0.46, 0.04), window)
    return Parts(case, trim=union(speaker, dial, cut(union(handle, aerial), case)), ink=ink)


def microphone(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: head, taper, collar, switch."""
    head, neck = 0.38 + 0.05 * a, 0.24 + 0.03 * b
    ball = s.disc(0, -0.56, head)
    handle = s.turned((-0.3, neck + 0.04), (0.9, 0.15 + 0.03 * b), (0.97, 0.12))
    collar = s.box(0, -0.3, neck + 0.1, 0.07 + 0.03 * c)
    mesh_x, mesh_y = s.x * 8, s.y * 8
    mesh = union((np.abs(mesh_x - np.rint(mesh_x)) - 0.1) / 8, (np.abs(mesh_y - np.rint(mesh_y)) - 0.1) / 8)
    ink = union(intersection(mesh, cut(ball, collar)), s.box(0, 0.1 + 0.12 * d, 0.05, 0.1))
    return Parts(handle, trim=union(ball, collar), ink=ink)


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


def laptop(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: screen height, bezel, keyboard depth, touch pad."""
    top, low = -0.72 - 0.12 * a, 0.62 + 0.08 * c
    lid = s.box(0, (top + 0.3) / 2, 0.76, (0.3 - top) / 2, 0.06)
    base = s.trapezoid(0.32, low, 0.78, 0.97)
    keys = s.trapezoid(0.36, 0.36 + (low - 0.36) * 0.5, 0.68, 0.74)
    pad = s.trapezoid(low - 0.12, low - 0.03, 0.18 + 0.06 * d, 0.2 + 0.06 * d)
    return Parts(lid, trim=base, ink=union(outline(lid + 0.08 + 0.03 * b, 0.02), keys, outline(pad, 0.014)))


def keyboard(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: depth, roundness, key size, number pad. Seen from above."""
    high = 0.36 + 0.06 * a
    case = s.box(0, 0, 0.98, high, 0.05 + 0.04 * b)
    pitch, gap = high / 2.3, 0.03 - 0.012 * c
    across, down = s.x / pitch, (s.y - pitch * 0.5) / pitch
    key = intersection(np.abs(across - np.rint(across)) - 0.5, np.abs(down - np.rint(down)) - 0.5) * pitch + gap
    columns = s.box(0, 0, 0.92, high - 0.05)
    keys = cut(intersection(key, columns), s.box(0.45 + 0.12 * d, 0, 0.045, high))
    return Parts(case, trim=keys)


def computer_mouse(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: width, length, buttons, wheel. Seen from above."""
    half, line = 0.46 + 0.06 * a, -0.08 + 0.12 * c
    shell = s.box(0, 0.14, half, 0.76 + 0.07 * b, half)
    cable = union(s.capsule(0, -0.6, 0.06, -0.85, 0.035), s.capsule(0.06, -0.85, 0.3, -0.97, 0.035))
    wheel = s.box(0, -0.34, 0.07 + 0.015 * d, 0.15 + 0.04 * d, 0.06)
    ink = union(
        intersection(s.box(0, 0, 0.014, 1), s.above(line), shell), intersection(outline(s.above(line), 0.014), shell)
    )
    return Parts(shell, trim=union(cut(cable, shell), wheel), ink=cut(ink, wheel))


def game_controller(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: grips, body, sticks, pads."""
    body = union(
        s.folded.capsule(0.5, -0.12, 0.74, 0.42 + 0.1 * a, 0.33, 0.2), s.box(0, -0.16, 0.55, 0.28 + 0.04 * b, 0.1)
    )
    stick = s.folded.disc(0.26, 0.12, 0.13 + 0.03 * c)
    arm = 0.05 + 0.012 * d
    cross = union(s.box(-0.56, -0.16, 0.16, arm), s.box(-0.56, -0.16, arm, 0.16))
    buttons = union(*(s.disc(0.56 + x, -0.16 + y, 0.06) for x, y in ((0.13, 0), (-0.13, 0), (0, 0.13), (0, -0.13))))
    return Parts(
        body, trim=union(stick, cross, buttons), ink=union(outline(stick, 0.018), s.folded.box(0.12, -0.2, 0.05, 0.025))
    )


def television(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: height, bezel, feet, feet's place."""
    high = 0.54 + 0.06 * a
    screen = s.box(0, -0.12, 0.98, high, 0.03)
    x, low = 0.5 + 0.18 * d, high - 0.14
    feet = s.folded.capsule(x, low, x + 0.12, low + 0.24 + 0.06 * c, 0.045)
    bezel = outline(screen + 0.03, 0.035 + 0.012 * b)
    gleam = union(s.capsule(-0.75, -0.2, -0.5, -0.45, 0.018), s.capsule(-0.72, -0.02, -0.35, -0.4, 0.018))
    return Parts(screen, trim=union(bezel, cut(feet, screen)), ink=gleam)


def fan(s: Plane, a: float, b: float, c: float, d: float) -> Parts:
    """Proportions: size, blades, stand, foot."""
    radius, blade = 0.62 + 0.04 * a, 0.17 + 0.05 * b
    cage = s.disc(0, -0.32, radius)
    blades = union(
        s.capsule(0, -0.42, 0, -0.3 - radius * 0.72, 0.06, blade),
        s.folded.capsule(0.08, -0.26, radius * 0.62, -0.3 + radius * 0.34, 0.06, blade),
    )
    stand = union(s.box(0, 0.55, 0.05 + 0.02 * c, 0.4), s.ellipse(0, 0.93, 0.4 + 0.08 * d, 0.08))
    ink = union(outline(s.disc(0, -0.32, radius * 0.66), 0.014), s.disc(0, -0.32, 0.09))
    return Parts(cage, trim=union(outline(cage + 0.03, 0.04), blades, cut(stand, cage)), ink=ink)


ELECTRONICS: dict[str, Silhouette] = {
    "Headphones": headphones,
    "Earbuds": earbuds,
    "Speaker": speaker,
    "Radio": radio,
    "Microphone": microphone,
    "Phone case": phone_case,
    "Camera": camera,
    "Laptop": laptop,
    "Keyboard": keyboard,
    "Computer mouse": computer_mouse,
    "Game controller": game_controller,
    "Television": television,
    "Fan": fan,
}
