"""Pairs of products that one shopper acted on, close in time."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import polars as pl

from moonlib.data.reads import Moment, Reads
from moonlib.data.tables import Action
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs

Within = Literal["window", "session"]


class ItemItemPairs(PairSource):
    """Every product with those that shoppers acted on beside it; queries are products, too.

    Two products make a pair, in both directions, where one shopper acted on both within some hours (``window``), or in
    one session (``session``: events of one search_id). In between there are fewer than ``neighbours`` other actions.
    SKUs of one SPU make no pair: what is the same is not what is alike.

    A pair that n_ab times was acted on so, of products with n_a and n_b actions, weighs

        n_ab / sqrt(n_a * n_b),    divided by the mean over all pairs, and at most ``cap``

    so that the popular products, which are beside everything, don't outweigh the rest. A product keeps its
    ``per_item`` pairs of the highest weight. All of them are its positives, as far as there is room; itself and its
    SPU's other SKUs are left out of the denominator.

    Args:
        actions: which actions count.
        until: which days are read: those before the days that the CTR model trains on (``behaviour``), or all before
            the end of training (``train``).
        within: ``window`` or ``session``.
        window: hours between the two actions at most; not read with ``within: session``.
        neighbours: how many actions further a shopper's next ones still count.
        per_item: pairs of a product, as a query, at most.
        cap: the highest weight.

    Raises:
        ValueError: an argument is out of range.

    Source: pairs of co-engaged items are what QARM (arXiv 2411.11739) aligns its item representations with, and PinCLIP
    and OmniSage train on; n_ab / sqrt(n_a * n_b) is the cosine of Linden et al., "Amazon.com recommendations:
    item-to-item collaborative filtering" (2003). Mean, cap and neighbours are our choice.
    """

    def __init__(
        self,
        actions: list[Action] = ["click", "cart", "order"],  # noqa: B006  (a recipe's default is read, never written)
        until: Literal["behaviour", "train"] = "behaviour",
        within: Within = "window",
        window: float = 24.0,
        neighbours: int = 8,
        per_item: int = 32,
        cap: float = 4.0,
    ) -> None:
        if within not in get_args(Within):
            raise ValueError(f"within must be 'window' or 'session', got '{within}'")
        for name, value in (("window", window), ("cap", cap)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name, number in (("neighbours", neighbours), ("per_item", per_item)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.actions, self.until = actions, until
        self.within: Within = within
        self.window, self.neighbours, self.per_item, self.cap = window, neighbours, per_item, cap

    def reads(self) -> Reads:
        """Who did what on the days that are learnt from, and SPUs; see `PairSource.reads`."""
        until: Moment = "train_until" if self.until == "train" else "behaviour_until"
        columns = ["item_id", "action", "search_id" if self.within == "session" else "user_id"]
        found = Reads.of(searches=columns, moments=["behaviour_until", until]).before(until)
        return found | Reads.of(products=["spu_id"]).before("train_until")

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        """Choose the pairs; see `PairSource.pairs`."""
        dataset = context.dataset
        searches = dataset.splits.check(dataset.searches, "behaviour", "searches")
        if self.until == "train":
            searches = pl.concat([searches, dataset.splits.select(dataset.searches, "train")])
        group = "search_id" if self.within == "session" else "user_id"
        acted = searches.filter(pl.col("action").is_in(self.actions))
        events = acted.select(pl.col(group).alias("group"), "item_id", "ts")
        found = together(
            events.join(dataset.table("products", ("item_id", "spu_id")), on="item_id"),
            self.neighbours,
            self.window if self.within == "window" else None,
        )
        if found.is_empty():
            in_session = self.within == "session"
            where = "in one session" if in_session else f"within {self.window:g} hours"
            wider = "set within: window" if in_session else "widen window"
            raise ValueError(
                f"{dataset.directory}: no shopper acted ({', '.join(self.actions)}) on two products {where}: {wider}, "
                "count more actions, or train on other pairs"
            )
        weighed = found.with_columns(weight=(pl.col("weight") / pl.col("weight").mean()).clip(upper_bound=self.cap))
        ordered = weighed.sort("query_id", "weight", "item_id", descending=[False, True, False])
        return pairs_by_weight(ordered.filter(pl.int_range(pl.len()).over("query_id") < self.per_item)), searches


def together(events: pl.DataFrame, neighbours: int, window: float | None) -> pl.DataFrame:
    """Products that are acted on beside each other, each pair in both directions.

    Args:
        events: group (a shopper, or a session), item_id, spu_id and ts; an action on the same product as the one
            before counts with that one.
        neighbours: how many actions further two events may be.
        window: hours between them at most; None for any number.

    Returns:
        query_id, item_id, both products of different SPUs; weight, n_ab / sqrt(n_a * n_b); and ts, when they were last
        acted on so. Distinct pairs, in no order that means something.

    Example:
        >>> from datetime import datetime
        >>> ts = [datetime(2025, 1, day) for day in (1, 1, 3)]
        >>> events = pl.DataFrame({"group": [5, 5, 5], "item_id": [1, 2, 3], "spu_id": [1, 2, 3], "ts": ts})
        >>> together(events, 8, 24.0).sort("query_id").select("query_id", "item_id", "weight").rows()
        [(1, 2, 1.0), (2, 1, 1.0)]
    """
    events = events.sort("group", "ts", "item_id")
    again = (pl.col("group") == pl.col("group").shift(1)) & (pl.col("item_id") == pl.col("item_id").shift(1))
    events = events.filter(~again.fill_null(False))
    counts = events.group_by("item_id").len("n")
    found = []
    for step in range(1, neighbours + 1):
        later = events.select(pl.all().shift(-step).name.suffix("_b"))
        beside = events.hstack(later).filter(
            pl.col("group") == pl.col("group_b"), pl.col("spu_id") != pl.col("spu_id_b")
        )
        if window is not None:
            beside = beside.filter(pl.col("ts_b") - pl.col("ts") <= pl.duration(microseconds=round(window * 3.6e9)))
        for one, other in (("item_id", "item_id_b"), ("item_id_b", "item_id")):
            found.append(beside.select(pl.col(one).alias("query_id"), pl.col(other).alias("other"), ts="ts_b"))
    pairs = pl.concat(found).rename({"other": "item_id"})
    pairs = pairs.group_by("query_id", "item_id").agg(pl.len().alias("n_ab"), pl.col("ts").max())
    for column, name in (("query_id", "n_a"), ("item_id", "n_b")):
        pairs = pairs.join(counts.rename({"item_id": column, "n": name}), on=column)
    weight = pl.col("n_ab") / (pl.col("n_a").cast(pl.Float64) * pl.col("n_b")).sqrt()
    return pairs.select("query_id", "item_id", "ts", weight=weight)


def pairs_by_weight(found: pl.DataFrame, max_positives: int = 16) -> Pairs:
    """Pairs of products, whose positives are the query's partners.

    Args:
        found: query_id, item_id, weight and ts; rows of a query together, by falling weight.
        max_positives: upper bound of K, the pair's own item included.
    """
    query_id, item_id = found["query_id"].to_numpy(), found["item_id"].to_numpy()
    _, first, group, size = np.unique(query_id, return_index=True, return_inverse=True, return_counts=True)
    start, size = first[group], size[group]
    place = np.arange(len(found))
    others = np.arange(min(int(size.max(initial=1)), max_positives) - 1)
    # The query's other partners: those after the pair's own move up by one place.
    other = start[:, None] + others + (others >= (place - start)[:, None])
    other = np.where(others < (size - 1)[:, None], other, place[:, None])
    positives = np.concatenate([item_id[:, None], item_id[other]], axis=1)
    weight = found["weight"].to_numpy().astype(np.float32)
    return Pairs(query_id, item_id, positives, "product", found["ts"].dt.epoch("us").to_numpy(), weight)
