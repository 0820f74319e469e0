"""Defaults of columns that the tables of a shop may lack, and what follows where they do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from moonlib.data.casts import cast_column

BEFORE_EVERYTHING = datetime.min.replace(tzinfo=UTC)
"""The ``listed_at`` of a product that has none, such that whatever compares times finds it listed."""

ABSENT: dict[tuple[str, str], str] = {
    ("products", "spu_id"): (
        "each item is its own SPU: variants of one product count as different products, as misses of a search and "
        "among its negatives, and the filter spu_merge does nothing"
    ),
    ("products", "category"): (
        "no product has a category: the negatives same_category, the filter category_rebalance, the probes categories "
        "and clusters, and the report's figures by category do nothing"
    ),
    ("products", "listed_at"): (
        "every product counts as listed before everything: none is new, so metrics have no rows in the segment 'new', "
        "and a search may find any product at any time"
    ),
    ("searches", "query_id"): (
        "no action has a query: the stage posttrain has no pairs, and recall of searches is not measured; "
        "the histories of the click model still hold the items"
    ),
    ("impressions", "query_id"): (
        "every impression counts as one of a feed: the click model has no present query, and the stage relevance "
        "nothing to judge"
    ),
}
"""By table and column, what follows for a dataset whose table lacks the column, or has no value in it."""

_SOME: dict[tuple[str, str], str] = {
    ("products", "spu_id"): "each of these items is its own SPU",
    ("products", "category"): "they are of none, and what goes by category leaves them out",
    ("products", "listed_at"): "they count as listed before everything",
    ("searches", "query_id"): "they are of no query: pairs and recall leave them out, histories hold them",
    ("impressions", "query_id"): "they are of a feed: the click model has no present query there",
}


def with_spus(products: pl.DataFrame, name: str) -> pl.DataFrame:
    """Make each product that has no ``spu_id`` an SPU of its own, called as the item is.

    The ids may be integers or text, and those of items may differ from those of SPUs: then the SPUs' are text.

    Args:
        products: as read; nothing has been cast.
        name: what to call the table in errors.

    Returns:
        The products; the same object where all have a ``spu_id``, or without an ``item_id``.

    Example:
        >>> with_spus(pl.DataFrame({"item_id": ["A-1", "A-2"], "spu_id": ["A", None]}), "products")["spu_id"].to_list()
        ['A', 'A-2']
    """
    if "item_id" not in products.columns:
        return products
    item = products["item_id"]
    if "spu_id" not in products.columns or products["spu_id"].null_count() == products.height:
        return products.with_columns(item.alias("spu_id"))
    spu = products["spu_id"]
    if not spu.null_count() or item.null_count() or not all(_is_id(column.dtype) for column in (item, spu)):
        return products
    if item.dtype.is_integer() and spu.dtype.is_integer():
        item, spu = (cast_column(column, pl.Int64(), name) for column in (item, spu))
    elif item.dtype != spu.dtype:
        item, spu = item.cast(pl.String), spu.cast(pl.String)
    return products.with_columns(spu.zip_with(spu.is_not_null(), item).alias("spu_id"))


def _is_id(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum)


def consequences(tables: Mapping[str, pl.DataFrame], files: Mapping[str, str]) -> list[str]:
    """Say what follows from columns that are absent or have gaps, one line each.

    Args:
        tables: those of `ABSENT`, as read: before `with_spus`.
        files: the name to call each table by.

    Example:
        >>> products = pl.DataFrame({"item_id": [1], "spu_id": [1], "listed_at": ["2025-01-01"]})
        >>> consequences({"products": products}, {"products": "products.csv"})[0][:61]
        'products.csv has no category: no product has a category: the '
    """
    lines = []
    for (table, column), follows in ABSENT.items():
        frame = tables.get(table)
        if frame is None or not frame.height:
            continue
        absent = column not in frame.columns
        missing = frame.height if absent else frame[column].null_count()
        if missing == frame.height:
            lines.append(f"{files[table]} has no {column}{'' if absent else ' in any row'}: {follows}")
        elif missing:
            rows = f"{missing:,} of {frame.height:,}"
            lines.append(f"{files[table]}: rows without {column}: {rows}; {_SOME[table, column]}")
    return lines + _shared_spus(tables["products"], files["products"]) if "products" in tables else lines


def _shared_spus(products: pl.DataFrame, name: str) -> list[str]:
    """Say which items without a ``spu_id`` share one with others after all, as their id is the SPU of these."""
    if not all(column in products.columns and _is_id(products[column].dtype) for column in ("item_id", "spu_id")):
        return []
    named = products["spu_id"].drop_nulls().cast(pl.String)
    alone = products.filter(pl.col("spu_id").is_null())["item_id"].cast(pl.String)
    shared = alone.filter(alone.is_in(named.implode())).unique().sort()
    if not shared.len():
        return []
    return [
        f"{name}: items without spu_id whose item_id is the spu_id of other items: {shared.len():,} "
        f"({', '.join(shared.head(3))}{', …' if shared.len() > 3 else ''}); they count as one product with these; give "
        "them a spu_id of their own if they are others"
    ]
