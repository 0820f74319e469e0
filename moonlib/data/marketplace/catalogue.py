"""What is on sale: products with hidden quality, their variants, and the same products listed again by others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moonlib.data.marketplace.categories import CATEGORIES
from moonlib.data.marketplace.latents import Factors, LatentSpace
from moonlib.data.marketplace.ornaments import ORNAMENTS
from moonlib.data.marketplace.words import BRANDS, COLOURS, COMPOSITIONS, FUNCTIONS, GOOD_FOR, MADE_OF, PATTERNS, STYLES

DAYS = 30
LAUNCHED_LATELY = 0.11
RELISTED = 0.33
MERCHANTS_PER_SPU = 0.08


@dataclass(frozen=True)
class Catalogue:
    """N listings (SKUs) of S products (SPUs), in order of their listing day.

    Attributes:
        factors: of each listing.
        latent: float32 [N, D], unit length.
        spu: int64 [N], which product it is.
        size: int64 [N], index into SIZES.
        original: int64 [N], the listing that this one repeats under another photo and title; -1 if it repeats none.
        merchant: int64 [N]; merchant_region: int64 [N], index into REGIONS.
        day: int64 [N], the day it was listed, negative before the simulation starts.
        price: float64 [N]; relative_price: float64 [N], log price over its category's mean.
        quality: float64 [N], of the product and its merchant; no picture or title shows it.
        popularity: float64 [N], how much it is in demand.
        bid: float64 [N].
    """

    factors: Factors
    latent: NDArray[np.float32]
    spu: NDArray[np.int64]
    size: NDArray[np.int64]
    original: NDArray[np.int64]
    merchant: NDArray[np.int64]
    merchant_region: NDArray[np.int64]
    day: NDArray[np.int64]
    price: NDArray[np.float64]
    relative_price: NDArray[np.float64]
    quality: NDArray[np.float64]
    popularity: NDArray[np.float64]
    bid: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.spu)


def draw(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One column per row of `weights` [N, K], with probability proportional to its weight."""
    upto = weights.cumsum(axis=1)
    return (upto < rng.random((len(weights), 1)) * upto[:, -1:]).sum(axis=1)


class Fashion:
    """Which attributes go together in this world, and what is in demand on which day.

    Attributes:
        categories: int64 [C], the categories that are sold.
        demand: float64 [DAYS, C], relative demand for each of them.
        style_trend: float64 [DAYS, styles], what a day adds to the log demand for a style.
    """

    def __init__(self, categories: int, rng: np.random.Generator) -> None:
        departments = [c.department_en for c in CATEGORIES]
        names = list(MADE_OF)
        department = np.array([names.index(d) for d in departments])
        self.categories = np.sort(rng.choice(len(CATEGORIES), size=min(categories, len(CATEGORIES)), replace=False))
        # Fashions drift: logarithms of demand are random walks.
        walk = rng.normal(0, 0.08, size=(DAYS, len(CATEGORIES) + len(STYLES))).cumsum(axis=0)
        walk += rng.normal(0, 0.4, size=walk.shape[1])
        self.demand = np.exp(walk[:, self.categories])
        self.style_trend = walk[:, len(CATEGORIES) :]

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


def make_catalogue(spus: int, fashion: Fashion, space: LatentSpace, rng: np.random.Generator) -> Catalogue:
    """Draw `spus` products and their listings.

    Args:
        spus: how many different products.
        fashion: what goes together.
        space: embeds the factors.
        rng: the stream that this is a function of.
    """
    category = rng.choice(fashion.categories, size=spus, p=fashion.demand[0] / fashion.demand[0].sum())
    products = draw_factors(category, fashion, rng)
    # Shares are exact, so that worlds differ little in how much is new.
    era = rng.permutation(spus) / spus
    launched = rng.integers(-90, 1, size=spus)
    launched = np.where(era < 0.3, rng.integers(0, DAYS - 4, size=spus), launched)
    launched = np.where(era < LAUNCHED_LATELY, rng.integers(DAYS - 4, DAYS, size=spus), launched)

    # The first merchant's variants: another colour, or the same colour in another size.
    variants = draw(np.tile([0.33, 0.34, 0.22, 0.11], (spus, 1)), rng) + 1
    spu = np.repeat(np.arange(spus), variants)
    first = np.r_[0, np.cumsum(variants)[:-1]]
    number = np.arange(len(spu)) - first[spu]
    recoloured = (number > 0) & (rng.random(len(spu)) < 0.8)
    other = draw(fashion.colour_of_style[products.style[spu]], rng)
    colour = np.where(recoloured, other, products.colour[spu])
    size = np.where(recoloured, 1, (number + 1) % 3)
    merchants = max(int(spus * MERCHANTS_PER_SPU), 5)
    merchant = rng.integers(0, merchants, size=spus)[spu]
    day = launched[spu]

    again = np.flatnonzero(rng.random(len(spu)) < RELISTED)
    original = np.r_[np.full(len(spu), -1), again]
    day = np.r_[day, rng.integers(day[again], DAYS)]
    merchant = np.r_[merchant, rng.integers(0, merchants, size=len(again))]
    spu, colour, size = (np.r_[column, column[again]] for column in (spu, colour, size))

    order = np.argsort(day, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    original = np.where(original >= 0, place[original], -1)[order]
    spu, colour, size, day, merchant = (column[order] for column in (spu, colour, size, day, merchant))

    n = len(spu)
    factors = products.take(spu, colour=colour)
    tier = rng.normal(0, 0.35, size=len(BRANDS))
    base = rng.normal(4.2, 0.8, size=len(CATEGORIES))
    relative = (tier[products.brand] + rng.normal(0, 0.3, size=spus))[spu] + rng.normal(0, 0.08, size=n)
    merchant_quality = rng.normal(0, 0.5, size=merchants)
    return Catalogue(
        factors=factors,
        latent=space.embed(factors),
        spu=spu,
        size=size,
        original=original,
        merchant=merchant,
        merchant_region=rng.integers(0, 5, size=merchants)[merchant],
        day=day,
        price=np.round(np.exp(base[factors.category] + relative), 2),
        relative_price=relative,
        quality=rng.normal(0, 0.85, size=spus)[spu] + merchant_quality[merchant] + rng.normal(0, 0.5, size=n),
        popularity=rng.normal(0, 0.7, size=spus)[spu] + rng.normal(0, 0.7, size=n),
        bid=np.exp(rng.normal(-0.5, 0.4, size=n)).round(3),
    )
