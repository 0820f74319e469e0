"""What one run brings over another, on the same searches and impressions of the test days, resampled over shoppers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.artifacts import layout
from moonlib.artifacts.checksums import again
from moonlib.artifacts.reading import Unreadable, ValueType, read_table
from moonlib.metrics.bins import equal_mass_bins
from moonlib.metrics.bootstrap import (
    Interval,
    Resampled,
    paired_auc_difference,
    paired_mean_difference,
    resampled_totals,
)
from moonlib.metrics.gauc import user_auc
from moonlib.metrics.log_loss import row_log_loss

KEYS = ("search_id", "item_id")
"""Of a search or an impression. A shop may show an item twice in one search: rows are paired by their order then."""

SEARCHES: dict[str, ValueType] = {
    "task": "texts",
    "split": "texts",
    "search_id": "integers",
    "user_id": "integers",
    "item_id": "integers",
    "rank": "integers",
}
"""Columns of ``searches.parquet`` that are always read."""

PREDICTIONS: dict[str, ValueType] = {
    "split": "texts",
    "search_id": "integers",
    "user_id": "integers",
    "item_id": "integers",
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


def recall_gain(run: Path, other: Path, stage: str = "represent", k: int = 10) -> Interval:
    """Recall@k of image search of ``run`` minus that of a stage of ``other`` on the same searches, over shoppers."""
    mine, others = hits(run, k=k), hits(other, stage, k)
    require_same_rows(mine, others, f"{run} and {other}")
    return paired_mean_difference(mine["hit"].to_numpy(), others["hit"].to_numpy(), mine["user_id"].to_numpy())


def auc_gain(application: Path, other: Path) -> Interval:
    """AUC of one application stage minus that of another on the same impressions of the test days, over shoppers."""
    mine, others = predictions(application), predictions(other)
    require_same_rows(mine, others, f"{application} and {other}")
    scores = mine["probability"].to_numpy(), others["probability"].to_numpy()
    return paired_auc_difference(*scores, mine["clicked"].to_numpy(), mine["user_id"].to_numpy())


def require_same_rows(mine: pl.DataFrame, others: pl.DataFrame, names: str) -> None:
    """Refuse to pair tables of other searches or impressions.

    Raises:
        ValueError: naming ``names``.
    """
    if not mine.select(KEYS).equals(others.select(KEYS)):
        raise ValueError(f"{names} were not measured on the same rows ({len(mine):,} and {len(others):,}): not paired")


def show(interval: Interval) -> str:
    """A difference as text."""
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def resampled_recall(
    ranks: NDArray[np.integer], users: NDArray[np.int64], ks: Sequence[int], samples: int = 1000
) -> dict[int, Resampled]:
    """Recall of several models on the same searches.

    Args:
        ranks: int [M, n], of what was ordered, 0 for the best.
        users: int64 [n].
        ks: how many results a search shows.
        samples: number of resamples.

    Returns:
        M models by each K.
    """
    rows = np.stack([*(ranks < k for k in ks), np.ones_like(ranks)], axis=2)
    found = resampled_totals(rows, users, {str(k): _mean(i, len(ks)) for i, k in enumerate(ks)}, samples)
    return {k: found[str(k)] for k in ks}


def resampled_ctr(
    probabilities: NDArray[np.float64], clicked: NDArray[np.bool_], users: NDArray[np.int64], samples: int = 1000
) -> dict[str, Resampled]:
    """The metrics of click predictions (`moonlib.metrics.ctr.ctr_metrics`) of several models on the same impressions.

    AUC apart, which is no function of sums and takes longer: `resampled_auc`. The bins of ECE are those of all rows,
    and stay as they are in the resamples.

    Args:
        probabilities: float64 [M, n].
        clicked: bool [n].
        users: int64 [n].
        samples: number of resamples.

    Returns:
        M models by each metric's name: ``gauc``, ``logloss``, ``ne``, ``pcoc``, ``ece``.
    """
    click, ids = torch.from_numpy(clicked.copy()), torch.from_numpy(users.copy())
    distinct, first = np.unique(users, return_index=True)
    rows = np.zeros((len(probabilities), len(clicked), 6 + ECE_BINS))
    for columns, values in zip(rows, probabilities, strict=True):
        p = torch.from_numpy(values.copy())
        columns[:, 0] = 1
        columns[:, 1] = clicked
        columns[:, 2] = values
        columns[:, 3] = row_log_loss(p, click).numpy()
        # A user's AUC counts with the first of the user's rows; who clicked all or nothing has none.
        per_user = user_auc(p, click, ids)
        place = first[np.searchsorted(distinct, per_user.users.numpy())]
        columns[place, 4] = (per_user.auc * per_user.impressions).numpy()
        columns[place, 5] = per_user.impressions.numpy()
        columns[:, 6:] = _in_bins(p, values - clicked, ECE_BINS)
    return resampled_totals(
        rows,
        users,
        {
            "gauc": _mean(4, 5),
            "logloss": _mean(3, 0),
            "ne": _ne,
            "pcoc": _mean(2, 1),
            "ece": lambda sums: np.abs(sums[6:]).sum(axis=0) / sums[0],
        },
        samples,
    )


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


def _ne(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, clicks, loss = sums[0], sums[1], sums[3]
    rate = clicks / rows
    return loss / rows / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
