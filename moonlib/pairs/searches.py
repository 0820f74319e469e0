"""Pairs of a query and what it led to, cleaned by filters."""

from __future__ import annotations

import logging
import time
from typing import Literal

import numpy as np
import polars as pl

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import FILTERS, SEARCHES
from moonlib.artifacts.reading import read_table
from moonlib.data.reads import Moment, Reads
from moonlib.data.tables import Action, Tables
from moonlib.filters.apply import apply_filters
from moonlib.filters.filter import Encoded, Filter
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs, search_pairs
from moonlib.representations.store import Representations
from moonlib.system.disk import replacing

log = logging.getLogger(__name__)


class SearchPairs(PairSource):
    """Every query with the items that shoppers clicked or bought after it.

    All items that a query led to are its positives, wherever in the pool they appear; other SKUs of their SPUs are
    left out of the denominator. What filters remove stands in ``filters.json``.

    Args:
        actions: which actions make an item a positive of its query.
        until: which searches are read: those before the days that the CTR model trains on (``behaviour``), or all
            before the end of training (``train``: the CTR model then trains on days the encoder has seen).
        filters: clean the searches, in order; one that compares representations sees those of the encoder as it is
            when the stage begins.
    """

    def __init__(
        self,
        actions: list[Action] = ["click", "cart", "order"],  # noqa: B006  (a recipe's default is read, never written)
        until: Literal["behaviour", "train"] = "behaviour",
        filters: list[Filter] = [],  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        self.actions = actions
        self.until = until
        self.filters = filters

    def reads(self) -> Reads:
        """Searches of the days that are learnt from, and what filters read; see `PairSource.reads`."""
        until: Moment = "train_until" if self.until == "train" else "behaviour_until"
        columns = ["query_id", "item_id", "action", *(["user_id"] if self.filters else [])]
        found = Reads.of(searches=columns, moments=["behaviour_until", until]).before(until)
        if self.filters:
            shown = ["query_id", "item_id"]
            tables = Reads.of(products=["listed_at"], queries=[], impressions=shown, moments=["train_until"])
            found |= tables.before("train_until") | Reads.of(users=[])
        for each in self.filters:
            found |= each.reads().before("behaviour_until")  # of the rows that are read anyway
        return found

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        """Choose the pairs; see `PairSource.pairs`."""
        dataset = context.dataset
        searches = dataset.splits.check(dataset.searches, "behaviour", "searches")
        if self.until == "train":
            searches = pl.concat([searches, dataset.splits.select(dataset.searches, "train")])
        searches = with_query(searches)
        pairs = search_pairs(searches, actions=self.actions)
        if self.filters:
            left = self.filtered(context, searches.filter(pl.col("action").is_in(self.actions)))
            # A pair that is not trained on is still no negative: what is known of its query stays known.
            keys = ["query_id", "item_id"]
            rows = pl.DataFrame({"query_id": pairs.query_id, "item_id": pairs.item_id}).with_row_index("row")
            pairs = pairs[rows.join(left, on=keys, how="semi").sort("row")["row"].to_numpy().astype(np.int64)]
        return pairs, searches

    def filtered(self, context: PairContext, searches: pl.DataFrame) -> pl.DataFrame:
        """The searches that the filters leave; made once, by the first process, and kept for the others and for later.

        Args:
            context: see `PairContext`.
            searches: those whose actions make positives.
        """
        file, dataset = context.directory / SEARCHES, context.dataset
        ids = ("search_id", "user_id", "query_id", "item_id")
        while not file.exists():
            if context.first:
                tables, report = apply_filters(
                    self.filters, training_tables(context, searches), lambda: self.encoded(context, searches)
                )
                write_json(context.directory / FILTERS, report)
                with replacing(file) as partial:
                    dataset.ids.decoded(tables.searches, *ids).write_parquet(partial)
                for side in ("products", "queries"):
                    Representations.remove(context.directory, f"filters.{side}")
            else:
                time.sleep(0.05)
        return dataset.ids.encoded(read_table(file), *ids)

    def encoded(self, context: PairContext, searches: pl.DataFrame) -> Encoded:
        """Representations of the products and queries of these searches, by the encoder as it is now."""
        pairs = search_pairs(searches, actions=self.actions)
        items = searches["item_id"].unique().sort().to_numpy()
        return Encoded(*context.represent(pairs, items, "filters"))


def with_query(searches: pl.DataFrame) -> pl.DataFrame:
    """Leave out the events that had no query, and say how many there are.

    Raises:
        ValueError: none had one.
    """
    asked = searches.drop_nulls("query_id")
    if asked.is_empty() and len(searches):
        raise ValueError(
            f"none of the {len(searches):,} searches to learn from has a query_id, and pairs are made of a query and "
            "what it led to: leave the stage out (--stages.posttrain null), or build the dataset with queries"
        )
    if left := len(searches) - len(asked):
        log.warning(f"searches without a query, which make no pair: {left:,} of {len(searches):,}")
    return asked


def training_tables(context: PairContext, searches: pl.DataFrame) -> Tables:
    """The tables that training may see: products and events from before its end, and nothing that these do not name."""
    dataset = context.dataset
    ends = dataset.splits.train_until
    shown = dataset.impressions.filter(pl.col("ts") < ends)
    named = pl.concat([searches["item_id"], shown["item_id"]]).unique()
    asked = pl.concat([searches["query_id"], shown["query_id"]]).unique()
    return Tables(
        products=dataset.products.filter((pl.col("listed_at") < ends) | pl.col("item_id").is_in(named.implode())),
        queries=dataset.queries.filter(pl.col("query_id").is_in(asked.implode())),
        users=dataset.users,
        searches=searches,
        impressions=shown,
        ids=dataset.ids,
    )
