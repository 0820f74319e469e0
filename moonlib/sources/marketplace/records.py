"""Writes a simulated world down: the five tables anyone sees, and the truth that training never reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.splits import Splits
from moonlib.data.tables import ACTIONS, Tables, validate
from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.detector import detect
from moonlib.sources.marketplace.fashion import DAYS, LOGGED_FROM
from moonlib.sources.marketplace.streams import mix
from moonlib.sources.marketplace.words import REGIONS
from moonlib.sources.marketplace.world import MICROSECONDS_PER_DAY, World

START = datetime(2024, 9, 2, tzinfo=UTC)
"""The first day."""

SPLITS = Splits(*(START + timedelta(days=day) for day in (LOGGED_FROM, DAYS - 4, DAYS - 3, DAYS)))

AGES = ("18-24", "25-34", "35-49", "50+")
SPENDING = ("low", "middle", "high")


class ScrambledIds:
    """The ids of a world, without order.

    Attributes:
        item, spu, user: int64, one per listing, listing and shopper.

    Args:
        world: whose rows get them.
    """

    def __init__(self, world: World) -> None:
        item, spu, user, self._search, self._query = world.streams["ids"].integers(2**63, size=5).tolist()
        self.item = mix(np.arange(len(world.catalogue)), item)
        self.spu = mix(world.catalogue.spu, spu)
        self.user = mix(np.arange(len(world.shoppers)), user)

    def searches(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of searches by their running numbers; those of the simulation come first."""
        return mix(numbers, self._search)

    def queries(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of the queries of searches."""
        return mix(numbers, self._query)


class Records:
    """The rows of a world, under ids without order.

    Args:
        world: what happened.
        boxes: float32 [M, 4], the true ones of the product in each of `World.shots`. The public tables have those that
            a detector finds.
    """

    def __init__(self, world: World, boxes: NDArray[np.float32]) -> None:
        self.world = world
        listings, searches = len(world.catalogue), len(world.traffic.user)
        ids, numbers = ScrambledIds(world), np.arange(searches)
        self.item_id, self.spu_id, self.user_id = ids.item, ids.spu, ids.user
        self.search_id, self.query_id = ids.searches(numbers), ids.queries(numbers)
        # Boxes are of main pictures and photos; those of further views have no column.
        photos_end = listings + len(world.photographed)
        again, _ = world.more_views
        number = pl.Series(np.r_[np.arange(listings), photos_end + np.arange(len(again))])
        of_listing = pl.DataFrame(
            {"listing": np.r_[np.arange(listings), again], "images": "p" + number.cast(pl.String)}
        )
        self.images = of_listing.group_by("listing", maintain_order=True).agg("images")["images"]
        boxes = boxes[:photos_end]
        found = detect(boxes, world.streams["detector"])
        self.product_box, self.found_box = _boxes(boxes[:listings]), _boxes(found[:listings])
        photos = pl.DataFrame(
            {
                "search": world.photographed,
                "image": "q" + pl.Series(np.arange(listings, photos_end)).cast(pl.String),
                "box": _boxes(boxes[listings:]),
                "found": _boxes(found[listings:]),
            }
        )
        self.photos = pl.DataFrame({"search": world.asked}).join(photos, on="search", how="left", maintain_order="left")

    def tables(self) -> Tables:
        """The public tables, validated."""
        return validate(
            Tables(
                products=self._products(),
                queries=self._queries(),
                users=self._users(),
                searches=self._searches(),
                impressions=self._impressions().drop("p_click", "p_click_no_position"),
            )
        )

    def truth(self) -> dict[str, pl.DataFrame]:
        """Tables that training must not see, by file name; `Marketplace` says what is in each."""
        c, t, listings, asked = self.world.catalogue, self.world.traffic, self.world.listings, self.world.asked
        intended = t.intended[asked]
        told = {block: flags[asked] for block, flags in t.told.items()}
        again = c.original >= 0
        wrong = [[name for name, rows in listings.wrong.items() if rows[row]] for row in range(len(c))]
        return {
            "products": pl.DataFrame(
                {
                    "item_id": self.item_id,
                    "spu_id": self.spu_id,
                    "latent": _lists(c.latent),
                    "quality": c.quality,
                    "popularity": c.popularity,
                    "box": self.product_box,
                }
            ),
            "queries": pl.DataFrame(
                {
                    "query_id": self.query_id[asked],
                    "latent": _lists(self.world.market.told(intended, t.photo[asked], told)),
                    "item_id": self.item_id[intended],
                    "spu_id": self.spu_id[intended],
                    "box": self.photos["box"],
                }
            ),
            "impressions": self._impressions().select("search_id", "item_id", "p_click", "p_click_no_position"),
            "duplicates": pl.DataFrame(
                {"item_id": self.item_id[again], "original_id": self.item_id[c.original[again]]}
            ),
            "titles": pl.DataFrame(
                {
                    "item_id": self.item_id,
                    "wrong": pl.Series(wrong, dtype=pl.List(pl.String)),
                    "stuffed": listings.stuffed,
                    "category": [CATEGORIES[k].path for k in c.factors.category],
                }
            ),
        }

    def _products(self) -> pl.DataFrame:
        c, listings = self.world.catalogue, self.world.listings
        # A day's listings come in before the shops open.
        at = c.day * MICROSECONDS_PER_DAY + self.world.streams["listed"].integers(6 * 3_600_000_000, size=len(c))
        said = [
            [{"key": name, "value": word} for name, word in zip(listings.attributes, row, strict=True) if word]
            for row in zip(*listings.attributes.values(), strict=True)
        ]
        return pl.DataFrame(
            {
                "item_id": self.item_id,
                "spu_id": self.spu_id,
                "title": listings.title,
                "category": [CATEGORIES[k].path for k in listings.category],
                "attributes": pl.Series(said, dtype=pl.List(pl.Struct({"key": pl.String, "value": pl.String}))),
                "price": c.price,
                "merchant_id": mix(c.merchant, int(self.world.streams["merchants"].integers(2**63))),
                "region": np.array(REGIONS)[c.merchant_region],
                "listed_at": times(at),
                "image": self.images.list.first(),
                "images": self.images,
                "box": self.found_box,
            }
        )

    def _queries(self) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "query_id": self.query_id[self.world.asked],
                "text": self.world.texts,
                "image": self.photos["image"],
                "box": self.photos["found"],
            }
        )

    def _users(self) -> pl.DataFrame:
        s, rng = self.world.shoppers, self.world.streams["users"]
        # What a shop knows of its shoppers hints at their taste and purse, no more.
        age = np.clip((s.cluster + rng.normal(0, 1.5, size=len(s))) // 2, 0, 3).astype(np.int64)
        spending = np.clip(np.rint(1 + s.spending * 1.5 + rng.normal(0, 0.5, size=len(s))), 0, 2).astype(np.int64)
        return pl.DataFrame(
            {
                "user_id": self.user_id,
                "region": np.array(REGIONS)[s.region],
                "age": np.array(AGES)[age],
                "spending": np.array(SPENDING)[spending],
            }
        )

    def _searches(self) -> pl.DataFrame:
        t = self.world.traffic
        search = t.acted_search
        return pl.DataFrame(
            {
                "search_id": self.search_id[search],
                "user_id": self.user_id[t.user[search]],
                "query_id": self._queries_of(search),
                "item_id": self.item_id[t.acted_item],
                "action": np.array(ACTIONS)[t.action],
                "ts": times(t.acted_ts),
                "region": np.array(REGIONS)[self.world.shoppers.region[t.user[search]]],
            }
        ).sort("ts", "search_id", "item_id")

    def _impressions(self) -> pl.DataFrame:
        t = self.world.traffic
        search, item = t.search, t.item
        return pl.DataFrame(
            {
                "search_id": self.search_id[search],
                "user_id": self.user_id[t.user[search]],
                "query_id": self._queries_of(search),
                "item_id": self.item_id[item],
                "position": t.position.astype(np.int32),
                "clicked": t.clicked,
                "ts": times(t.ts[search]),
                "propensity": t.propensity,
                "bid": self.world.catalogue.bid[item],
                "relevance": t.relevance,
                "p_click": t.p_click,
                "p_click_no_position": t.p_click_no_position,
            }
        ).sort("ts", "search_id", "position")

    def _queries_of(self, search: NDArray[np.int64]) -> pl.Series:
        """The query of each search, null in the feed and where no query was kept."""
        kept = np.zeros(len(self.query_id), dtype=bool)
        kept[self.world.asked] = True
        return pl.select(pl.when(pl.Series(kept[search])).then(pl.Series(self.query_id[search]))).to_series()


def times(microseconds: NDArray[np.int64]) -> pl.Series:
    """Moments, counted from the first day."""
    since_1970 = microseconds + int(START.timestamp()) * 1_000_000
    return pl.Series(since_1970).cast(pl.Datetime("us", "UTC"))


def _lists(rows: NDArray[np.float32]) -> pl.Series:
    return pl.Series(rows).cast(pl.List(pl.Float32))


def _boxes(boxes: NDArray[np.float32]) -> pl.Series:
    """Boxes as a column, null where they are NaN."""
    there = pl.Series(~np.isnan(boxes[:, 0]))
    return pl.DataFrame({"box": _lists(boxes)}).select(pl.when(there).then("box")).to_series()
