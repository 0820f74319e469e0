"""Pairs of the catalogue: every product with itself, image ↔ title."""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from moonlib.data.reads import Reads
from moonlib.data.tables import empty
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs, product_pairs


class ProductPairs(PairSource):
    """Every product listed before the end of training, paired with itself, in both directions.

    The stage's tasks say which modality is the query and which the item: image -> title, or image -> another view of
    it. SKUs of one SPU are not negatives of each other.
    """

    both_directions: ClassVar[bool] = True

    def reads(self) -> Reads:
        """When products were listed; see `PairSource.reads`."""
        return Reads.of(products=["listed_at"], moments=["train_until"]).before("train_until")

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        """Choose the pairs; see `PairSource.pairs`."""
        dataset = context.dataset
        listed = dataset.splits.known(dataset.table("products", ("item_id", "listed_at")))
        if listed.is_empty():
            raise ValueError(f"{dataset.directory}: no product is listed before the end of training")
        return product_pairs(listed), empty("searches")
