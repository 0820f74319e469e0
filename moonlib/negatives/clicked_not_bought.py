"""Items that shoppers clicked before they ordered another, as negatives."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.reads import Reads
from moonlib.negatives.draw import draw_distinct
from moonlib.negatives.negative_sampler import NegativeSampler, TrainingData
from moonlib.pairs.pairs import Pairs

log = logging.getLogger(__name__)


class ClickedNotBought(NegativeSampler):
    """Asks for k items that were clicked, or put into the cart, in a search that ended in an order of the pair's item.

    They came close, and the shopper preferred another: for a query and the item ordered, all searches of that query
    with that order count, and k of the items clicked there are drawn uniformly and without repetition. What the query
    is known to have led to is never among them, be it by an order in another search or because the training pairs say
    so, nor is another SKU of the same SPU. Where there are fewer than k, all are proposed.

    It is meant for pairs made of orders alone (``actions: [order]`` in the stage's data): where clicks make pairs,
    whatever was clicked is a positive, and nothing is left to propose.

    Args:
        k: items per pair.

    Raises:
        ValueError: if ``k`` is below 1.

    Source: Sheng et al., "Enhancing Taobao display advertising with multimodal representations" (arXiv 2407.19467),
    semantic-aware contrastive learning: items clicked and not purchased in the same search as hard negatives.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    def reads(self) -> Reads:
        """Declare what searches led to, of the days that the pairs are of; see `NegativeSampler.reads`."""
        return Reads.of(searches=["query_id", "item_id", "action"]).before("behaviour_until")

    def setup(self, data: TrainingData) -> None:
        """List for each query and item ordered what else was clicked, sorted."""
        self._catalogue = data.catalogue
        items = pl.DataFrame(
            {
                "item_id": data.catalogue.item_id,
                "spu_id": data.catalogue.spu_id,
                "item": np.arange(len(data.catalogue.item_id)),
            }
        )
        events = data.searches.select("search_id", "query_id", "item_id", "action").join(items, on="item_id")
        ordered = events.filter(pl.col("action") == "order")
        pairs = pl.DataFrame({"query_id": data.pairs.query_id, "item_id": data.pairs.item_id}).join(items, on="item_id")
        led_to = pl.concat([part.select("query_id", "spu_id") for part in (ordered, pairs)])
        clicked = events.filter(pl.col("action") != "order").join(led_to, on=["query_id", "spu_id"], how="anti")
        table = (
            ordered.join(clicked, on=["search_id", "query_id"], suffix="_clicked")
            .select("query_id", "item", "item_id_clicked")
            .unique()
            .sort("query_id", "item", "item_id_clicked")
        )
        if table.is_empty():
            log.warning(
                "clicked_not_bought: no pair's search has an item that was clicked and not bought: nothing to propose "
                "(pairs must come from searches, with `actions: [order]`)"
            )
        self._clicked = table["item_id_clicked"].to_numpy()
        self._queries, query = np.unique(table["query_id"].to_numpy(), return_inverse=True)
        # A number for each pair of query and item, ascending: what was clicked there is a stretch of the table.
        self._keys = query * len(items) + table["item"].to_numpy()

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw from what was clicked in the searches of each pair."""
        query = np.searchsorted(self._queries, pairs.query_id)
        known = np.searchsorted(self._queries, pairs.query_id, side="right") > query
        key = query * len(self._catalogue.item_id) + self._catalogue.rows(pairs.item_id)
        first, end = (np.searchsorted(self._keys, key, side=side) for side in ("left", "right"))
        drawn = draw_distinct(np.where(known, end - first, 0), self.k, rng)
        proposed = np.repeat(pairs.item_id[:, None], self.k, axis=1)
        found = drawn >= 0
        proposed[found] = self._clicked[(first[:, None] + drawn)[found]]
        return proposed
