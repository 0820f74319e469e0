"""All metrics of click predictions at once: of all rows, and per segment."""

from __future__ import annotations

from collections.abc import Sequence

import moonlib.compat  # noqa: F401  (before torchmetrics)
import polars as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from moonlib.data.ids import codes
from moonlib.metrics.auc import AUC
from moonlib.metrics.ece import ECE
from moonlib.metrics.gauc import GAUC
from moonlib.metrics.log_loss import LogLoss
from moonlib.metrics.metric import arguments_of, measured, name_of
from moonlib.metrics.ne import NE
from moonlib.metrics.pcoc import PCOC

COLUMNS = ("probability", "clicked", "user_id")
"""Columns of a table of predictions."""


def own_metrics() -> list[Metric]:
    """AUC, GAUC, log loss, NE, PCOC and ECE. RCE is not among them: it is 100 · (1 - NE)."""
    return [AUC(), GAUC(), LogLoss(), NE(), PCOC(), ECE()]


def ctr_metrics(predictions: pl.DataFrame, metrics: Sequence[Metric] | None = None) -> dict[str, float]:
    """CTR metrics of n predictions.

    Args:
        predictions: n rows with probability float64, clicked bool and user_id (for GAUC); search_id for a metric that
            reads ``groups``. Ids are int64 or text.
        metrics: what to compute; `own_metrics` if not given.

    Returns:
        By the name of each metric, ``auc``, ``gauc``, ``logloss``, ``ne``, ``pcoc`` and ``ece``; NaN for one that these
        rows do not define, such as the AUC of rows of one class.

    Raises:
        ValueError: if a column is missing or holds a null, or a metric refuses its rows.
    """
    metrics = own_metrics() if metrics is None else metrics
    columns = ctr_columns(predictions, metrics)
    return {name_of(metric): measured(metric, columns) for metric in metrics}


def ctr_columns(predictions: pl.DataFrame, metrics: Sequence[Metric]) -> dict[str, Tensor]:
    """Inputs of click metrics from predictions, by the names in `moonlib.metrics.metric.READS`; see `ctr_metrics`."""
    grouped = any("groups" in arguments_of(metric).values() for metric in metrics)
    names = (*COLUMNS, "search_id") if grouped else COLUMNS
    missing = [name for name in names if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions need {', '.join(names)}; there is no {' and no '.join(missing)}")
    for name in names:
        if nulls := predictions[name].null_count():
            raise ValueError(f"{nulls} of {len(predictions)} values of {name} are null")
    p, y = (torch.from_numpy(predictions[name].to_numpy().copy()) for name in names[:2])
    u, *groups = (torch.from_numpy(codes(predictions[name]).copy()) for name in names[2:])
    return {"probabilities": p, "scores": p, "labels": y, "users": u} | ({"groups": groups[0]} if groups else {})


def segment_table(predictions: pl.DataFrame, segment: str, metrics: Sequence[Metric] | None = None) -> pl.DataFrame:
    """CTR metrics of each segment of the predictions.

    Args:
        predictions: as `ctr_metrics` takes them, with the column of the segment beside.
        segment: a column whose values part the rows, such as a category, a region or a flag.
        metrics: as `ctr_metrics` takes them.

    Returns:
        One row per value of the segment, ascending; rows whose value is null are a segment of their own, the first.
        Columns: the segment, ``rows``, ``clicks``, ``base_rate`` (clicks / rows), and the metrics of `ctr_metrics`. A
        metric that a segment does not define (AUC, GAUC and NE where one class is missing) is null; no segment is left
        out.

    Raises:
        ValueError: if there is no such column, and as `ctr_metrics`.

    Example:
        >>> predictions = pl.DataFrame({
        ...     "probability": [0.25, 0.75, 0.5], "clicked": [False, True, True], "user_id": [7, 7, 8],
        ...     "category": ["Mug", "Mug", "Vase"],
        ... })
        >>> segment_table(predictions, "category").select("category", "rows", "clicks", "base_rate", "auc").rows()
        [('Mug', 2, 1, 0.5, 1.0), ('Vase', 1, 1, 1.0, None)]
    """
    if segment not in predictions.columns:
        raise ValueError(f"predictions have no column '{segment}' to part them by; they have {predictions.columns}")
    metrics = own_metrics() if metrics is None else metrics
    there = [name for name in (*COLUMNS, "search_id") if name in predictions.columns]
    table = predictions.select(*there, pl.col(segment).alias("segment")).sort("segment")
    found = [ctr_metrics(part, metrics) for part in table.partition_by("segment", maintain_order=True)]
    counts = table.group_by("segment", maintain_order=True).agg(
        rows=pl.len().cast(pl.Int64),
        clicks=pl.col("clicked").sum().cast(pl.Int64),
        base_rate=pl.col("clicked").mean(),
    )
    schema = dict.fromkeys(map(name_of, metrics), pl.Float64)
    return counts.rename({"segment": segment}).hstack(pl.DataFrame(found, schema).fill_nan(None))
