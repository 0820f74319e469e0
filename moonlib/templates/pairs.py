"""Pairs of a product and what the same shopper looked at next."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from moonlib.pairs import PairContext, Pairs, PairSource, search_pairs


class Template(PairSource):
    """Every product that a shopper acted on, paired with the next one that the shopper acted on.

    The query is a product, so that tasks such as ``title+image -> title+image`` teach which products go together.

    Args:
        actions: which actions count, of ``click``, ``cart`` and ``order``.
    """

    def __init__(self, actions: list[str] = ["click", "cart", "order"]) -> None:  # noqa: B006  (never written)
        self.actions = actions

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        """Choose the pairs; see `PairSource.pairs`."""
        dataset = context.dataset
        searches = dataset.splits.check(dataset.searches, "behaviour", "searches")
        acted = searches.filter(pl.col("action").is_in(self.actions)).sort("user_id", "ts", "search_id", "item_id")
        following = pl.col("item_id").shift(-1).over("user_id")
        led = acted.with_columns(query_id=pl.col("item_id"), item_id=following)
        led = led.filter(pl.col("item_id").is_not_null(), pl.col("item_id") != pl.col("query_id"))
        if led.is_empty():
            raise ValueError(f"{dataset.directory}: no shopper acted on two products; train on other pairs")
        return replace(search_pairs(led, self.actions), query_side="product"), searches
