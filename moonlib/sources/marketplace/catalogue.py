"""Products with hidden quality, their variants, and the same products listed again by others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.fashion import DAYS, Fashion, draw, draw_factors
from moonlib.sources.marketplace.latents import Factors, LatentSpace
from moonlib.sources.marketplace.words import BRANDS, REGIONS

LAUNCHED_LATELY = 0.11
"""Share of products that come out during the last four days."""

LAUNCHED = 0.6
"""Share of products that come out during the simulation."""

RELISTED = 0.33
"""Listings that another merchant lists again."""

MERCHANTS_PER_SPU = 0.08


@dataclass(frozen=True)
class SimulatedCatalogue:
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


def make_catalogue(spus: int, fashion: Fashion, space: LatentSpace, rng: np.random.Generator) -> SimulatedCatalogue:
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
    launched = rng.integers(-365, 1, size=spus)
    launched = np.where(era < LAUNCHED, rng.integers(0, DAYS - 4, size=spus), launched)
    launched = np.where(era < LAUNCHED_LATELY, rng.integers(DAYS - 4, DAYS, size=spus), launched)

    # The first merchant's variants: another colour, or the same colour in another size.
    variants = draw(np.tile([0.33, 0.34, 0.22, 0.11], (spus, 1)), rng) + 1
    spu = np.repeat(np.arange(spus), variants)
    first = np.r_[0, np.cumsum(variants)[:-1]]
    number = np.arange(len(spu)) - first[spu]
    recoloured = (number > 0) & (rng.random(len(spu)) < 0.8)
    another = draw(fashion.colour_of_style[products.style[spu]], rng)
    colour = np.where(recoloured, another, products.colour[spu])
    size = np.where(recoloured, 1, (number + 1) % 3)
    merchants = max(int(spus * MERCHANTS_PER_SPU), 5)
    merchant = rng.integers(0, merchants, size=spus)[spu]
    day = launched[spu]

    # Other merchants list some of them again.
    again = np.flatnonzero(rng.random(len(spu)) < RELISTED)
    original = np.r_[np.full(len(spu), -1), again]
    day = np.r_[day, rng.integers(day[again], DAYS)]
    other = (merchant[again] + rng.integers(1, merchants, size=len(again))) % merchants
    merchant = np.r_[merchant, other]
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
    return SimulatedCatalogue(
        factors=factors,
        latent=space.embed(factors),
        spu=spu,
        size=size,
        original=original,
        merchant=merchant,
        merchant_region=rng.integers(0, len(REGIONS), size=merchants)[merchant],
        day=day,
        price=np.round(np.exp(base[factors.category] + relative), 2),
        relative_price=relative,
        quality=rng.normal(0, 0.85, size=spus)[spu] + merchant_quality[merchant] + rng.normal(0, 0.5, size=n),
        popularity=rng.normal(0, 0.7, size=spus)[spu] + rng.normal(0, 0.7, size=n),
        bid=np.exp(rng.normal(-0.5, 0.4, size=n)).round(3),
    )
