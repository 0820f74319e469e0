"""Predicted clicks of the days that are evaluated: one table, and the metrics of all its rows and of each segment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import moonlib.compat  # noqa: F401  (before torchmetrics)
import numpy as np
import polars as pl
from numpy.typing import NDArray
from torchmetrics import Metric

from moonlib.data.dataset import Dataset
from moonlib.data.segments import SEGMENTS, TRAFFIC, product_segments, segment_label, traffic_segments
from moonlib.data.splits import Split
from moonlib.metrics.counts import rows_key
from moonlib.metrics.ctr import ctr_metrics
from moonlib.metrics.key import MetricKey


def predicted_clicks(
    dataset: Dataset, rows: Mapping[Split, pl.DataFrame], predicted: Mapping[Split, NDArray[np.float64]]
) -> pl.DataFrame:
    """Put the impressions of some splits beside what was predicted of them.

    Args:
        dataset: for the segments of products and of impressions.
        rows: the impressions of each split.
        predicted: probability of a click of each of them, float64.

    Returns:
        Columns search_id, user_id, item_id, clicked, split, probability, and a flag per segment of products; where some
        impressions have a query and others none, also a flag of each of these.
    """
    traffic = traffic_segments(dataset.impressions)
    return pl.concat(
        [
            rows[name]
            .select("search_id", "user_id", "item_id", "clicked", *traffic)
            .with_columns(pl.lit(name).alias("split"), pl.Series("probability", probability))
            .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
            for name, probability in predicted.items()
        ]
    )


def by_segment(
    predictions: pl.DataFrame, splits: Iterable[Split], columns: Iterable[str], metrics: Sequence[Metric]
) -> tuple[dict[str, float], dict[str, int]]:
    """Measure all rows of each split, and each segment of them.

    Args:
        predictions: see `predicted_clicks`.
        splits: those to measure.
        columns: of the predictions; every value of theirs is a segment.
        metrics: what to measure.

    Returns:
        Metrics by their keys, and numbers of rows by `moonlib.metrics.counts.rows_key`.
    """
    measured: dict[str, float] = {}
    rows_of: dict[str, int] = {}
    for name in splits:
        split = predictions.filter(pl.col("split") == name)
        flags = [*SEGMENTS, *(each for each in TRAFFIC if each in predictions.columns)]
        parts = {"": split} | {segment: split.filter(segment) for segment in flags}
        for column in columns:
            for part in split.partition_by(column, maintain_order=True):
                value = part[column][0]
                text = str(value).lower() if isinstance(value, bool) else value
                parts[segment_label(f"{column}={text}")] = part
        for segment, part in parts.items():
            for metric, value in ctr_metrics(part, metrics).items():
                key = MetricKey("test" if name == "test" else "valid", "", "ctr", metric, segment)
                measured[str(key)], rows_of[rows_key(key)] = value, len(part)
    return measured, rows_of


def true_probability(dataset: Dataset, impressions: pl.DataFrame) -> NDArray[np.float64]:
    """The simulation's own probability of each click, position included: no model can know more.

    Args:
        dataset: a simulated dataset.
        impressions: n rows of its impressions.

    Returns:
        float64 [n].
    """
    assert dataset.truth is not None
    truth = pl.read_ipc(dataset.truth / "impressions.arrow")
    keys = ["search_id", "item_id"]
    joined = impressions.select(keys).join(truth, on=keys, how="left", maintain_order="left")
    return joined["p_click"].to_numpy().astype(np.float64)
