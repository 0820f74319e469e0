"""Which products a probe may learn from, and which it is tested on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moonlib.data.reads import Reads
from moonlib.probes.probe import Represented
from moonlib.representations.store import unit

SHARE = 5
"""Of so many SPUs one is held out where no product is new."""


LABEL_READS = Reads.of(products=["spu_id", "listed_at"], moments=["train_until", "valid_until", "test_until"])
"""What `Labelled.of` reads, beside the labels."""


@dataclass(frozen=True)
class Labelled:
    """Products with a label: n to learn from, m to be tested on.

    Attributes:
        known: float [n, D], unit vectors of products listed before the end of training; all are represented.
        label: int64 [n], in [0, classes).
        tested: float [m, D], unit vectors of products that were listed later; zeros where there is no representation.
        truth: int64 [m], -1 for a label that no product to learn from has.
        classes: C, at least 2.
    """

    known: Tensor
    label: Tensor
    tested: Tensor
    truth: Tensor
    classes: int

    @classmethod
    def of(cls, represented: Represented, labels: pl.DataFrame) -> Labelled | None:
        """Part products that have a label.

        Products listed from the end of training to the end of the split are tested on. Where none of these has a label,
        a fifth of the SPUs listed before, drawn once and for all, are, and nothing is learned from them.

        Args:
            represented: see `Represented`.
            labels: item_id and ``label``, text; products with a null are left out.

        Returns:
            None where there are fewer than two labels to learn, or nothing to test on.
        """
        dataset = represented.dataset
        _, end = dataset.splits.window(represented.split)
        products = (
            dataset.table("products", ("item_id", "spu_id", "listed_at"))
            .join(labels.drop_nulls("label"), on="item_id", how="inner", maintain_order="left")
            .filter(pl.col("listed_at") < end)
        )
        new = (products["listed_at"] >= dataset.splits.train_until).to_numpy()
        if not new.any():
            spus = products["spu_id"].unique().sort().to_numpy()
            drawn = np.random.default_rng(0).permutation(spus)[: len(spus) // SHARE]
            new = np.isin(products["spu_id"].to_numpy(), drawn)
        vectors = torch.from_numpy(unit(represented.products.gather(products["item_id"].to_numpy())))
        names = products["label"].cast(pl.String)
        classes = names.filter(~pl.Series(new)).unique().sort()
        if len(classes) < 2 or not new.any():
            return None
        label = names.replace_strict(classes, range(len(classes)), default=-1, return_dtype=pl.Int64).to_torch()
        tested = torch.from_numpy(new)
        learned = ~tested & vectors.any(dim=1)
        return cls(vectors[learned], label[learned], vectors[tested], label[tested], len(classes))
