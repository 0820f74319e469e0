"""Everything visible of one SKU."""

from __future__ import annotations

from dataclasses import dataclass

from moonlib.sources.marketplace.colour import Colour


@dataclass(frozen=True)
class Look:
    """The factors from which a picture of a SKU is drawn.

    SKUs of one SPU share all but colour and accent.

    Args:
        category: index into `CATEGORIES`; chooses the silhouette.
        proportions: four numbers in [-1, 1] that deform the silhouette.
        colour: of the body.
        accent: of the pattern, the trim and the ornament.
        pattern: index into `PATTERNS`.
        pattern_scale: -1 fine to 1 coarse.
        pattern_angle: radians.
        ornament: index into `ORNAMENTS`.
        ornament_at: where it sits around the middle of the body, in [-1, 1].
        gloss: 0 matte to 1 glossy.
    """

    category: int
    proportions: tuple[float, float, float, float]
    colour: Colour
    accent: Colour
    pattern: int
    pattern_scale: float
    pattern_angle: float
    ornament: int
    ornament_at: tuple[float, float]
    gloss: float
