"""Clicks on products that the encoder finds itself."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl

from moonlib.data.reads import Reads
from moonlib.data.tables import ACTIONS, Action, Tables
from moonlib.filters.filter import Encoded, Filter, Filtered, without_searches
from moonlib.representations.index import nearest

QUERIES_AT_ONCE = 1024
"""Queries whose similarities to a block of products are in memory at a time."""


class Consistent(Filter):
    """Keeps clicks on products that the encoder so far finds itself, and all orders.

    A click says less than an order: a shopper looks at what is nearly right, too. Where a query led to trusted actions
    (``trusted``), the products of these are its positives, and its other events are removed. Any other query keeps the
    events on products that are among the ``top`` nearest of the catalogue by the encoder so far: where the shopper and
    the encoder agree, both are seldom wrong. So the encoder also learns from queries that led to no order, and about
    products that were never ordered.

    The SKUs of one SPU are near to the same queries, so ``top`` should be larger than the number of an SPU's SKUs. A
    query or product without a representation, or with a row of zeros, is not found. Events without a query stay;
    search pairs leave them out themselves.

    Args:
        top: how many of the nearest products count as found.
        trusted: actions whose events stay without this check; with none, every event is checked.

    Raises:
        ValueError: if ``top`` is below 1 or one of ``trusted`` is no action.

    Source: consistency filtering, Alberti et al., "Synthetic QA corpora generation with roundtrip consistency" (arXiv
    1906.05416); for retrieval Dai et al., "Promptagator" (arXiv 2209.11755), section 3.2. There the queries are
    generated; that clicks take their place, and that orders need no filter, is our reading.

    Example:
        >>> Consistent(top=10, trusted=["order", "cart"]).trusted
        ['order', 'cart']
    """

    reads_representations: ClassVar[bool] = True

    def __init__(
        self,
        top: int = 5,
        trusted: list[Action] = ["order"],  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        if top < 1:
            raise ValueError(f"top must be at least 1, or nothing would be found; got {top}")
        if wrong := [name for name in trusted if name not in ACTIONS]:
            raise ValueError(f"trusted: {wrong[0]!r} is none of {', '.join(ACTIONS)}")
        self.top = top
        self.trusted = trusted

    def reads(self) -> Reads:
        """See `Filter.reads`."""
        return Reads.of(searches=["query_id", "item_id", "action"])

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter; see `Filter`."""
        if encoded is None:
            raise ValueError("consistent compares queries with products: it needs their representations")
        trusted = pl.col("action").is_in(self.trusted)
        key = ["query_id", "item_id"]
        events = tables.searches.select(*key, "action")
        asked = events.drop_nulls("query_id")
        ordered = asked.filter(trusted).select(*key).unique().with_columns(trusted=True)
        doubtful = asked.join(ordered, on="query_id", how="anti").select(key).unique()
        found = doubtful.join(self._found(encoded, doubtful["query_id"].unique().sort()), on=key, how="semi")
        events = (
            events.join(ordered, on=key, how="left", maintain_order="left")
            .join(
                ordered.select("query_id").unique().with_columns(settled=True),
                on="query_id",
                how="left",
                maintain_order="left",
            )
            .join(found.with_columns(found=True), on=key, how="left", maintain_order="left")
        )
        why = (
            pl.when(pl.col("query_id").is_null() | pl.col("trusted") | pl.col("found"))
            .then(None)
            .when(pl.col("settled"))
            .then(pl.lit(f"the query led to another product's {' or '.join(self.trusted)}"))
            .otherwise(pl.lit(f"not among the query's {self.top} nearest products"))
        )
        return without_searches(tables, events.select(why.alias("why")).to_series())

    def _found(self, encoded: Encoded, query_ids: pl.Series) -> pl.DataFrame:
        """The ``top`` nearest products of each query that has a representation: query_id and item_id."""
        parts = [pl.DataFrame(schema={"query_id": pl.Int64, "item_id": pl.Int64})]
        for start in range(0, len(query_ids), QUERIES_AT_ONCE):
            ids = query_ids[start : start + QUERIES_AT_ONCE].to_numpy()
            vectors = encoded.queries.gather(ids)
            known = np.flatnonzero(vectors.any(axis=1))
            items, _ = nearest(encoded.products, vectors[known], self.top)
            parts.append(pl.DataFrame({"query_id": np.repeat(ids[known], items.shape[1]), "item_id": items.ravel()}))
        return pl.concat(parts)
