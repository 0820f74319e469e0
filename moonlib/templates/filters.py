"""A filter of products that say nothing."""

from __future__ import annotations

import polars as pl

from moonlib.data import Tables
from moonlib.filters import Encoded, Filter, Filtered, without_products


class Template(Filter):
    """Removes products that have no image and no title worth reading: nothing can be learned from them.

    Args:
        min_length: a title of fewer characters is not worth reading.
    """

    def __init__(self, min_length: int = 3) -> None:
        self.min_length = min_length

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter; see `Filter`."""
        length = pl.col("title").str.strip_chars().str.len_chars().fill_null(0)
        silent = tables.products.filter(pl.col("image").is_null(), length < self.min_length)
        return without_products(tables, silent["item_id"], "neither image nor title")
