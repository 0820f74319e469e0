"""Of the many queries that lead to an item, those that say something the encoder does not know yet."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.data.reads import Reads
from moonlib.data.tables import Tables
from moonlib.filters.filter import Encoded, Filter, Filtered, without_searches

PAIRS_AT_ONCE = 16_384
"""Pairs whose vectors are in memory at a time."""


class SimilarityDedup(Filter):
    """Keeps, of an item's several queries, those least similar to it under the encoder so far.

    What the encoder already finds alike teaches it little, and a much-sought item repeats it a thousand times. The
    least similar queries are also where mistaken clicks gather, so filter on actions that mean it, such as orders, or
    keep more than one.

    Of an item (or SPU) with n distinct pairs (query, item), the max(``keep``, ceil(``share`` n)) with the lowest
    cosines stay, the lower query id first where they are equal; all events of a pair stay or go together. A pair whose
    similarity is not known, because its query or item has no representation or a row of zeros, always stays and is not
    among the n.

    Args:
        keep: pairs that stay at least.
        share: share of the pairs that stays at least, in [0, 1].
        per: pairs are counted by ``item``, or over all SKUs and re-listings of an ``spu`` together.

    Raises:
        ValueError: if ``keep`` is below 1 or ``share`` is not in [0, 1].

    Source: MOON (arXiv 2511.11305), Stage 2, second phase: of an item's positive queries, the pair with the lowest
    similarity under the previous model (``keep=1, share=0, per="item"``). More than one, and SPUs, are our addition.
    """

    reads_representations: ClassVar[bool] = True

    def __init__(self, keep: int = 1, share: float = 0.0, per: Literal["item", "spu"] = "item") -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, or no item would have a pair left; got {keep}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in [0, 1], got {share}")
        self.keep = keep
        self.share = share
        self.per = per

    def reads(self) -> Reads:
        """See `Filter.reads`."""
        return Reads.of(products=["spu_id"], searches=["query_id", "item_id"])

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter; see `Filter`."""
        if encoded is None:
            raise ValueError("similarity_dedup compares queries with items: it needs their representations")
        owner = f"{self.per}_id"
        # In order of the items, their vectors are read from disk one after the other.
        pairs = (
            tables.searches.select("item_id", "query_id")
            .drop_nulls("query_id")
            .unique()
            .sort("item_id", "query_id")
            .join(tables.products.select("item_id", "spu_id"), on="item_id", how="left", maintain_order="left")
        )
        similarity = pair_cosines(encoded, pairs["query_id"].to_numpy(), pairs["item_id"].to_numpy())
        pairs = pairs.with_columns(similarity=pl.Series(similarity).fill_nan(None))
        known = pl.len().over(owner)
        stays = (known * self.share).ceil().clip(lower_bound=self.keep)
        alike = (
            pairs.drop_nulls("similarity")
            .sort("similarity", "query_id", "item_id")
            .filter(pl.int_range(pl.len()).over(owner) >= stays)
            .select("query_id", "item_id", why=pl.lit(f"the {self.per} has less similar queries"))
        )
        events = tables.searches.join(alike, on=["query_id", "item_id"], how="left", maintain_order="left")
        return without_searches(tables, events["why"])


def pair_cosines(encoded: Encoded, query_ids: Ids, item_ids: Ids) -> NDArray[np.float32]:
    """Compute the cosine of each pair, block by block.

    Args:
        encoded: representations in one space.
        query_ids: int64 [P].
        item_ids: int64 [P].

    Returns:
        float32 [P] in [-1, 1]; NaN where either side has no representation.

    Example:
        >>> from moonlib.representations.store import Representations
        >>> products = Representations(np.array([7]), np.array([[3.0, 4.0]], dtype=np.float32))
        >>> queries = Representations(np.array([1]), np.array([[2.0, 0.0]], dtype=np.float32))
        >>> pair_cosines(Encoded(products, queries), np.array([1, 2]), np.array([7, 7]))
        array([0.6, nan], dtype=float32)
    """
    similarity = np.full(len(query_ids), np.nan, dtype=np.float32)
    for start in range(0, len(query_ids), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        queries, items = encoded.queries.gather(query_ids[block]), encoded.products.gather(item_ids[block])
        lengths = np.linalg.norm(queries, axis=1) * np.linalg.norm(items, axis=1)
        dots = np.einsum("pd,pd->p", queries, items)
        np.divide(dots, lengths, out=similarity[block], where=lengths > 0)
    return similarity.clip(-1, 1)
