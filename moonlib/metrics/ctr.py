"""All metrics of click predictions at once: of all rows, and per segment."""

from __future__ import annotations

import polars as pl
import torch

from moonlib.metrics.auc import auc
from moonlib.metrics.ece import ece
from moonlib.metrics.gauc import gauc
from moonlib.metrics.log_loss import log_loss
from moonlib.metrics.ne import ne
from moonlib.metrics.pcoc import pcoc

COLUMNS = ("probability", "clicked", "user_id")
"""What a table of predictions holds."""


def ctr_metrics(predictions: pl.DataFrame) -> dict[str, float]:
    """All CTR metrics of n predictions.

    Args:
        predictions: n rows with probability float64, clicked bool and user_id int64 (for GAUC).

    Returns:
        ``auc``, ``gauc``, ``logloss``, ``ne``, ``pcoc``, ``ece``; NaN for one that these rows do not define, such as
        the AUC of rows of one class. RCE is not among them: it is 100 · (1 - ``ne``).

    Raises:
        ValueError: if a column is missing or holds a null, or a metric refuses its rows.
    """
    missing = [name for name in COLUMNS if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions need {', '.join(COLUMNS)}; there is no {' and no '.join(missing)}")
    for name in COLUMNS:
        if nulls := predictions[name].null_count():
            raise ValueError(f"{nulls} of {len(predictions)} values of {name} are null")
    p, y, u = (torch.from_numpy(predictions[name].to_numpy().copy()) for name in COLUMNS)
    values = {
        "auc": auc(p, y),
        "gauc": gauc(p, y, u),
        "logloss": log_loss(p, y),
        "ne": ne(p, y),
        "pcoc": pcoc(p, y),
        "ece": ece(p, y),
    }
    return {name: float(value) for name, value in values.items()}


def segment_table(predictions: pl.DataFrame, segment: str) -> pl.DataFrame:
    """All CTR metrics of each segment of the predictions.

    Args:
        predictions: as `ctr_metrics` takes them, with the column of the segment beside.
        segment: a column whose values part the rows, such as a category, a region or a flag.

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
    table = predictions.select(*COLUMNS, pl.col(segment).alias("segment")).sort("segment")
    metrics = [ctr_metrics(part) for part in table.partition_by("segment", maintain_order=True)]
    counts = table.group_by("segment", maintain_order=True).agg(
        rows=pl.len().cast(pl.Int64),
        clicks=pl.col("clicked").sum().cast(pl.Int64),
        base_rate=pl.col("clicked").mean(),
    )
    schema = dict.fromkeys(ctr_metrics(table.clear()), pl.Float64)
    return counts.rename({"segment": segment}).hstack(pl.DataFrame(metrics, schema).fill_nan(None))
