"""Which products are new and which belong to the tail, and which impressions answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import polars as pl

from moonlib.data.dataset import Dataset
from moonlib.data.reads import Reads
from moonlib.data.tables import KEYS, SCHEMAS

SEGMENTS = ("new", "tail")
"""Segments that every metric is also reported for, as ``metric@segment``."""

TRAFFIC = ("searches", "feed")
"""Segments of impressions, see `traffic_segments`."""

ASKED = ("photo", "text", "both")
"""Contents of a query, see `query_contents`; each is a segment of metrics of search."""


SEGMENT_READS = Reads.of(products=["listed_at"], searches=["item_id"], impressions=["item_id"], moments=["train_until"])
"""What `product_segments` reads."""

CONTENT_READS = Reads.of(queries=["text", "image"])
"""What `query_contents` reads."""


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


def traffic_segments(impressions: pl.DataFrame) -> list[pl.Expr]:
    """Tell impressions that answer a query from those that nobody asked for, as in a feed or on a home page.

    Args:
        impressions: all of a dataset.

    Returns:
        A flag of impressions by each name of `TRAFFIC`; none where all have a query, or none has.
    """
    asked = pl.col("query_id").is_not_null()
    unasked = impressions["query_id"].null_count()
    return [asked.alias(TRAFFIC[0]), (~asked).alias(TRAFFIC[1])] if 0 < unasked < len(impressions) else []


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


def segment_label(value: object) -> str:
    """A value, or the name of a column or an attribute, as part of a key of results.

    An ``@`` parts a key from its segment, so that of a value is written ``%40``.

    Example:
        >>> segment_label("red @ home")
        'red %40 home'
    """
    return str(value).replace("@", "%40")


def segment_columns(dataset: Dataset, declared: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Look up the columns of users and products that part impressions into segments.

    Args:
        dataset: the five tables.
        declared: ``table.column`` each, such as ``users.region`` or ``products.category``.

    Returns:
        By the name of each column: a frame of the table's key and the column, in the order of ``declared``.

    Raises:
        ValueError: a name is no column of users or products, is a list or a mapping, is called as a segment that there
            is anyway, or two columns have one name.
    """
    found: dict[str, pl.DataFrame] = {}
    for full in declared:
        table, _, column = full.partition(".")
        if table not in ("users", "products") or not column:
            raise ValueError(f"segments: {full!r} is no column of users or products, such as users.region")
        if column in (*SEGMENTS, *TRAFFIC):
            raise ValueError(f"segments: {full}: {column!r} is a segment of every application; rename the column")
        columns = dataset.columns(table)
        if column not in columns:
            near = get_close_matches(column, columns, n=1) or columns
            raise ValueError(f"segments: {table} has no column {column!r}; it has {', '.join(near)}")
        if column in found:
            raise ValueError(f"segments: two columns are called {column!r}; leave one of them out")
        frame = dataset.table(table, [KEYS[table], column])
        if column in SCHEMAS[table].names:
            frame = dataset.ids.decoded(frame, column)
        if frame[column].dtype.is_nested():
            raise ValueError(f"segments: {full} is {frame[column].dtype}, and not a text, a number or true or false")
        found[column] = frame
    return found
