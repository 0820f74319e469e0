"""Training pairs of a query and an item it led to, and the tasks that each pair can serve."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.content import Modalities, Side, Task
from moonlib.data.ids import Ids

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """P pairs to train on.

    Attributes:
        query_id: int64 [P], ids of the queries table, or of the products table where the query is a product.
        item_id: int64 [P].
        positives: int64 [P, K], items that the pair's query is known to have led to; the pair's own item comes first
            and pads the rest.
        query_side: ``"query"``, or ``"product"`` in pretraining, where a product's image or title is the query.
        ts: int64 [P], when the query last led to the item, or the product was listed, in microseconds since 1970 (UTC);
            None where that is not known.
        weight: float32 [P], how much each pair counts in a loss, above 0; None for all alike.
    """

    query_id: Ids
    item_id: Ids
    positives: Ids
    query_side: Side
    ts: Ids | None = None
    weight: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.query_id)

    @property
    def of_others(self) -> bool:
        """Whether products ask for other products, as in `moonlib.pairs.item_items`, and not each for itself."""
        return self.query_side == "product" and not np.array_equal(self.query_id, self.item_id)

    def __getitem__(self, rows: Ids) -> Pairs:
        """The pairs of these rows, in their order."""
        ts = None if self.ts is None else self.ts[rows]
        weight = None if self.weight is None else self.weight[rows]
        return Pairs(self.query_id[rows], self.item_id[rows], self.positives[rows], self.query_side, ts, weight)


def product_pairs(products: pl.DataFrame) -> Pairs:
    """Pair every product with itself, for tasks such as ``image -> title``.

    Args:
        products: with item_id; with listed_at the pairs know how old they are.
    """
    item_id = products["item_id"].to_numpy()
    ts = products["listed_at"].dt.epoch("us").to_numpy() if "listed_at" in products.columns else None
    return Pairs(item_id, item_id, item_id[:, None], "product", ts)


def search_pairs(
    searches: pl.DataFrame, actions: Sequence[str] = ("click", "cart", "order"), max_positives: int = 16
) -> Pairs:
    """Pair every query with every item it led to, once each, in order of (query_id, item_id).

    Args:
        searches: rows to learn from, columns as in `moonlib.data.tables`; those without a query make no pair.
        actions: which actions make a pair. Only these count as positives too.
        max_positives: upper bound of K. A query that led to more items keeps, beside the pair's own item, the most
            recent; a batch may then contrast it with an older one.

    Returns:
        The pairs; none where no search has one of the actions.
    """
    events = (
        searches.filter(pl.col("action").is_in(list(actions)), pl.col("query_id").is_not_null())
        .group_by("query_id", "item_id")
        .agg(pl.col("ts").max())
        .sort("query_id", "item_id")
    )
    query_id, item_id = events["query_id"].to_numpy(), events["item_id"].to_numpy()
    recent = np.lexsort((item_id, -events["ts"].to_physical().to_numpy(), query_id))
    place = np.empty_like(recent)
    place[recent] = np.arange(len(recent))
    _, first, group, size = np.unique(query_id, return_index=True, return_inverse=True, return_counts=True)
    start, size = first[group], size[group]
    others = np.arange(min(size.max(initial=1), max_positives) - 1)
    # The query's other items, newest first: those after the pair's own move up by one place.
    other = start[:, None] + others + (others >= (place - start)[:, None])
    other = np.where(others < (size - 1)[:, None], other, place[:, None])
    positives = np.concatenate([item_id[:, None], item_id[recent[other]]], axis=1)
    return Pairs(query_id, item_id, positives, "query", events["ts"].dt.epoch("us").to_numpy())


def serviceable(
    pairs: Pairs, tasks: Sequence[Task], products: pl.DataFrame, queries: pl.DataFrame
) -> NDArray[np.bool_]:
    """Tell which pair can serve which task: both its sides must have every modality the task reads.

    Args:
        pairs: P pairs.
        tasks: T tasks.
        products: the products table; a pair whose product is not in it serves no task.
        queries: the queries table, likewise; not read where the pairs' queries are products.

    Returns:
        bool [P, T].

    Raises:
        ValueError: no pair can serve any of the tasks; the message says what each needs and what there is.
    """
    asked, key = (products, "item_id") if pairs.query_side == "product" else (queries, "query_id")
    served = [
        _having(task.query, asked, key, pairs.query_id) & _having(task.item, products, "item_id", pairs.item_id)
        for task in tasks
    ]
    unserved = [str(task) for task, pairs_of_task in zip(tasks, served, strict=True) if not pairs_of_task.any()]
    if unserved:
        problem = (
            f"none of {len(pairs)} pairs can serve {', '.join(repr(task) for task in unserved)}: "
            f"queries are {_inventory(asked)}; items are {_inventory(products)}"
        )
        if len(unserved) == len(tasks):
            raise ValueError(f"{problem}. Set data.tasks of this stage to tasks that read what there is")
        log.warning(problem)
    return np.stack(served, axis=1)


def _having(modalities: Modalities, table: pl.DataFrame, key: str, ids: Ids) -> NDArray[np.bool_]:
    """Tell for each id whether its row in the table has the modalities."""
    known = pl.DataFrame({key: table[key], "available": modalities.available(table)})
    found = pl.DataFrame({key: ids}).join(known, on=key, how="left", maintain_order="left")
    return found["available"].fill_null(False).to_numpy()


def _inventory(table: pl.DataFrame) -> str:
    image, text = (Modalities.parse(word).available(table).sum() for word in ("image", "title"))
    name = "queries" if "query_id" in table.columns else "products"
    return f"{len(table)} {name}, {image} with an image, {text} with a text"
