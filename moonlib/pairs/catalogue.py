"""Ids of items, as masks and negative samplers read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from moonlib.data.ids import Ids


@dataclass(frozen=True)
class Catalogue:
    """Item ids with their SPUs and categories.

    Attributes:
        item_id: int64 [n], ascending.
        spu_id: int64 [n].
        category: int64 [n], codes of the category paths in alphabetical order; -1 for none.
    """

    item_id: Ids
    spu_id: Ids
    category: Ids

    @classmethod
    def of(cls, products: pl.DataFrame) -> Catalogue:
        """Take the catalogue from the products table; without its column ``category``, all are of none."""
        if "category" not in products.columns:
            products = products.with_columns(category=pl.lit(None, dtype=pl.String))
        codes = (pl.col("category").rank("dense").cast(pl.Int64) - 1).fill_null(-1)
        products = products.select("item_id", "spu_id", codes).sort("item_id")
        return cls(*(products[name].to_numpy() for name in ("item_id", "spu_id", "category")))

    def of_items(self, item_ids: pl.Series) -> Catalogue:
        """Keep the items given, with the category codes they have here."""
        kept = np.sort(self.rows(item_ids.to_numpy()))
        return Catalogue(self.item_id[kept], self.spu_id[kept], self.category[kept])

    def rows(self, item_ids: Ids) -> Ids:
        """Find items of any shape.

        Raises:
            KeyError: an item is not in the catalogue.
        """
        rows = np.searchsorted(self.item_id, item_ids).clip(max=len(self.item_id) - 1)
        unknown = item_ids[self.item_id[rows] != item_ids]
        if unknown.size:
            raise KeyError(f"item {unknown.flat[0]} is not in the products table")
        return rows
