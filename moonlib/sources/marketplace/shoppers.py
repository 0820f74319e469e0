"""Who shops: tastes that last, interests that hold for weeks, prices and brands they like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.fashion import Fashion, draw_factors
from moonlib.sources.marketplace.latents import LatentSpace, unit
from moonlib.sources.marketplace.words import BRANDS, REGIONS

CLUSTERS = 8
INTERESTS = 2
INTEREST_DAYS = 12
SPELLS = 4


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
        phase: int64 [U], days by which their spells of interest are shifted.
        taste: float32 [U, SPELLS, L], unit vectors of looks; it drifts slowly.
        interest: int64 [U, SPELLS, INTERESTS], the categories they keep coming back to during a spell.
        wanted: float32 [U, SPELLS, INTERESTS, L], the look they have in mind for each of those.
    """

    region: NDArray[np.int64]
    cluster: NDArray[np.int64]
    spending: NDArray[np.float64]
    thrift: NDArray[np.float64]
    activity: NDArray[np.float64]
    brands: NDArray[np.int64]
    speaks_chinese: NDArray[np.float64]
    phase: NDArray[np.int64]
    taste: NDArray[np.float32]
    interest: NDArray[np.int64]
    wanted: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.region)

    def spell(self, users: NDArray[np.int64], day: int) -> NDArray[np.int64]:
        """Which of their spells of interest the users are in on this day."""
        return np.minimum((day + self.phase[users]) // INTEREST_DAYS, SPELLS - 1)


def make_shoppers(count: int, fashion: Fashion, space: LatentSpace, rng: np.random.Generator) -> Shoppers:
    """Draw `count` shoppers. A taste is the look of an ideal product: their cluster's mixed with one of their own."""

    def ideals(n: int) -> NDArray[np.float32]:
        return space.look(space.embed(draw_factors(rng.choice(fashion.categories, size=n), fashion, rng)))

    cluster = rng.integers(0, CLUSTERS, size=count)
    shared = ideals(CLUSTERS)[cluster]
    now, later = unit(shared + 0.6 * ideals(count)), unit(shared + 0.6 * ideals(count))
    drift = np.linspace(0, 0.5, SPELLS)[None, :, None]
    taste = unit((1 - drift) * now[:, None] + drift * later[:, None])
    own = ideals(count * SPELLS * INTERESTS).reshape(count, SPELLS, INTERESTS, -1)
    popular = fashion.demand[0] / fashion.demand[0].sum()
    activity = np.exp(rng.normal(0, 0.8, size=count))
    return Shoppers(
        region=rng.integers(0, len(REGIONS), size=count),
        cluster=cluster,
        spending=rng.normal(0, 0.45, size=count),
        thrift=np.exp(rng.normal(0, 0.4, size=count)),
        activity=activity / activity.sum(),
        brands=rng.integers(0, len(BRANDS), size=(count, 3)),
        speaks_chinese=rng.choice([0.02, 0.5, 0.98], size=count, p=[0.4, 0.1, 0.5]),
        phase=rng.integers(0, INTEREST_DAYS, size=count),
        taste=taste,
        interest=rng.choice(fashion.categories, size=(count, SPELLS, INTERESTS), p=popular),
        wanted=unit(taste[:, :, None] + 0.5 * own),
    )
