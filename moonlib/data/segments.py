"""Which products are new, and which belong to the tail."""

from __future__ import annotations

import polars as pl

from moonlib.data.dataset import Dataset

SEGMENTS = ("new", "tail")
"""Segments that every metric is also reported for, as ``metric@segment``."""

ASKED = ("photo", "text", "both")
"""What a query may show, see `query_contents`; each is a segment of what is measured by search."""


def product_segments(dataset: Dataset) -> pl.DataFrame:
    """Tell new and tail products.

    A product is *new* when it was listed at or after the end of training. Of the others, the *tail* is the half
    with the fewest events (searches and impressions) before the end of training.

    Args:
        dataset: any dataset; without events every product that is not new belongs to the tail.

    Returns:
        One row per product, in the order of the products table: item_id int64, new bool, tail bool.
    """
    until = dataset.splits.train_until
    events = pl.concat([dataset.searches.select("item_id", "ts"), dataset.impressions.select("item_id", "ts")])
    counts = events.filter(pl.col("ts") < until).group_by("item_id").agg(pl.len().alias("events"))
    new = pl.col("listed_at") >= until
    return (
        dataset.table("products", ("item_id", "listed_at"))
        .join(counts, on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("events").fill_null(0), new=new)
        .with_columns(tail=~pl.col("new") & (pl.col("events") <= pl.col("events").filter(~pl.col("new")).median()))
        .select("item_id", "new", pl.col("tail").fill_null(False))
    )


def query_contents(dataset: Dataset) -> pl.DataFrame:
    """Tell by what a shopper asked.

    Args:
        dataset: any dataset.

    Returns:
        One row per query, in the order of the queries table: query_id int64, asked, one of `ASKED` (null for a query
        that shows nothing).
    """
    photo, text = pl.col("image").is_not_null(), pl.col("text").is_not_null()
    asked = pl.when(photo & text).then(pl.lit("both")).when(photo).then(pl.lit("photo")).when(text).then(pl.lit("text"))
    return dataset.table("queries", ("query_id", "text", "image")).select("query_id", asked=asked)
