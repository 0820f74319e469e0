"""Paired comparison of two runs on the same searches and impressions of the test days, resampled over shoppers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401  (before torchmetrics)
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torchmetrics import Metric

from moonlib.artifacts import layout
from moonlib.artifacts.checksums import again
from moonlib.artifacts.reading import Unreadable, ValueType, read_table
from moonlib.data.ids import codes
from moonlib.metrics.auc import AUC
from moonlib.metrics.bins import equal_mass_bins
from moonlib.metrics.bootstrap import (
    Interval,
    Resampled,
    paired_auc_difference,
    paired_mean_difference,
    resampled_totals,
)
from moonlib.metrics.ctr import ctr_metrics, own_metrics
from moonlib.metrics.metric import Additive, arguments_of, name_of

KEYS = ("search_id", "item_id")
"""Of a search or an impression. A shop may show an item twice in one search: rows are paired by their order then."""

SEARCHES: dict[str, ValueType] = {
    "task": "texts",
    "split": "texts",
    "search_id": "ids",
    "user_id": "ids",
    "item_id": "ids",
    "rank": "integers",
}
"""Columns of ``searches.parquet`` that are always read."""

PREDICTIONS: dict[str, ValueType] = {
    "split": "texts",
    "search_id": "ids",
    "user_id": "ids",
    "item_id": "ids",
    "clicked": "booleans",
    "probability": "floats",
}
"""Columns of ``predictions.parquet`` that are always read."""

ECE_BINS = 20
"""Bins of equal mass of the calibration error, as `moonlib.metrics.ece` has by default."""


def searches(stage: Path, task: str = "image_search", split: str = "test") -> pl.DataFrame:
    """The searches that a represent stage was measured on.

    Args:
        stage: its directory.
        task: ``image_search`` or ``text_search``.
        split: ``test`` or ``valid``.

    Returns:
        The rows of ``searches.parquet``, by search and item: search_id, user_id, query_id, item_id, rank (0 is the
        best), gallery, new, tail and what the recipe asked for besides.

    Raises:
        FileNotFoundError, Damaged, Unreadable: see `moonlib.artifacts.reading.read_table`.
    """
    table = read_table(stage / layout.SEARCHES, SEARCHES)
    return table.filter(pl.col("task") == task, pl.col("split") == split).sort(*KEYS, maintain_order=True)


def predictions(stage: Path, split: str = "test") -> pl.DataFrame:
    """The impressions that an application stage was measured on.

    Args:
        stage: its directory.
        split: ``test`` or ``valid``.

    Returns:
        The rows of ``predictions.parquet``, by search and item: search_id, user_id, item_id, clicked, probability,
        new, tail and what the recipe asked for besides.

    Raises:
        FileNotFoundError, Damaged, Unreadable: see `read_predictions`.
    """
    table = read_predictions(stage / layout.PREDICTIONS)
    return table.filter(pl.col("split") == split).sort(*KEYS, maintain_order=True)


def read_predictions(file: Path) -> pl.DataFrame:
    """The rows of a ``predictions.parquet``, in their order.

    Raises:
        FileNotFoundError, Damaged: see `moonlib.artifacts.reading.reading`.
        Unreadable: it is no such table, or a probability in it is none.
    """
    table = read_table(file, PREDICTIONS)
    wrong = table["probability"].filter(~table["probability"].is_between(0, 1))
    if len(wrong):
        raise Unreadable(f"{file}: a probability is {wrong[0]}, and should be between 0 and 1; {again(file)}")
    return table


def hits(run: Path, stage: str = "represent", k: int = 10, task: str = "image_search") -> pl.DataFrame:
    """The searches of a task on the test days of one run: search_id, item_id, user_id, hit (recall@k)."""
    return searches(run / stage, task).select("search_id", "item_id", "user_id", hit=pl.col("rank") < k)


def recall_gain(run: Path, other: Path, stage: str = "represent", k: int = 10, task: str = "image_search") -> Interval:
    """Recall@k of a task of ``run`` minus that of a stage of ``other`` on the same searches, over shoppers."""
    mine, others = hits(run, k=k, task=task), hits(other, stage, k, task)
    require_same_rows(mine, others, f"{run} and {other}")
    return paired_mean_difference(mine["hit"].to_numpy(), others["hit"].to_numpy(), codes(mine["user_id"]))


def auc_gain(application: Path, other: Path) -> Interval:
    """AUC of one application stage minus that of another on the same impressions of the test days, over shoppers."""
    mine, others = predictions(application), predictions(other)
    require_same_rows(mine, others, f"{application} and {other}")
    scores = mine["probability"].to_numpy(), others["probability"].to_numpy()
    return paired_auc_difference(*scores, mine["clicked"].to_numpy(), codes(mine["user_id"]))


def require_same_rows(mine: pl.DataFrame, others: pl.DataFrame, names: str) -> None:
    """Refuse to pair tables of other searches or impressions.

    Raises:
        ValueError: naming ``names``.
    """
    if not mine.select(KEYS).equals(others.select(KEYS)):
        raise ValueError(f"{names} were not measured on the same rows ({len(mine):,} and {len(others):,}): not paired")


def show(interval: Interval) -> str:
    """A difference as text, without an interval where none is known."""
    ends = "" if np.isnan(interval.low) else f" [{interval.low:+.4f}, {interval.high:+.4f}]"
    return f"{interval.estimate:+.4f}{ends}"


def resampled_metrics(
    metrics: Iterable[Metric],
    models: Sequence[Mapping[str, Any]],
    users: NDArray[np.int64],
    samples: int = 1000,
) -> dict[str, Resampled]:
    """Metrics of several models on the same rows, resampled over shoppers.

    Args:
        metrics: those that are no `moonlib.metrics.metric.Additive` are left out.
        models: what each model gives the metrics to read, by the names in `moonlib.metrics.metric.READS`.
        users: int64 [n].
        samples: number of resamples.

    Returns:
        M models by each metric's name.
    """
    added: list[torch.Tensor] = []
    statistics: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {}
    width = 0
    for metric in metrics:
        if isinstance(metric, Additive):
            arguments = arguments_of(metric)
            sums = [metric.sums(**{name: model[column] for name, column in arguments.items()}) for model in models]
            added.append(torch.stack(sums))
            columns = slice(width, width := width + added[-1].shape[2])
            statistics[name_of(metric)] = partial(_statistic, metric, columns)
    if not added:
        return {}
    return resampled_totals(torch.cat(added, dim=2).numpy(), users, statistics, samples)


def _statistic(metric: Additive, columns: slice, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = metric.of_sums(torch.from_numpy(sums[columns])).numpy()
    return found


def resampled_ctr(
    probabilities: NDArray[np.float64],
    clicked: NDArray[np.bool_],
    users: NDArray[np.int64],
    samples: int = 1000,
    metrics: Sequence[Metric] | None = None,
    searches: NDArray[np.int64] | None = None,
) -> dict[str, Resampled]:
    """The metrics of click predictions (`moonlib.metrics.ctr.ctr_metrics`) of several models on the same impressions.

    AUC apart, which is no function of sums and takes longer: `resampled_auc`. The bins of ECE are those of all rows,
    and stay as they are in the resamples.

    Args:
        probabilities: float64 [M, n].
        clicked: bool [n].
        users: int64 [n].
        samples: number of resamples.
        metrics: what to compute; `moonlib.metrics.ctr.own_metrics` if not given.
        searches: int64 [n], for metrics that read ``groups``.

    Returns:
        M models by each metric's name: those that are sums of rows, which AUC is not.
    """
    rows = {"labels": torch.from_numpy(clicked.copy()), "users": torch.from_numpy(users.copy())}
    if searches is not None:
        rows["groups"] = torch.from_numpy(searches.copy())
    scores = [torch.from_numpy(of_model.copy()) for of_model in probabilities]
    models = [{"probabilities": each, "scores": each, **rows} for each in scores]
    return resampled_metrics(own_metrics() if metrics is None else metrics, models, users, samples)


def metric_gain(application: Path, other: Path, metric: Metric) -> Interval:
    """A click metric of one application stage minus that of another on the same impressions of the test days.

    Returns:
        With an interval over shoppers where the metric can be resampled, NaN for its ends otherwise.
    """
    if type(metric) is AUC:  # which is no function of sums
        return auc_gain(application, other)
    mine, others = predictions(application), predictions(other)
    require_same_rows(mine, others, f"{application} and {other}")
    scores = np.stack([table["probability"].to_numpy() for table in (mine, others)])
    clicked, users, searched = mine["clicked"].to_numpy(), codes(mine["user_id"]), codes(mine["search_id"])
    if found := resampled_ctr(scores, clicked, users, metrics=[metric], searches=searched):
        return found[name_of(metric)].difference(0, 1)
    values = [ctr_metrics(table, [metric])[name_of(metric)] for table in (mine, others)]
    return Interval(values[0] - values[1], np.nan, np.nan)


def resampled_click_rates(
    probabilities: NDArray[np.float64], clicked: NDArray[np.bool_], users: NDArray[np.int64], bins: int = ECE_BINS
) -> list[tuple[float, Interval]]:
    """The calibration curve of one model: mean prediction and click rate of each bin of equal mass that holds a row.

    Args:
        probabilities: float64 [n].
        clicked: bool [n].
        users: int64 [n].
        bins: how many.

    Returns:
        By ascending prediction: the mean prediction, and the click rate with its interval over shoppers.
    """
    p = torch.from_numpy(probabilities.copy())
    rows, clicks, promised = (
        _in_bins(p, values, bins) for values in (np.ones(len(p)), clicked.astype(np.float64), probabilities)
    )
    filled = np.flatnonzero(rows.any(axis=0))
    by_bin = np.stack([clicks.T[filled], rows.T[filled]], axis=2)
    rate = resampled_totals(by_bin, users, {"rate": _mean(0, 1)})["rate"]
    return [(float(promised[:, b].sum() / rows[:, b].sum()), rate.interval(i)) for i, b in enumerate(filled)]


def _in_bins(p: torch.Tensor, values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Each row's value in the column of its bin of equal mass: float64 [n, bins]."""
    rows = np.zeros((len(values), bins))
    rows[np.arange(len(values)), equal_mass_bins(p, bins).numpy()] = values
    return rows


def _mean(total: int, weight: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda sums: sums[total] / sums[weight]
