"""Latents of products, and the space in which products, photos, texts and tastes are compared."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.ornaments import ORNAMENTS
from moonlib.sources.marketplace.words import BRANDS, COLOURS, COMPOSITIONS, FUNCTIONS, PATTERNS, STYLES

# Share of each block in the cosine of two products. Proportions, marks and ornament can only be seen; brand,
# composition and function can only be told; category, colour, pattern and style are both.
BLOCKS: dict[str, float] = {
    "category": 0.28,
    "proportions": 0.14,
    "marks": 0.04,
    "ornament": 0.10,
    "colour": 0.12,
    "pattern": 0.06,
    "style": 0.12,
    "brand": 0.06,
    "composition": 0.04,
    "function": 0.04,
}


TREE = (0.4, 0.45, 0.15)
"""What a category's direction is made of: its department, its kind and its own; as shares, about the cosine of two."""


@dataclass(frozen=True)
class Factors:
    """The attributes of N products.

    Attributes:
        category: int64 [N], index into CATEGORIES; so are `colour`, `pattern`, `style`, `brand`, `composition` and
            `function` into their words.
        proportions: float64 [N, 4] in [-1, 1].
        pattern_scale: float64 [N] in [-1, 1].
        pattern_angle: float64 [N], radians in [0, pi).
        ornament: int64 [N], 0 is none.
        ornament_at: float64 [N, 2] in [-1, 1].
    """

    category: NDArray[np.int64]
    proportions: NDArray[np.float64]
    pattern: NDArray[np.int64]
    pattern_scale: NDArray[np.float64]
    pattern_angle: NDArray[np.float64]
    ornament: NDArray[np.int64]
    ornament_at: NDArray[np.float64]
    colour: NDArray[np.int64]
    style: NDArray[np.int64]
    brand: NDArray[np.int64]
    composition: NDArray[np.int64]
    function: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.category)

    def take(self, rows: NDArray[np.integer], **changes: NDArray[np.int64]) -> Factors:
        """The factors of `rows`, some of them replaced."""
        return Factors(**{f.name: changes.get(f.name, getattr(self, f.name)[rows]) for f in fields(self)})


def unit(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows scaled to length one; rows of zeros stay."""
    return (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def _on_circle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """[-1, 1] onto three quarters of a circle, so that every value has the same length: [N, K] → [N, 2K]."""
    angle = x * (0.75 * np.pi)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _drawn(names: list[str], rng: np.random.Generator) -> NDArray[np.float64]:
    """A random vector for each different name, float64 [N, 24]."""
    different = sorted(set(names))
    return rng.normal(size=(len(different), 24))[[different.index(name) for name in names]]


class LatentSpace:
    """Embeds factors so that the cosine of two products is the weighted share of what they have in common.

    Named values (categories, brands, materials, functions) lie in random directions, leaves near their department and
    nearer to those of their kind;
    colours lie by their hue; what is continuous lies on circles.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        kinds = [c.kind for c in CATEGORIES]
        levels = [[c.department_en for c in CATEGORIES], kinds, [c.path for c in CATEGORIES]]
        self._category = unit(
            sum(np.sqrt(share) * _drawn(names, rng) for share, names in zip(TREE, levels, strict=True))
        )
        rgb = np.array([c.rgb for c in COLOURS]) - 0.5
        self._colour = unit(np.c_[rgb, np.sqrt(0.75 - (rgb**2).sum(axis=1)) * 0.3])
        self._brand = unit(rng.normal(size=(len(BRANDS), 12)))
        self._composition = unit(rng.normal(size=(len(COMPOSITIONS), 8)))
        self._function = unit(rng.normal(size=(len(FUNCTIONS), 8)))

    def embed(self, factors: Factors, known: dict[str, NDArray[np.bool_]] | None = None) -> NDArray[np.float32]:
        """Latent vectors of unit length.

        Args:
            factors: of N products.
            known: which blocks each row tells of, bool [N] by block; what is not named is unknown. None: all.

        Returns:
            float32 [N, D].
        """
        ornate, printed = factors.ornament > 0, factors.pattern > 0
        marks = _on_circle(factors.pattern_scale[:, None])
        angle = 2 * factors.pattern_angle[:, None]
        place = _on_circle(factors.ornament_at) * ornate[:, None]
        blocks: dict[str, NDArray[np.floating]] = {
            "category": self._category[factors.category],
            "proportions": _on_circle(factors.proportions),
            "marks": np.concatenate([marks, np.cos(angle), np.sin(angle)], axis=1) * printed[:, None],
            "ornament": np.concatenate([1.7 * np.eye(len(ORNAMENTS))[factors.ornament], place], axis=1),
            "colour": self._colour[factors.colour],
            "pattern": np.eye(len(PATTERNS))[factors.pattern],
            "style": np.eye(len(STYLES))[factors.style],
            "brand": self._brand[factors.brand],
            "composition": self._composition[factors.composition],
            "function": self._function[factors.function],
        }
        parts = [np.sqrt(share) * unit(blocks[name]) for name, share in BLOCKS.items()]
        if known is not None:
            nothing = np.zeros(len(factors), dtype=bool)
            parts = [part * known.get(name, nothing)[:, None] for name, part in zip(BLOCKS, parts, strict=True)]
        return unit(np.concatenate(parts, axis=1))

    def look(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents that taste depends on: those without their category, of unit length again."""
        return unit(self.without_category(latents))

    def without_category(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The columns of latents [..., D] that are not of the category."""
        return latents[..., self._category.shape[1] :]

    def without_told(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents [..., D] without what only texts tell: columns of brand, composition and function are 0."""
        told = sum(block.shape[1] for block in (self._brand, self._composition, self._function))  # the last blocks
        left = latents.copy()
        left[..., latents.shape[-1] - told :] = 0
        return left
