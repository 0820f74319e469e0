"""The categories one trains on, in the proportions in which they are shown."""

from __future__ import annotations

import logging
import math

import numpy as np
import polars as pl

from moonlib.data.ids import Ids
from moonlib.data.reads import Reads
from moonlib.data.tables import Tables
from moonlib.filters.filter import Encoded, Filter, Filtered, without_searches

log = logging.getLogger(__name__)


class CategoryRebalance(Filter):
    """Cuts down categories that are over-represented among the pairs, against what shoppers are shown.

    What is searched and bought is not what is shown: a few categories may make most of the orders, and an encoder that
    trains on orders spends most of its steps on them. Pairs (query, item) are drawn without replacement, as many as
    can be kept with no category's share of them above ``max_ratio`` times its share of the impressions, up to one
    pair. The impressions that count are those of the categories that have any pair.

    The exact proportions of the impressions (``max_ratio=1``) let the scarcest category decide: with ten pairs of one
    that makes a hundredth of the impressions, a thousand pairs would be left of millions. With a ``max_ratio`` above 1
    a scarce category keeps all it has, and the others are cut only as far as they exceed the bound. Either way the
    pairs come no farther (in total variation) from what is shown. A category that was never shown keeps no pair.
    Pairs of a product without a category, and events without a query, all stay and do not count.

    The draw is a function of ``seed`` and of which pairs there are, not of the order of the rows; the events of a pair
    stay or go together.

    Args:
        max_ratio: how far a category's share may exceed that of the impressions, at least 1.
        level: levels of the category path that make a category, for instance 1 for the department; all by default.
        seed: of the draw.

    Raises:
        ValueError: if ``max_ratio`` is below 1, ``level`` below 1 or ``seed`` negative; when called, if there are
            searches but no impressions of their categories.

    Source: MOON (arXiv 2511.11305), Stage 2, second phase: downsampling to the distribution of what is shown online.
    The bound is our choice.
    """

    def __init__(self, max_ratio: float = 1.25, level: int | None = None, seed: int = 0) -> None:
        if not 1 <= max_ratio < math.inf:
            raise ValueError(f"max_ratio must be a number of at least 1, got {max_ratio}")
        if level is not None and level < 1:
            raise ValueError(f"level must be at least 1 (the first level of the category path), got {level}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.max_ratio = max_ratio
        self.level = level
        self.seed = seed

    def reads(self) -> Reads:
        """See `Filter.reads`."""
        return Reads.of(products=["category"], searches=["query_id", "item_id"], impressions=["item_id"])

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter; see `Filter`."""
        category = pl.col("category")
        if self.level is not None:
            category = category.str.split("/").list.head(self.level).list.join("/")
        categories = tables.products.select("item_id", category)
        pairs = (
            tables.searches.select("query_id", "item_id")
            .drop_nulls("query_id")
            .unique()
            .sort("query_id", "item_id")
            .join(categories, on="item_id", how="left", maintain_order="left")
            .drop_nulls("category")
        )
        if pairs.is_empty():
            if tables.searches.height:
                log.warning("category_rebalance: no query led to a product that has a category: nothing is removed")
            return without_searches(tables, pl.Series([None] * tables.searches.height, dtype=pl.String))
        shown = (
            tables.impressions.select("item_id").join(categories, on="item_id").group_by("category").len("impressions")
        )
        quotas = (
            pairs.group_by("category")
            .len("pairs")
            .join(shown, on="category", how="left")
            .with_columns(pl.col("impressions").fill_null(0))
            .sort("category")
        )
        if not quotas["impressions"].sum():
            what = "there are none" if tables.impressions.is_empty() else "none is of a category that searches led to"
            raise ValueError(
                "category_rebalance follows the categories of the impressions before the end of training, and "
                f"{what}: add the table impressions to the dataset, or take this filter out of the recipe"
            )
        quota = quotas_of(quotas["pairs"].to_numpy(), quotas["impressions"].to_numpy(), self.max_ratio)
        never, surplus = pl.lit("the category was never shown"), pl.lit("the category has more than its share of pairs")
        reason = pl.when(pl.col("impressions") == 0).then(never).otherwise(surplus)
        quotas = quotas.select("category", quota=pl.Series(quota), why=reason)
        turn = np.random.default_rng(self.seed).permutation(len(pairs))
        removed = (
            pairs.with_columns(turn=pl.Series(turn))
            .join(quotas, on="category", how="left")
            .filter(pl.col("turn").rank("ordinal").over("category") > pl.col("quota"))
            .select("query_id", "item_id", "why")
        )
        events = tables.searches.join(removed, on=["query_id", "item_id"], how="left", maintain_order="left")
        return without_searches(tables, events["why"])


def quotas_of(pairs: Ids, impressions: Ids, max_ratio: float) -> Ids:
    """Compute how many pairs each category keeps.

    With q the categories' shares among the impressions, category c keeps min(pairs_c, ceil(max_ratio q_c T)), and T is
    the largest total with which the categories, before rounding up, do sum to T: what is cut off lowers the total, and
    with it the bound.

    Args:
        pairs: int64 [C], those there are, at least 1.
        impressions: int64 [C], at least 0, not all of them 0.
        max_ratio: how far a share may exceed that of the impressions, at least 1.

    Returns:
        int64 [C]; 0 where there are no impressions.

    Example:
        >>> quotas_of(np.array([10, 90]), np.array([50, 50]), 1.0)
        array([10, 10])
        >>> quotas_of(np.array([10, 90]), np.array([50, 50]), 1.5)
        array([10, 30])
    """
    bound = max_ratio * impressions / impressions.sum()  # of a category's share
    # T at which a category's bound no longer cuts it. By rising T, ever more categories are whole.
    whole_at = np.divide(pairs, bound, out=np.full(len(pairs), np.inf), where=bound > 0)
    order = np.argsort(whole_at)[: np.count_nonzero(bound)]
    total = whole_at[order]
    whole, cut = pairs[order].cumsum(), max_ratio - bound[order].cumsum()
    # The kept sum is concave in T and 0 at 0, so it is at least T up to the largest solution, and less beyond.
    k = max(int(np.count_nonzero(total <= whole + cut * total)), 1) - 1
    largest = whole[k] / (1 - cut[k])
    return np.minimum(pairs, np.ceil(bound * largest * (1 - 1e-12)).astype(np.int64))
