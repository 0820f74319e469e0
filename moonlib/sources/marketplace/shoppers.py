"""Who shops: tastes that last, prices and brands they like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.fashion import DAYS, Fashion, draw_factors
from moonlib.sources.marketplace.interests import IDEALS
from moonlib.sources.marketplace.latents import LatentSpace, unit
from moonlib.sources.marketplace.words import BRANDS, REGIONS

CLUSTERS = 8

SPREAD = 1.25
"""Shape of the gamma distribution of activity: visits per shopper are negative binomial."""

OWN = 0.8
"""How much of the look wanted is the interest's own, beside the shopper's taste."""


@dataclass(frozen=True)
class Shoppers:
    """U shoppers.

    Attributes:
        region: int64 [U], index into REGIONS.
        cluster: int64 [U], the taste cluster.
        spending: float64 [U], the relative (log) price that suits them.
        thrift: float64 [U], how much a price that doesn't suit them puts them off.
        activity: float64 [U], how often they come, as a share of all visits.
        brands: int64 [U, 3], favourite brands.
        speaks_chinese: float64 [U], the chance that they write a query in Chinese.
        first_taste, last_taste: float32 [U, L], unit vectors of looks: what they like on the first day, and half of
            what they like on the last.
        ideals: float32 [IDEALS, L], the looks that interests may have.
    """

    region: NDArray[np.int64]
    cluster: NDArray[np.int64]
    spending: NDArray[np.float64]
    thrift: NDArray[np.float64]
    activity: NDArray[np.float64]
    brands: NDArray[np.int64]
    speaks_chinese: NDArray[np.float64]
    first_taste: NDArray[np.float32]
    last_taste: NDArray[np.float32]
    ideals: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.region)

    def taste(self, users: Ids, day: int) -> NDArray[np.float32]:
        """The looks that users like on a day, float32 [B, L]; they drift slowly."""
        drift = np.float32(0.5 * day / (DAYS - 1))
        return unit((1 - drift) * self.first_taste[users] + drift * self.last_taste[users])

    def wanted(self, users: Ids, day: int, ideal: Ids) -> NDArray[np.float32]:
        """The looks that users want of what an interest is about, float32 [B, L]."""
        return unit(self.taste(users, day) + OWN * self.ideals[ideal])


def make_shoppers(count: int, fashion: Fashion, space: LatentSpace, rng: np.random.Generator) -> Shoppers:
    """Draw `count` shoppers. A taste is the look of an ideal product: their cluster's mixed with one of their own."""

    def ideals(n: int) -> NDArray[np.float32]:
        return space.look(space.embed(draw_factors(rng.choice(fashion.categories, size=n), fashion, rng)))

    cluster = rng.integers(0, CLUSTERS, size=count)
    shared = ideals(CLUSTERS)[cluster]
    activity = rng.gamma(SPREAD, size=count)
    return Shoppers(
        region=rng.integers(0, len(REGIONS), size=count),
        cluster=cluster,
        spending=rng.normal(0, 0.45, size=count),
        thrift=np.exp(rng.normal(0, 0.4, size=count)),
        activity=activity / activity.sum(),
        brands=rng.integers(0, len(BRANDS), size=(count, 3)),
        speaks_chinese=rng.choice([0.02, 0.5, 0.98], size=count, p=[0.4, 0.1, 0.5]),
        first_taste=unit(shared + 0.6 * ideals(count)),
        last_taste=unit(shared + 0.6 * ideals(count)),
        ideals=ideals(IDEALS),
    )
