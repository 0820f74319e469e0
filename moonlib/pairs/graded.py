"""Pairs of a query and what it led to, weighed by how much that says."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import polars as pl

from moonlib.data.reads import Reads
from moonlib.data.tables import ACTIONS
from moonlib.filters.filter import Filter
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs
from moonlib.pairs.searches import SearchPairs

By = Literal["action", "count", "relevance"]

log = logging.getLogger(__name__)


class GradedPairs(PairSource):
    """The pairs of ``searches``, each with a weight: a purchase says more than a click, and many say more than one.

    The weight of a pair is

    - ``by: action``: that of the strongest action that led from the query to the item;
    - ``by: count``: log2(1 + the sum of the weights of all of these actions);
    - ``by: relevance``: the mean judgement of the pair over the highest judgement there is, of impressions before the
      end of training (column ``relevance``); pairs without a judgement, or with one of 0, are left out.

    Args:
        actions: weight of each action; those that are not named make no pair.
        by: ``action``, ``count`` or ``relevance``.
        until: see `moonlib.pairs.searches.SearchPairs`.
        filters: see there.

    Raises:
        ValueError: an argument is out of range.

    Source: Zhu et al., "Generalized contrastive learning for multi-modal retrieval and ranking" (arXiv 2404.08535):
    pairs weighed by their rank or score in the contrastive loss; the weights are our choice.
    """

    def __init__(
        self,
        actions: dict[str, float] = {"click": 1.0, "cart": 2.0, "order": 4.0},  # noqa: B006  (read, never written)
        by: By = "action",
        until: Literal["behaviour", "train"] = "behaviour",
        filters: list[Filter] = [],  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        if wrong := [name for name in actions if name not in ACTIONS]:
            raise ValueError(f"actions: {wrong[0]!r} is none of {', '.join(ACTIONS)}")
        if not actions or any(weight <= 0 for weight in actions.values()):
            raise ValueError(f"actions: expected at least one action, with weights above 0, got {actions}")
        if by not in get_args(By):
            raise ValueError(f"by must be one of {', '.join(get_args(By))}, got '{by}'")
        self.actions = dict(actions)
        self.by: By = by
        self.searches = SearchPairs([name for name in ACTIONS if name in actions], until, filters)

    def reads(self) -> Reads:
        """Reads of `SearchPairs`, and judgements where these are the weights; see `PairSource.reads`."""
        found = self.searches.reads()
        if self.by == "relevance":
            judged = Reads.of(impressions=["query_id", "item_id", "relevance"], moments=["train_until"])
            found |= judged.before("train_until")
        return found

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        """Choose the pairs; see `PairSource.pairs`."""
        pairs, searches = self.searches.pairs(context)
        weights = self.weights(context, searches)
        rows = pl.DataFrame({"query_id": pairs.query_id, "item_id": pairs.item_id})
        found = rows.join(weights, on=["query_id", "item_id"], how="left", maintain_order="left")["weight"]
        kept = np.flatnonzero((found.fill_null(0) > 0).to_numpy())
        if not len(kept):
            raise ValueError(
                f"{context.dataset.directory}: none of {len(pairs)} pairs has a judgement above 0 (column relevance of "
                "impressions): weigh them by action or by count"
            )
        if len(kept) < len(pairs):
            log.info(f"graded: {len(pairs) - len(kept):,} of {len(pairs):,} pairs have no judgement above 0: left out")
        weight = found.fill_null(0).to_numpy()[kept].astype(np.float32)
        return replace(pairs[kept], weight=weight), searches

    def weights(self, context: PairContext, searches: pl.DataFrame) -> pl.DataFrame:
        """The weight of each query_id and item_id that there is one for."""
        if self.by == "relevance":
            dataset = context.dataset
            shown = dataset.impressions.filter(pl.col("ts") < dataset.splits.train_until)
            judged = shown.select("query_id", "item_id", "relevance").drop_nulls()
            means = judged.group_by("query_id", "item_id").agg(pl.col("relevance").mean())
            return means.select("query_id", "item_id", weight=pl.col("relevance") / judged["relevance"].max())
        weight = pl.col("action").replace_strict(self.actions, default=None, return_dtype=pl.Float64)
        acted = searches.select("query_id", "item_id", weight=weight).drop_nulls()
        total = pl.col("weight").max() if self.by == "action" else (1 + pl.col("weight").sum()).log(2)
        return acted.group_by("query_id", "item_id").agg(total.alias("weight"))
