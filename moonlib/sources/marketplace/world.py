"""A whole simulation: what is sold, who shops, what happened and what was written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.album import Shots, dress
from moonlib.sources.marketplace.catalogue import SimulatedCatalogue, make_catalogue
from moonlib.sources.marketplace.fashion import LOGGED_FROM, QUERIES_FROM, Fashion
from moonlib.sources.marketplace.interests import Interests
from moonlib.sources.marketplace.latents import LatentSpace
from moonlib.sources.marketplace.market import Market
from moonlib.sources.marketplace.shoppers import Shoppers, make_shoppers
from moonlib.sources.marketplace.streams import Streams, mix
from moonlib.sources.marketplace.titles import Listings, write_listings, write_queries
from moonlib.sources.marketplace.traffic import SEARCHES_PER_VISIT, Traffic, simulate

VERSION = 2
"""A change to anything the simulation makes is a new version, and every published table is run again."""

VIEWS = (0.4, 0.3, 0.2, 0.1)
"""Shares of the listings with one to four pictures."""

TEXTS_AT_ONCE = 65_536
"""Queries that are written together, as for `moonlib.sources.marketplace.traffic.VISITS_AT_ONCE`."""

MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Size:
    """How large a marketplace is."""

    number: int
    spus: int
    categories: int
    users: int
    searches_per_day: int
    picture: int


SIZES = {
    "tiny": Size(number=0, spus=110, categories=8, users=150, searches_per_day=80, picture=64),
    "small": Size(number=1, spus=2_900, categories=134, users=6_000, searches_per_day=1_600, picture=96),
    "medium": Size(number=2, spus=18_000, categories=134, users=37_000, searches_per_day=10_000, picture=96),
    "large": Size(number=3, spus=73_000, categories=134, users=150_000, searches_per_day=40_000, picture=96),
}


@dataclass(frozen=True)
class World:
    """Everything about one marketplace except its pictures.

    Attributes:
        size: how large it is.
        streams: where its chance comes from.
        market: the catalogue and its shoppers, ready to be searched again.
        traffic: what happened.
        listings: what merchants wrote about the catalogue.
        texts: what shoppers typed in the `asked` searches, None for photos alone.
        text_ids: whether the shop's ids are text; everything else is the same.
    """

    size: Size
    streams: Streams
    market: Market
    traffic: Traffic
    listings: Listings
    texts: list[str | None]
    text_ids: bool = False

    @classmethod
    def simulate(cls, size: str, seed: int, *, text_ids: bool = False, folder: Path | None = None) -> World:
        """Run the marketplace of a size and a seed.

        Args:
            size: one of `SIZES`.
            seed: 0 or more.
            text_ids: see `World`.
            folder: an empty one for what happens, to map it from files; None holds it in memory.
        """
        scale = SIZES[size]
        streams = Streams(VERSION, scale.number, seed)
        space = LatentSpace(streams["latents"])
        fashion = Fashion(scale.categories, streams["fashion"])
        catalogue = make_catalogue(scale.spus, fashion, space, streams["catalogue"])
        shoppers = make_shoppers(scale.users, fashion, space, streams["shoppers"])
        per_day = round(scale.searches_per_day / SEARCHES_PER_VISIT)
        interests = Interests(shoppers.activity, per_day, fashion, streams["interests"])
        market = Market(catalogue, shoppers, interests, fashion, space)
        traffic = simulate(market, streams["traffic"], folder)
        listings = write_listings(catalogue, fashion.categories, streams["titles"])
        world = cls(scale, streams, market, traffic, listings, [], text_ids)
        rng, asked = streams["texts"], world.asked
        chinese = rng.random(len(asked)) < shoppers.speaks_chinese[traffic.user[asked]]
        texts: list[str | None] = []
        for start in range(0, len(asked), TEXTS_AT_ONCE):
            rows = asked[start : start + TEXTS_AT_ONCE]
            told = {block: flags[rows] for block, flags in traffic.told.items()}
            intended = catalogue.factors.take(traffic.intended[rows])
            texts += write_queries(intended, told, chinese[start : start + TEXTS_AT_ONCE], rng)
        return replace(world, texts=texts)

    @property
    def catalogue(self) -> SimulatedCatalogue:
        """The simulated catalogue."""
        return self.market.catalogue

    @property
    def shoppers(self) -> Shoppers:
        """Who shops."""
        return self.market.shoppers

    @cached_property
    def day(self) -> NDArray[np.int16]:
        """The day of each search."""
        return (self.traffic.ts // MICROSECONDS_PER_DAY).astype(np.int16)

    @cached_property
    def asked(self) -> NDArray[np.int64]:
        """The searches whose queries are kept: from `QUERIES_FROM` on, those that left impressions or actions."""
        trace = self.day >= LOGGED_FROM
        trace[self.traffic.acted_search] = True
        return np.flatnonzero(trace & (self.day >= QUERIES_FROM) & (self.traffic.intended >= 0))

    @cached_property
    def photographed(self) -> NDArray[np.int64]:
        """The searches with a photo among the `asked`."""
        return self.asked[self.traffic.photo[self.asked]]

    @cached_property
    def more_views(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pictures that listings have beyond their first: of which listing, in order, and which view of it."""
        more = self.streams["views"].choice(len(VIEWS), size=len(self.catalogue), p=VIEWS)
        listing = np.repeat(np.arange(len(more)), more)
        return listing, 1 + np.arange(len(listing)) - np.repeat(np.cumsum(more) - more, more)

    def shots(self) -> Shots:
        """The pictures to take: one for each listing, one for each of `photographed`, one for each of `more_views`."""
        rng = self.streams["pictures"]
        listings, photos, searches = len(self.catalogue), len(self.photographed), len(self.traffic.user)
        again, view = self.more_views
        turned = (self.catalogue.original >= 0) & (rng.random(listings) < 0.6)
        first_again = listings + searches
        number = np.r_[np.arange(listings), listings + self.photographed, first_again + np.arange(len(again))]
        # A picture that shows the listing like its first one shows it straight instead.
        view = np.where((view == 1) & turned[again], 0, view)
        return Shots(
            looks=dress(self.catalogue, rng),
            listing=np.r_[np.arange(listings), self.traffic.intended[self.photographed], again],
            seed=mix(number, salt=int(rng.integers(2**63))) >> 1 & (2**62 - 1),
            view=np.r_[turned.astype(np.int64), np.full(photos, -1), view],
            quality=np.r_[np.full(listings, 90), rng.integers(70, 86, size=photos), np.full(len(again), 90)],
            size=self.size.picture,
        )
