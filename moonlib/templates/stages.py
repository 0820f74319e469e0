"""A stage that lists every product's most similar products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F

from moonlib.metrics import Meaning
from moonlib.representations import Representations
from moonlib.stages import Need, Stage, StageContext
from moonlib.system.disk import replacing


@dataclass
class SimilarData:
    """Options of the stage.

    Args:
        batch_size: products compared with all others at once.
    """

    batch_size: int = 1024


class Template(Stage):
    """Writes ``similar.parquet``: item_id, rank from 1, similar_id and cosine of every product's nearest others.

    Products without a representation (a row of zeros) have none and are nobody's. Reports how many products have a
    list, and how often the first of a list is of the product's category.

    Args:
        k: similar products per product.

    Raises:
        ValueError: if ``k`` is below 1.
    """

    data_type: ClassVar[type] = SimilarData

    def __init__(self, k: int = 10) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    @property
    def needs(self) -> frozenset[Need]:
        """The representations that the stages before made."""
        return frozenset({"representations"})

    def meanings(self) -> dict[str, Meaning]:
        """Titles in tables, and whether higher is better."""
        return {
            "similar/products": Meaning("products with a list"),
            "similar/same_category": Meaning("share of the same category", higher_is_better=True),
        }

    def run(self, context: StageContext) -> dict[str, float]:
        """Write the lists; see `Stage.run`."""
        assert context.representations is not None
        products = Representations.open(context.representations, "products")
        known = np.flatnonzero(np.any(products.vectors != 0, axis=1))
        similar = self.similar(products.ids[known], torch.from_numpy(products.read(known)), context.data.batch_size)
        with replacing(context.directory / "similar.parquet") as partial:  # a file of this name is always whole
            similar.write_parquet(partial)

        category = context.dataset.products.select("item_id", "category")
        first = (
            similar.filter(pl.col("rank") == 1)
            .join(category, on="item_id")
            .join(category, left_on="similar_id", right_on="item_id", suffix="_similar")
        )
        same = first.filter(pl.col("category") == pl.col("category_similar")).height
        return {
            "similar/products": float(first.height),
            "similar/same_category": same / first.height if first.height else 0.0,
        }

    def similar(
        self, ids: np.ndarray[tuple[int], np.dtype[np.int64]], vectors: torch.Tensor, rows: int
    ) -> pl.DataFrame:
        """The nearest others of every product, exact.

        Args:
            ids: int64 [N].
            vectors: float [N, D].
            rows: products compared at once.

        Returns:
            N * min(k, N - 1) rows, by product and rank.
        """
        units, k = F.normalize(vectors.float(), dim=1), min(self.k, len(ids) - 1)
        parts = []
        for chunk in torch.arange(len(ids)).split(rows):
            cosines = units[chunk] @ units.T
            cosines[torch.arange(len(chunk)), chunk] = -2  # below every cosine: nothing is similar to itself
            cosine, near = cosines.topk(k, dim=1)
            parts.append(
                pl.DataFrame(
                    {
                        "item_id": np.repeat(ids[chunk.numpy()], k),
                        "rank": np.tile(np.arange(1, k + 1), len(chunk)),
                        "similar_id": ids[near.flatten().numpy()],
                        "cosine": cosine.flatten().numpy(),
                    }
                )
            )
        return pl.concat(parts)
