"""Recall of what was ordered, from the stored vectors."""

from __future__ import annotations

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import EVALUATED, EVALUATION_READS, evaluation_searches, microseconds
from moonlib.data.reads import Reads
from moonlib.data.segments import ASKED, CONTENT_READS, SEGMENT_READS, SEGMENTS, product_segments, query_contents
from moonlib.data.splits import Split
from moonlib.metrics.recall import ranks, recall_at
from moonlib.probes.probe import Probe, Represented

PARTS = (*ASKED, *SEGMENTS)


def asked_searches(dataset: Dataset, split: Split) -> pl.DataFrame:
    """The searches that ended in an order, with a flag for each part they are reported in.

    Returns:
        As `evaluation_searches`, and bool columns ``photo``, ``text``, ``both`` (what the query shows), ``new`` and
        ``tail`` (what was ordered).
    """
    return (
        evaluation_searches(dataset, split)
        .join(query_contents(dataset), on="query_id", how="left", maintain_order="left")
        .with_columns((pl.col("asked") == name).fill_null(False).alias(name) for name in ASKED)
        .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
    )


def ranks_of(represented: Represented, searches: pl.DataFrame) -> NDArray[np.int64]:
    """Rank of the ordered SPU of each search among all products listed by then, int64 [Q].

    See `moonlib.metrics.recall.ranks`.

    A search without a representation of its query, or of what was ordered, is a miss: its rank is the number of
    represented products.
    """
    products = represented.products
    table = represented.dataset.table("products", ("item_id", "spu_id", "listed_at"))
    rows = products.rows(table["item_id"].to_numpy())
    there = rows >= 0
    # In the order of the vectors, which stay on disk; what is not in the table counts as never listed.
    spu, listed = np.zeros(len(products.ids), np.int64), np.full(len(products.ids), np.iinfo(np.int64).max)
    spu[rows[there]] = table["spu_id"].to_numpy()[there]
    listed[rows[there]] = microseconds(table["listed_at"]).numpy()[there]
    found = ranks(
        torch.from_numpy(represented.queries.gather(searches["query_id"].to_numpy())),
        products.vectors,
        torch.from_numpy(searches["spu_id"].to_numpy().copy()),
        torch.from_numpy(spu),
        microseconds(searches["ts"]),
        torch.from_numpy(listed),
    )
    rank: NDArray[np.int64] = found.numpy()
    return rank


class Search(Probe):
    """Recall@K of what a search ended in an order of, among all products listed by then.

    It is reported for all searches; by what the query shows: a ``photo``, a ``text``, or ``both``; and for searches
    whose ordered product is new, or of the tail. Queries are compared as they are stored, which reads all that they
    show. The recall of the represent stage differs in this: its ``image_search`` looks at nothing but the photo, its
    ``text_search`` at nothing but the text.

    Args:
        ks: the K of recall@K; one that exceeds the catalogue is left out.
    """

    def __init__(self, ks: list[int] = [1, 5, 10, 50, 100]) -> None:  # noqa: B006  (read, never written)
        self.ks = ks

    def reads(self) -> Reads:
        """See `Probe.reads`."""
        return EVALUATION_READS | CONTENT_READS | SEGMENT_READS | Reads.of(products=["spu_id", "listed_at"])

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``search/recall@K``, and ``search/recall@K@PART`` for each part that has searches in both splits."""
        dataset = represented.dataset
        searches = {split: asked_searches(dataset, split) for split in EVALUATED}
        if any(part.is_empty() for part in searches.values()):
            return {}
        there = [name for name in PARTS if all(part[name].any() for part in searches.values())]
        chosen, size = searches[represented.split], dataset.counts["products"]
        rank = torch.from_numpy(ranks_of(represented, chosen))
        # A miss is told by the number of vectors, and at any K it is one.
        rank = rank.masked_fill(rank >= len(represented.products.ids), size)
        parts = {"": torch.ones(len(rank), dtype=torch.bool)} | {f"@{name}": chosen[name].to_torch() for name in there}
        return {
            f"search/recall@{k}{suffix}": float(recall_at(rank[part], k, size))
            for k in self.ks
            if k <= size
            for suffix, part in parts.items()
        }
