"""Writes a simulated world down: the five tables anyone sees, and the truth that training never reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.splits import Splits
from moonlib.data.tables import ACTIONS, KEYS, Tables, empty, validate
from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.detector import detect
from moonlib.sources.marketplace.fashion import DAYS, LOGGED_FROM
from moonlib.sources.marketplace.ids import WorldIds
from moonlib.sources.marketplace.words import REGIONS
from moonlib.sources.marketplace.world import MICROSECONDS_PER_DAY, World
from moonlib.system.console import progress

START = datetime(2024, 9, 2, tzinfo=UTC)
"""The first day."""

SPLITS = Splits(*(START + timedelta(days=day) for day in (LOGGED_FROM, DAYS - 4, DAYS - 3, DAYS)))

AGES = ("18-24", "25-34", "35-49", "50+")
SPENDING = ("low", "middle", "high")

_PATHS = np.array([category.path for category in CATEGORIES])
_ROWS_AT_ONCE = 2**17
"""About as many rows of a large table are in memory at once."""


class Records:
    """The rows of a world, under ids without order.

    Args:
        world: what happened.
        boxes: float32 [M, 4], the true ones of the product in each of `World.shots`. The public tables have those that
            a detector finds.
    """

    def __init__(self, world: World, boxes: NDArray[np.float32]) -> None:
        self.world, self.ids = world, WorldIds(world)
        listings = len(world.catalogue)
        self.kept = np.zeros(len(world.traffic.user), dtype=bool)
        self.kept[world.asked] = True
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
        """The public tables without those of events, validated."""
        products, queries, users = self._products(), self._queries(), self._users()
        return validate(Tables(products=products, queries=queries, users=users, ids=self.ids.shop))

    def events(self, tables: Tables) -> dict[str, Iterator[pl.DataFrame]]:
        """The public tables of events, validated, in parts of some days.

        Args:
            tables: what `tables` returned.
        """
        keys = {table: tables[table][key] for table, key in KEYS.items()}
        public = (part.drop("p_click", "p_click_no_position") for part in self._impressions())

        def checked(table: str, parts: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
            with progress() as bars:
                bar = bars.add_task(f"Writing {table}", total=rows)
                for part in parts:
                    tables = Tables(**{"products": empty("products"), table: part}, ids=self.ids.shop)
                    yield validate(tables, earlier=keys)[table]
                    bars.advance(bar, part.height)

        t = self.world.traffic
        return {
            "searches": checked("searches", self._searches(), len(t.action)),
            "impressions": checked("impressions", public, len(t.item)),
        }

    def truth(self) -> dict[str, Iterator[pl.DataFrame]]:
        """Tables that training must not see, by file name, in parts; `Marketplace` says what is in each."""
        return {
            "products": iter([self._true_products()]),
            "queries": self._true_queries(),
            "impressions": (
                part.select("search_id", "item_id", "p_click", "p_click_no_position") for part in self._impressions()
            ),
            "duplicates": iter([self._duplicates()]),
            "titles": iter([self._true_titles()]),
        }

    def _true_products(self) -> pl.DataFrame:
        c = self.world.catalogue
        return pl.DataFrame(
            {
                "item_id": self.ids.item,
                "spu_id": self.ids.spu,
                "latent": _lists(c.latent),
                "quality": c.quality,
                "popularity": c.popularity,
                "box": self.product_box,
            }
        )

    def _true_queries(self) -> Iterator[pl.DataFrame]:
        t, asked = self.world.traffic, self.world.asked
        for start in range(0, len(asked), _ROWS_AT_ONCE):
            rows = asked[start : start + _ROWS_AT_ONCE]
            intended = t.intended[rows]
            told = {block: flags[rows] for block, flags in t.told.items()}
            yield pl.DataFrame(
                {
                    "query_id": self.ids.queries(rows),
                    "latent": _lists(self.world.market.told(intended, t.photo[rows], told)),
                    "item_id": self.ids.item[intended],
                    "spu_id": self.ids.spu[intended],
                    "box": self.photos["box"].slice(start, len(rows)),
                }
            )

    def _duplicates(self) -> pl.DataFrame:
        original = self.world.catalogue.original
        again = original >= 0
        return pl.DataFrame({"item_id": self.ids.item[again], "original_id": self.ids.item[original[again]]})

    def _true_titles(self) -> pl.DataFrame:
        listings = self.world.listings
        return pl.DataFrame(
            {
                "item_id": self.ids.item,
                "wrong": _wrong(listings.wrong),
                "stuffed": listings.stuffed,
                "category": _PATHS[self.world.catalogue.factors.category],
            }
        )

    def _products(self) -> pl.DataFrame:
        c, listings = self.world.catalogue, self.world.listings
        # A day's listings come in before the shops open.
        at = c.day * MICROSECONDS_PER_DAY + self.world.streams["listed"].integers(6 * 3_600_000_000, size=len(c))
        return pl.DataFrame(
            {
                "item_id": self.ids.item,
                "spu_id": self.ids.spu,
                "title": listings.title,
                "category": _PATHS[listings.category],
                "attributes": _said(listings.attributes),
                "price": c.price,
                "merchant_id": self.ids.merchant,
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
                "query_id": self.ids.queries(self.world.asked),
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
                "user_id": self.ids.user,
                "region": np.array(REGIONS)[s.region],
                "age": np.array(AGES)[age],
                "spending": np.array(SPENDING)[spending],
            }
        )

    def _searches(self) -> Iterator[pl.DataFrame]:
        """Actions of shoppers."""
        t = self.world.traffic
        for rows in _spans(t.acted_ts):
            search = t.acted_search[rows]
            yield pl.DataFrame(
                {
                    "search_id": self.ids.searches(search),
                    "user_id": self.ids.user[t.user[search]],
                    "query_id": self._queries_of(search),
                    "item_id": self.ids.item[t.acted_item[rows]],
                    "action": np.array(ACTIONS)[t.action[rows]],
                    "ts": times(t.acted_ts[rows]),
                    "region": np.array(REGIONS)[self.world.shoppers.region[t.user[search]]],
                }
            ).sort("ts", "search_id", "item_id")

    def _impressions(self) -> Iterator[pl.DataFrame]:
        """Impressions, with the truth about them."""
        t = self.world.traffic
        for rows in _spans(t.ts[t.search]):
            search, item = t.search[rows], t.item[rows]
            yield pl.DataFrame(
                {
                    "search_id": self.ids.searches(search),
                    "user_id": self.ids.user[t.user[search]],
                    "query_id": self._queries_of(search),
                    "item_id": self.ids.item[item],
                    "position": t.position[rows].astype(np.int32),
                    "clicked": t.clicked[rows],
                    "ts": times(t.ts[search]),
                    "propensity": t.propensity[rows],
                    "bid": self.world.catalogue.bid[item],
                    "relevance": t.relevance[rows].astype(np.float64),
                    "p_click": t.p_click[rows],
                    "p_click_no_position": t.p_click_no_position[rows],
                }
            ).sort("ts", "search_id", "position")

    def _queries_of(self, search: NDArray[np.int32]) -> pl.Series:
        """The query of each search, null in the feed and where no query was kept."""
        kept = pl.Series(self.kept[search])
        return pl.select(pl.when(kept).then(pl.Series(self.ids.queries(search)))).to_series()


def _spans(ts: NDArray[np.int64]) -> Iterator[slice]:
    """Divide rows between days, as many days together as fit.

    All rows of a day come before those of the next. This is checked, because then sorting each span sorts all rows.
    """
    midnight = np.arange(DAYS + 1) * MICROSECONDS_PER_DAY
    first = np.searchsorted(ts, midnight)
    day = 0
    while day < DAYS:
        end = max(int(np.searchsorted(first, first[day] + _ROWS_AT_ONCE, side="right")) - 1, day + 1)
        rows = slice(int(first[day]), int(first[end]))
        if rows.start < rows.stop:
            there = ts[rows]
            assert midnight[day] <= there.min() <= there.max() < midnight[end], "what begins on a day must end on it"
            yield rows
        day = end
    assert first[-1] == len(ts)


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


def _said(attributes: dict[str, list[str | None]]) -> pl.Series:
    """The attributes of listings as lists of (key, value), without what is not said."""
    pairs = [pl.struct(key=pl.lit(name), value=pl.col(name)) for name in attributes]
    said = pl.element().struct.field("value").is_not_null()
    words = pl.DataFrame(attributes, schema=dict.fromkeys(attributes, pl.String))
    return words.select(attributes=pl.concat_list(pairs).list.filter(said)).to_series()


def _wrong(marked: dict[str, NDArray[np.bool_]]) -> pl.Series:
    """The names of what each listing has wrong, as lists."""
    names = [pl.when(pl.col(name)).then(pl.lit(name)) for name in marked]
    return pl.DataFrame(marked).select(wrong=pl.concat_list(names).list.drop_nulls()).to_series()
