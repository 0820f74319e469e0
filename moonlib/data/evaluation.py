"""The searches that representations are measured on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import polars as pl
import torch

from moonlib.data.dataset import Dataset
from moonlib.data.reads import Reads
from moonlib.data.splits import Split

log = logging.getLogger(__name__)

SearchTask = Literal["image_search", "text_search"]
EVALUATION_READS = Reads.of(
    products=["spu_id"],
    queries=["text", "image"],
    searches=["user_id", "query_id", "item_id", "action"],
    moments=["train_until", "valid_until", "test_until"],
)
"""What `evaluation_searches` reads."""

EVALUATED: tuple[Split, ...] = ("valid", "test")


def evaluation_searches(dataset: Dataset, split: Split, task: SearchTask | None = None) -> pl.DataFrame:
    """The searches that recall is measured on: those of the split's days that had a query and ended in an order.

    Args:
        dataset: any dataset.
        split: ``valid`` or ``test`` days.
        task: ``image_search`` takes searches by photo, ``text_search`` those by text; all if not given.

    Returns:
        One row per search and ordered SPU: search_id, user_id, query_id, item_id, spu_id, ts.
    """
    content = {"image_search": pl.col("image"), "text_search": pl.col("text"), None: pl.col("query_id")}[task]
    queries = dataset.queries.filter(content.is_not_null()).select("query_id")
    return (
        dataset.splits.select(dataset.searches, split)
        .filter(pl.col("action") == "order")
        .join(queries, on="query_id", how="semi", maintain_order="left")
        .join(dataset.table("products", ("item_id", "spu_id")), on="item_id", how="left", maintain_order="left")
        .unique(["search_id", "spu_id"], keep="first", maintain_order=True)
        .select("search_id", "user_id", "query_id", "item_id", "spu_id", "ts")
    )


def log_orders_without_query(dataset: Dataset, splits: Sequence[Split] = EVALUATED) -> None:
    """Say how many orders of these splits recall is not measured on, because nothing was asked."""
    for split in splits:
        orders = dataset.splits.select(dataset.searches, split).filter(pl.col("action") == "order")
        if unasked := orders["query_id"].null_count():
            count = f"{unasked:,} of {len(orders):,}"
            log.warning(f"orders of the {split} days without a query, which recall leaves out: {count}")


def microseconds(column: pl.Series) -> torch.Tensor:
    """Timestamps as int64 [N] microseconds since 1970."""
    return torch.from_numpy(column.dt.epoch("us").to_numpy().copy())
