"""What one run brings over another, on the same searches and impressions of the test days, resampled over shoppers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.metrics.bins import equal_mass_bins
from moonlib.metrics.bootstrap import (
    Interval,
    Resampled,
    paired_auc_difference,
    paired_mean_difference,
    resampled_auc,
    resampled_totals,
)
from moonlib.metrics.gauc import user_auc
from moonlib.metrics.log_loss import row_log_loss

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
    """
    table = pl.read_parquet(stage / "searches.parquet")
    return table.filter(pl.col("task") == task, pl.col("split") == split).sort("search_id", "item_id")


def predictions(stage: Path, split: str = "test") -> pl.DataFrame:
    """The impressions that an application stage was measured on.

    Args:
        stage: its directory.
        split: ``test`` or ``valid``.

    Returns:
        The rows of ``predictions.parquet``, by search and item: search_id, user_id, item_id, clicked, probability,
        new, tail and what the recipe asked for besides.
    """
    table = pl.read_parquet(stage / "predictions.parquet")
    return table.filter(pl.col("split") == split).sort("search_id", "item_id")


def hits(run: Path, stage: str = "represent", k: int = 10) -> pl.DataFrame:
    """The image searches of the test days of one run: search_id, item_id, user_id, hit (recall@k)."""
    return searches(run / stage).select("search_id", "item_id", "user_id", hit=pl.col("rank") < k)


def recall_gain(run: Path, other: Path, stage: str = "represent", k: int = 10) -> Interval:
    """Recall@k of image search of ``run`` minus that of a stage of ``other``, over shoppers."""
    both = hits(run, k=k).join(hits(other, stage, k), on=["search_id", "item_id"], suffix="_other")
    return paired_mean_difference(both["hit"].to_numpy(), both["hit_other"].to_numpy(), both["user_id"].to_numpy())


def auc_gain(application: Path, other: Path) -> Interval:
    """AUC of one application stage minus that of another on the same impressions of the test days, over shoppers."""
    both = predictions(application).join(predictions(other), on=["search_id", "item_id"], suffix="_other")
    columns = ("probability", "probability_other", "clicked", "user_id")
    return paired_auc_difference(*(both[name].to_numpy() for name in columns))


def show(interval: Interval) -> str:
    """A difference as text."""
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def resampled_recall(ranks: NDArray[np.integer], users: NDArray[np.int64], k: int, samples: int = 1000) -> Resampled:
    """Recall@k of several models on the same searches.

    Args:
        ranks: int [M, n], of what was ordered, 0 for the best.
        users: int64 [n].
        k: how many results a search shows.
        samples: number of resamples.

    Returns:
        M models.
    """
    hit = (ranks < k).astype(np.float64)
    return resampled_totals(np.stack([hit, np.ones_like(hit)], axis=2), users, _mean, samples)


def resampled_ctr(
    probabilities: NDArray[np.float64],
    clicked: NDArray[np.bool_],
    users: NDArray[np.int64],
    metrics: Sequence[str] = ("auc", "gauc", "logloss", "ne", "pcoc", "ece"),
    samples: int = 1000,
) -> dict[str, Resampled]:
    """The metrics of click predictions (`moonlib.metrics.ctr.ctr_metrics`) of several models on the same impressions.

    The bins of ECE are those of all rows, and stay as they are in the resamples.

    Args:
        probabilities: float64 [M, n].
        clicked: bool [n].
        users: int64 [n].
        metrics: which of them.
        samples: number of resamples.

    Returns:
        M models by each metric's name.
    """
    click, models = torch.from_numpy(clicked.copy()), [torch.from_numpy(p.copy()) for p in probabilities]
    one, clicks = np.ones(len(clicked)), clicked.astype(np.float64)
    losses = [row_log_loss(p, click).numpy() for p in models] if {"logloss", "ne"} & set(metrics) else []
    found: dict[str, Resampled] = {}
    for metric in metrics:
        if metric == "auc":
            found[metric] = resampled_auc(probabilities, clicked, users, samples)
        elif metric == "gauc":
            found[metric] = _gauc(models, click, users, samples)
        elif metric == "logloss":
            rows = np.stack([np.stack([loss, one], axis=1) for loss in losses])
            found[metric] = resampled_totals(rows, users, _mean, samples)
        elif metric == "ne":
            rows = np.stack([np.stack([loss, one, clicks], axis=1) for loss in losses])
            found[metric] = resampled_totals(rows, users, _ne, samples)
        elif metric == "pcoc":
            rows = np.stack([np.stack([p, clicks], axis=1) for p in probabilities])
            found[metric] = resampled_totals(rows, users, _mean, samples)
        elif metric == "ece":
            gaps = np.stack([_in_bins(p, (p - click.double()).numpy(), one) for p in models])
            found[metric] = resampled_totals(gaps, users, _ece, samples)
        else:
            raise ValueError(f"no interval of a metric '{metric}' of clicks is known")
    return found


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
    p, one = torch.from_numpy(probabilities.copy()), np.ones(len(probabilities))
    rows, clicks, promised = (
        _in_bins(p, values, one, bins) for values in (one, clicked.astype(np.float64), probabilities)
    )
    filled = [b for b in range(bins) if rows[:, b].any()]
    rate = resampled_totals(np.stack([clicks.T[filled], rows.T[filled]], axis=2), users, _mean)
    return [(float(promised[:, b].sum() / rows[:, b].sum()), rate.interval(i)) for i, b in enumerate(filled)]


def _gauc(models: list[torch.Tensor], click: torch.Tensor, users: NDArray[np.int64], samples: int) -> Resampled:
    """Within users; one who clicked all or nothing has no part in it, and is drawn all the same."""
    ids = torch.from_numpy(users.copy())
    distinct = np.unique(users)
    rows = np.zeros((len(models), len(distinct), 2))
    for m, p in enumerate(models):
        per_user = user_auc(p, click, ids)
        place = np.searchsorted(distinct, per_user.users.numpy())
        rows[m, place, 0] = (per_user.auc * per_user.impressions).numpy()
        rows[m, place, 1] = per_user.impressions.numpy()
    return resampled_totals(rows, distinct, _mean, samples)


def _in_bins(
    p: torch.Tensor, values: NDArray[np.float64], one: NDArray[np.float64], bins: int = ECE_BINS
) -> NDArray[np.float64]:
    """Each row's value in the column of its bin, and 1 in one more: float64 [n, bins + 1]."""
    rows = np.zeros((len(values), bins + 1))
    rows[np.arange(len(values)), equal_mass_bins(p, bins).numpy()] = values
    rows[:, bins] = one
    return rows


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[0] / sums[1]


def _ne(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    loss, rows, clicks = sums
    rate = clicks / rows
    return loss / rows / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(sums[:-1]).sum(axis=0) / sums[-1]
