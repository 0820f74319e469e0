"""One product counts once: the SKUs and re-listings of an SPU become one pair with a query."""

from __future__ import annotations

import polars as pl

from moonlib.data.reads import Reads
from moonlib.data.tables import Tables
from moonlib.filters.filter import Encoded, Filter, Filtered, without_searches


class SpuMerge(Filter):
    """Keeps, of the items of one SPU that a query led to, the one it led to last.

    A shopper who looks at a shirt in three colours and two shops' listings of it has found one product, not six. Six
    pairs would give that query, and products with many variants in general, six times the weight. Which item stays is
    told by the latest event, since shoppers compare first and settle then; of items with equal times it is the one
    with the highest id. All events of that item stay.

    Products stay too: every SKU remains something to be found and to be told from others. That the SKUs of an SPU are
    no negatives of each other is not this filter's work but that of the id masks (`moonlib.negatives.masks`), with
    this filter or without it.

    Source: MOON (arXiv 2511.11305), Stage 2, second phase: the SKUs of an SPU count as one. Which item stands for
    them is our choice.
    """

    def reads(self) -> Reads:
        """See `Filter.reads`."""
        return Reads.of(products=["spu_id"], searches=["query_id", "item_id"])

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter; see `Filter`."""
        events = tables.searches.select("query_id", "item_id", "ts").join(
            tables.products.select("item_id", "spu_id"), on="item_id", how="left", maintain_order="left"
        )
        latest = (
            events.drop_nulls("query_id")
            .sort("ts", "item_id")
            .unique(["query_id", "spu_id"], keep="last")
            .select("query_id", "item_id", stays=True)
        )
        events = events.join(latest, on=["query_id", "item_id"], how="left", maintain_order="left")
        later = pl.col("stays").is_null() & pl.col("query_id").is_not_null()
        why = pl.when(later).then(pl.lit("the query led to another item of the SPU later"))
        return without_searches(tables, events.select(why.alias("why")).to_series())
