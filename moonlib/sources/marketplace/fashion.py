"""Which attributes go together, and what is in demand when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.latents import Factors
from moonlib.sources.marketplace.ornaments import ORNAMENTS
from moonlib.sources.marketplace.words import (
    BRANDS,
    COLOURS,
    COMPOSITIONS,
    FUNCTIONS,
    GOOD_FOR,
    MADE_OF,
    PATTERNS,
    STYLES,
)

DAYS = 210
"""How long the simulation runs."""

QUERIES_FROM = 180
"""The day from which a search leaves its query behind; before it, only what shoppers did."""

LOGGED_FROM = 198
"""The day from which impressions are logged."""

STEEPNESS = 0.6
"""The category of rank r is in demand in proportion to r^-STEEPNESS, r from 1."""

SEASON = 0.15
"""By how much the logarithm of a category's demand swings over a year, typically."""


def draw(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One column per row of `weights` [N, K], with probability proportional to its weight."""
    upto = weights.cumsum(axis=1)
    return (upto < rng.random((len(weights), 1)) * upto[:, -1:]).sum(axis=1)


class Fashion:
    """Which attributes go together in this world, and what is in demand on which day.

    Attributes:
        categories: int64 [C], the categories that are sold.
        season: float64 [DAYS, all categories], by what factor a day changes the demand for a category.
        demand: float64 [DAYS, C], relative demand for each of `categories`: a few have most of it.
        style_trend: float64 [DAYS, styles], what a day adds to the log demand for a style.
    """

    def __init__(self, categories: int, rng: np.random.Generator) -> None:
        departments = [c.department_en for c in CATEGORIES]
        names = list(MADE_OF)
        department = np.array([names.index(d) for d in departments])
        self.categories = np.sort(rng.choice(len(CATEGORIES), size=min(categories, len(CATEGORIES)), replace=False))
        swing = SEASON * np.exp(rng.normal(0, 0.4, size=len(CATEGORIES)))
        turn = np.arange(DAYS)[:, None] / 365 + rng.random(len(CATEGORIES))
        self.season = np.exp(swing * np.cos(2 * np.pi * turn))
        rank = 1 + rng.permutation(len(self.categories))
        self.demand = rank**-STEEPNESS * self.season[:, self.categories]
        # Fashions drift: logarithms of demand for styles are random walks.
        trend = rng.normal(0, 0.03, size=(DAYS, len(STYLES))).cumsum(axis=0)
        self.style_trend = trend + rng.normal(0, 0.4, size=len(STYLES))

        def leaning(rows: int, columns: int, favourites: int, weight: float) -> NDArray[np.float64]:
            table = np.exp(rng.normal(0, 0.3, size=(rows, columns)))
            chosen = rng.random((rows, columns)).argsort(axis=1)[:, :favourites]
            np.put_along_axis(table, chosen, weight * np.take_along_axis(table, chosen, axis=1), axis=1)
            return table

        self.brand_of_category = leaning(len(names), len(BRANDS), 9, 40.0)[department]
        self.style_of_brand = leaning(len(BRANDS), len(STYLES), 2, 10.0)
        self.pattern_of_style = leaning(len(STYLES), len(PATTERNS), 2, 3.0)
        self.pattern_of_style[:, 0] *= 2.0
        self.ornament_of_style = leaning(len(STYLES), len(ORNAMENTS), 2, 2.0)
        common = np.exp(rng.normal(0, 0.4, size=len(COLOURS)))
        self.colour_of_style = leaning(len(STYLES), len(COLOURS), 5, 3.0) * common
        made_of = np.array([np.isin(np.arange(len(COMPOSITIONS)), MADE_OF[d]) for d in departments])
        good_for = np.array([np.isin(np.arange(len(FUNCTIONS)), GOOD_FOR[d]) for d in departments])
        self.composition_of_category = made_of.astype(np.float64)
        self.function_of_category = good_for.astype(np.float64)


def draw_factors(categories: NDArray[np.int64], fashion: Fashion, rng: np.random.Generator) -> Factors:
    """Factors of one new product for each of `categories`: brands keep to their styles, styles to their looks."""
    n = len(categories)
    brand = draw(fashion.brand_of_category[categories], rng)
    style = draw(fashion.style_of_brand[brand], rng)
    return Factors(
        category=categories,
        proportions=np.tanh(rng.normal(0, 0.75, size=(n, 4))),
        pattern=draw(fashion.pattern_of_style[style], rng),
        pattern_scale=rng.uniform(-1, 1, size=n),
        pattern_angle=rng.random(n) * np.pi,
        ornament=draw(fashion.ornament_of_style[style], rng),
        ornament_at=rng.uniform(-1, 1, size=(n, 2)),
        colour=draw(fashion.colour_of_style[style], rng),
        style=style,
        brand=brand,
        composition=draw(fashion.composition_of_category[categories], rng),
        function=draw(fashion.function_of_category[categories], rng),
    )
