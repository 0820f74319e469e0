"""Quantise: products as a few codes each, written as a table, and how good these codes are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from torch import Tensor

from moonlib.artifacts.layout import CODES
from moonlib.data.reads import Reads
from moonlib.metrics.counts import note_rows, rows_key
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning
from moonlib.metrics.undefined import leave_out
from moonlib.representations.residual_kmeans import BLOCK, decode, encode, fit_codebooks, scaled, write_codebooks
from moonlib.representations.store import Representations
from moonlib.stages.represent import read_representations
from moonlib.stages.stage import Need, Stage, StageContext
from moonlib.system.disk import writing

TASK = "quantise"

FITTED = 256
"""Products per centroid that k-means looks at, a random part of a larger catalogue."""

MEANINGS = {
    "collision": Meaning("collision", False),
    "same_spu": Meaning("same code, same SPU", True),
    "error": Meaning("reconstruction error", False),
    "perplexity": Meaning("perplexity", True),
    "use": Meaning("use of the codebook", True),
}


@dataclass
class QuantiseData:
    """All products that are represented are coded; there is nothing to choose."""


class Quantise(Stage):
    """Codes every product's representation by residual k-means, its *semantic id*, and measures the codes.

    The centroids are fitted to products that were listed before training ended; products listed later are coded with
    them, as they are once a system runs. ``codes.parquet`` has the shop's own ``item_id`` and a column ``code1``,
    ``code2``, … per level, null for a product that shows nothing; ``codebooks.safetensors`` the centroids. The adapter
    `semantic_id` reads them in place of its own, ``retrieval`` searches among vectors made of codes alone
    (``representation: coded``), and `moonlib export` copies both files.

    Measured over all products that have a code, and over new ones:

    - ``collision``: the share of products whose whole code a product of another SPU has too;
    - ``same_spu``: of the pairs of products of one SPU, the share that have the same whole code;
    - ``error``: mean squared distance to the vector made of the codes, as a share of the squared length of the vector.

    By level, as ``perplexity@level1``: ``perplexity``, the exponential of the entropy of the codes, as many as are
    in use where all are used alike; ``use``, the share of the codebook that any product uses; and ``same_spu`` and
    ``error`` of the codes up to this level.

    Args:
        levels: how many codes a product has.
        size: centroids per level.

    Raises:
        ValueError: if ``levels`` is below 1 or ``size`` below 2.

    Source: residual quantisation of Rajput et al., "Recommender systems with generative retrieval" (arXiv 2305.05065,
    section 3.1), by k-means per level; perplexity of codes as in van den Oord et al., "Neural discrete representation
    learning" (arXiv 1711.00937).
    """

    data_type: ClassVar[type] = QuantiseData
    provides: ClassVar[Literal["weights", "representations", "codes"] | None] = "codes"
    reads_queries = False

    def __init__(self, levels: int = 3, size: int = 256) -> None:
        super().__init__()
        if levels < 1 or size < 2:
            raise ValueError(f"levels must be at least 1 and size at least 2, got {levels} and {size}")
        self.levels, self.size = levels, size

    def meanings(self) -> dict[str, Meaning]:
        return {f"{TASK}/{name}": meaning for name, meaning in MEANINGS.items()}

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"representations"})

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """Which products are of one SPU, and which were listed before training ended."""
        return Reads.of(products=["spu_id", "listed_at"], moments=["train_until"])

    def run(self, context: StageContext) -> dict[str, float]:
        if not context.trainer.is_global_zero:
            return {}
        dataset = context.dataset
        products, _ = read_representations(context, "learned")
        about = dataset.table("products", ("item_id", "spu_id", "listed_at"))
        known = dataset.splits.known(about)["item_id"].to_numpy()
        if len(known) > (most := FITTED * self.size):
            known = np.random.default_rng(context.seed).choice(known, most, replace=False)
        codebooks = fit_codebooks(
            torch.from_numpy(products.gather(known)), self.levels, self.size, context.seed % 2**31
        )
        write_codebooks(context.directory, codebooks)
        starts = range(0, max(1, len(products.ids)), BLOCK)
        blocks = context.progress.through(starts, "products", len(products.ids), lambda start: BLOCK)
        frame = pl.concat([self.coded(products, start, codebooks) for start in blocks])
        with writing(context.directory / CODES):
            kept = dataset.ids.decoded(frame.select("item_id", *self.columns), "item_id")
            kept.write_parquet(context.directory / CODES)
        new = pl.col("listed_at") >= dataset.splits.train_until
        about = about.select("item_id", "spu_id", new=new)
        frame = frame.join(about, on="item_id", maintain_order="left").drop_nulls(self.columns[0])
        metrics, rows = self.measure(frame)
        note_rows(context.directory, rows)
        return leave_out(metrics, context.directory)

    @property
    def columns(self) -> list[str]:
        """Columns of the codes."""
        return [f"code{level + 1}" for level in range(self.levels)]

    def coded(self, products: Representations, start: int, codebooks: Tensor) -> pl.DataFrame:
        """Code some products: item_id int64, a column of codes per level, and the error up to each level."""
        part = slice(start, start + BLOCK)
        vectors = torch.from_numpy(products.read(part))
        codes, whole = encode(vectors, codebooks), scaled(vectors)
        found: dict[str, pl.Series] = {"item_id": pl.Series(products.ids[part])}
        for level, column in enumerate(self.columns):
            found[column] = pl.Series(codes[:, level].numpy().astype(np.int32))
            left = (whole - decode(codes[:, : level + 1], codebooks)).square().mean(dim=1)
            found[f"error{level + 1}"] = pl.Series(left.numpy())
        there = pl.col(self.columns) >= 0
        return pl.DataFrame(found).with_columns(pl.when(there).then(pl.col(self.columns)))

    def measure(self, frame: pl.DataFrame) -> tuple[dict[str, float], dict[str, int]]:
        """Measure the codes of products.

        Args:
            frame: a row per product that has a code: its codes, errors, ``spu_id`` and ``new``.

        Returns:
            Metrics by their keys, and numbers of rows by `moonlib.metrics.counts.rows_key`.
        """
        metrics: dict[str, float] = {}
        rows: dict[str, int] = {}
        collides = frame.select(pl.col("spu_id").n_unique().over(self.columns) > 1).to_series()
        for segment, part in (("", frame), ("new", frame.filter("new"))):
            inside = collides if not segment else collides.filter(frame["new"])
            found = {
                "collision": _mean(inside.cast(pl.Float64)),
                "same_spu": same_spu(part, self.columns),
                "error": _mean(part[f"error{self.levels}"]),
            }
            if not segment:
                found["perplexity"] = perplexity(part, self.columns)
            metrics |= {str(MetricKey("test", "", TASK, name, segment)): value for name, value in found.items()}
            rows[rows_key(MetricKey("test", "", TASK, "", segment))] = len(part)
        for level, column in enumerate(self.columns, start=1):
            by_level = {
                "perplexity": perplexity(frame, [column]),
                "use": frame[column].n_unique() / self.size if len(frame) else math.nan,
                "same_spu": same_spu(frame, self.columns[:level]),
                "error": _mean(frame[f"error{level}"]),
            }
            segment = f"level{level}"
            metrics |= {str(MetricKey("test", "", TASK, name, segment)): value for name, value in by_level.items()}
            rows[rows_key(MetricKey("test", "", TASK, "", segment))] = len(frame)
        return metrics, rows


def perplexity(frame: pl.DataFrame, columns: Sequence[str]) -> float:
    """Exponential of the entropy of codes: how many there are, were all as frequent; NaN without any row.

    Example:
        >>> perplexity(pl.DataFrame({"code1": [0, 0, 1, 1]}), ["code1"])
        2.0
    """
    share = frame.group_by(columns).len()["len"].sort().to_numpy() / max(1, len(frame))  # in one order, to the bit
    return float(np.exp(-(share * np.log(share)).sum())) if len(frame) else math.nan


def same_spu(frame: pl.DataFrame, columns: Sequence[str]) -> float:
    """Of the pairs of products of one SPU, the share with the same codes; NaN where no SPU has two products.

    Example:
        >>> frame = pl.DataFrame({"spu_id": [1, 1, 1, 2], "code1": [5, 5, 6, 5]})
        >>> round(same_spu(frame, ["code1"]), 3)
        0.333
    """

    def pairs(keys: Sequence[str]) -> int:
        numbers = frame.group_by(keys).len()["len"].cast(pl.Int64)
        return int((numbers * (numbers - 1) // 2).sum())

    there = pairs(["spu_id"])
    return pairs(["spu_id", *columns]) / there if there else math.nan


def _mean(column: pl.Series) -> float:
    """The mean, NaN of nothing."""
    mean = column.mean()
    return float(mean) if isinstance(mean, float) else math.nan
