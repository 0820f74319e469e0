"""Intervals by resampling users, paired between models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from moonlib.metrics.auc import auc
from moonlib.metrics.rows import check_scores

CHUNK = 500_000
"""How many numbers a block of resamples may hold: 4 MB, which a processor keeps near."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        estimate: the value on the rows as they are.
        low: 2.5 % quantile over the resamples.
        high: 97.5 % quantile over the resamples.
    """

    estimate: float
    low: float
    high: float


def pooled(intervals: Iterable[Interval]) -> Interval:
    """The mean of independent estimates, such as those of several marketplaces, with its 95 % interval.

    Args:
        intervals: each of its own shoppers, at least one; their half widths count, as if they were symmetric.

    Returns:
        Its half width is the root of the sum of the squared half widths, divided by their number; its ends are NaN
        where those of an interval are.

    Raises:
        ValueError: there is no interval.

    Example:
        >>> pooled([Interval(0.5, 0.25, 0.75), Interval(0.75, 0.75, 0.75)])
        Interval(estimate=0.625, low=0.5, high=0.75)
    """
    found = list(intervals)
    if not found:
        raise ValueError("pooled: no interval to take the mean of")
    mean = sum(each.estimate for each in found) / len(found)
    half = math.sqrt(sum(((each.high - each.low) / 2) ** 2 for each in found)) / len(found)
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Resampled:
    """A metric of M models on the same resamples of users: intervals of each, and of what lies between them.

    Attributes:
        estimates: float64 [M], on the rows as they are.
        samples: float64 [M, S], on each resample; NaN where the metric is not defined.
    """

    estimates: NDArray[np.float64]
    samples: NDArray[np.float64]

    def interval(self, model: int) -> Interval:
        """Of one model."""
        return _interval(float(self.estimates[model]), self.samples[model])

    def difference(self, model: int, other: int) -> Interval:
        """One model minus another, paired."""
        estimate = float(self.estimates[model] - self.estimates[other])
        return _interval(estimate, self.samples[model] - self.samples[other])

    def share(self, model: int, base: int, top: int) -> Interval:
        """(model - base) / (top - base): how much of the way from one model to another a third has come."""
        with np.errstate(divide="ignore", invalid="ignore"):
            of = [(m[model] - m[base]) / (m[top] - m[base]) for m in (self.estimates, self.samples)]
        return _interval(float(of[0]), of[1])


@dataclass(frozen=True)
class ResampledSums:
    """K sums over rows on the same resamples of users, and intervals of what is made of them, paired.

    Attributes:
        sums: float64 [K], over the rows as they are.
        samples: float64 [K, S], over each resample.
    """

    sums: NDArray[np.float64]
    samples: NDArray[np.float64]

    def interval(self, statistic: Callable[[NDArray[np.float64]], Any]) -> Interval:
        """An interval of what is made of the sums.

        Args:
            statistic: float64 [K, ...] of sums → [...], such as ``lambda sums: sums[0] / sums[1]``.

        Returns:
            NaN where it is not defined; resamples on which it is not are left out.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.asarray(statistic(self.samples), dtype=np.float64)
            return _interval(float(statistic(self.sums)), np.where(np.isfinite(values), values, np.nan))


def resampled_auc(
    scores: ArrayLike, labels: ArrayLike, users: ArrayLike, samples: int = 1000, seed: int = 0
) -> Resampled:
    """AUC of several models, with resamples of users; the arguments and errors are those of `bootstrap_auc`."""
    models = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    resamples = bootstrap_auc(models, labels, users, samples, seed)
    clicks = torch.tensor(np.asarray(labels))
    return Resampled(np.array([auc(torch.tensor(model), clicks).item() for model in models]), resamples)


def resampled_sums(values: ArrayLike, users: ArrayLike, samples: int = 1000, seed: int = 0) -> ResampledSums:
    """Sum K values of rows, as they are and over resamples of users.

    Args:
        values: [K, n].
        users: int64 [n].
        samples: number S of resamples.
        seed: of the resamples.

    Returns:
        The sums.

    Raises:
        ValueError: if shapes do not agree or a value is NaN.

    Example:
        >>> clicks = [[1, 0, 1, 1], [1, 0, 1, 0]]  # of two models on the same rows
        >>> resampled_sums(clicks, users=[7, 7, 8, 9]).interval(lambda sums: sums[0] / sums[1] - 1).estimate
        0.5
    """
    added = np.asarray(values, dtype=np.float64)
    user, count = _users(users)
    if added.ndim != 2 or added.shape[1:] != user.shape:
        raise ValueError(f"expected values [K, n] and users [n], got {list(added.shape)} and {list(user.shape)}")
    if np.isnan(added).any():
        raise ValueError("a value is NaN")
    of_user = np.zeros((len(added), count))
    for k, row in enumerate(added):
        of_user[k] = np.bincount(user, row, minlength=count)
    drawn_sums = np.empty((len(added), samples))
    for columns, drawn in _resamples(count, count, samples, seed):
        drawn_sums[:, columns] = of_user @ drawn
    return ResampledSums(of_user.sum(axis=1), drawn_sums)


def resampled_totals(
    totals: ArrayLike,
    users: ArrayLike,
    statistics: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]],
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Resampled]:
    """Any metrics that are functions of sums over rows, of several models, with resamples of users.

    Means are (log loss, recall), and what is made of them (NE, PCOC, GAUC from `user_auc`'s values, ECE over fixed
    bins). The resamples are those of `bootstrap_auc` with the same users and seed.

    Args:
        totals: [M, n, C], what each row adds to each of C sums, one block per model.
        users: int64 [n].
        statistics: by its name, a function of the sums: float64 [C, S] → float64 [S].
        samples: number S of resamples.
        seed: of the resamples.

    Returns:
        M models by the name of each statistic.

    Raises:
        ValueError: if shapes do not agree or a value is NaN.

    Example:
        >>> hits = np.array([[1, 1, 0, 1]])
        >>> rows = np.stack([hits, np.ones_like(hits)], axis=2)
        >>> found = resampled_totals(rows, np.array([7, 7, 8, 9]), {"recall": lambda sums: sums[0] / sums[1]})
        >>> found["recall"].estimates.tolist(), found["recall"].samples.shape
        ([0.75], (1, 1000))
    """
    added = np.asarray(totals, dtype=np.float64)
    if added.ndim != 3:
        raise ValueError(f"expected totals [M, n, C], got {list(added.shape)}")
    models, rows, columns = added.shape
    sums = resampled_sums(added.transpose(0, 2, 1).reshape(models * columns, rows), users, samples, seed)
    whole, drawn = sums.sums.reshape(models, columns, 1), sums.samples.reshape(models, columns, samples)
    found = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, statistic in statistics.items():
            values = np.array([statistic(of_model) for of_model in drawn])
            estimates = np.array([statistic(of_model)[0] for of_model in whole])
            found[name] = Resampled(estimates, np.where(np.isfinite(values), values, np.nan))
    return found


def bootstrap_auc(
    scores: ArrayLike, labels: ArrayLike, users: ArrayLike, samples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Compute the AUC of several models on the same resamples of users.

    A resample draws as many users as there are, with replacement, and takes a user's rows as often as the user was
    drawn: rows of one user are not independent. Each model is sorted once; a resample is a weighting of that order.

    Args:
        scores: [M, n], one row per model.
        labels: [n], 0 or 1.
        users: int64 [n].
        samples: number S of resamples.
        seed: of the resamples.

    Returns:
        float64 [M, S]; NaN for a resample with one class only.

    Raises:
        ValueError: if shapes do not agree, a score is NaN or a label is neither 0 nor 1.
    """
    models = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    clicks = np.asarray(labels)
    clicked = clicks == 1
    user, count = _users(users)
    if models.ndim != 2 or not models.shape[1:] == clicked.shape == user.shape:
        shapes = [list(models.shape), list(clicked.shape), list(user.shape)]
        raise ValueError(f"expected scores [M, n], labels [n] and users [n], got {shapes}")
    for model in models:
        check_scores(torch.tensor(model), torch.tensor(clicks))
    user_of_click = user[clicked]
    orders = []
    for model in models:
        order = np.argsort(model[~clicked], kind="stable")
        unclicked = model[~clicked][order]
        below = np.searchsorted(unclicked, model[clicked], side="left")
        up_to = np.searchsorted(unclicked, model[clicked], side="right")
        # In front somebody who is never drawn, so that sums start from 0.
        orders.append((np.concatenate([[count], user[~clicked][order]]), below, up_to))
    result = np.empty((len(models), samples))
    for columns, drawn in _resamples(count, len(user), samples, seed):
        # Whole numbers, small if they can be, along what is contiguous, into memory that is there: a third of the time.
        small = len(user) * drawn.max(initial=0) < 2**31
        times = np.zeros((drawn.shape[1], count + 1), dtype=np.int32 if small else np.int64)
        times[:, :count] = drawn.T
        weight = times.take(user_of_click, axis=1, mode="clip").astype(np.float64)
        up_to_each = np.empty((len(times), len(user) - len(user_of_click) + 1), dtype=times.dtype)
        for m, (user_of_unclicked, below, up_to) in enumerate(orders):
            times.take(user_of_unclicked, axis=1, mode="clip", out=up_to_each)
            np.cumsum(up_to_each, axis=1, out=up_to_each)
            beaten = up_to_each.take(below, axis=1, mode="clip").astype(np.float64)
            beaten += up_to_each.take(up_to, axis=1, mode="clip")
            with np.errstate(invalid="ignore"):
                won = np.einsum("sn,sn->s", weight, beaten) / 2
                result[m, columns] = won / (weight.sum(axis=1) * up_to_each[:, -1])
    return result


def paired_auc_difference(
    scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike, users: ArrayLike, samples: int = 1000, seed: int = 0
) -> Interval:
    """Estimate AUC(a) - AUC(b) with an interval over users.

    Args:
        scores_a: [n], one model's scores.
        scores_b: [n], the other's on the same rows.
        labels: [n], 0 or 1.
        users: int64 [n].
        samples: number of resamples; those with one class only are left out.
        seed: of the resamples.

    Returns:
        The difference and its interval; NaN where one class is missing.

    Raises:
        ValueError: if shapes do not agree, a score is NaN or a label is neither 0 nor 1.
    """
    both = np.stack([np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)])
    a, b = bootstrap_auc(both, labels, users, samples, seed)
    clicks = torch.tensor(np.asarray(labels))
    estimate_a, estimate_b = (auc(torch.tensor(scores), clicks).item() for scores in both)
    return _interval(estimate_a - estimate_b, a - b)


def paired_mean_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    users: ArrayLike,
    weights: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Estimate mean(a) - mean(b) with an interval over users.

    Serves whatever is a mean of rows: log loss (`row_log_loss`), recall (``ranks < k``), GAUC (`user_auc`'s values,
    weighted by its impressions).

    Args:
        values_a: [n], one model's value for each row; bool counts as 0 and 1.
        values_b: [n], the other's on the same rows.
        users: int64 [n].
        weights: [n], weight of each row in the mean; 1 if not given.
        samples: number of resamples.
        seed: of the resamples.

    Returns:
        The difference and its interval; NaN without rows.

    Raises:
        ValueError: if shapes do not agree or a value is NaN.
    """
    a, b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    weight = np.ones(a.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    user, count = _users(users)
    if a.ndim != 1 or not a.shape == b.shape == weight.shape == user.shape:
        shapes = [list(x.shape) for x in (a, b, user, weight)]
        raise ValueError(f"expected values, users and weights of one shape [n], got {shapes}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("a value is NaN")
    total = np.bincount(user, weight * (a - b), minlength=count)
    mass = np.bincount(user, weight, minlength=count)
    differences = np.empty(samples)
    with np.errstate(invalid="ignore"):
        for columns, drawn in _resamples(count, count, samples, seed):
            differences[columns] = total @ drawn / (mass @ drawn)
        return _interval(float(total.sum() / mass.sum()), differences)


def _users(users: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Number the users from 0: the number of each row's user, and how many there are."""
    ids = np.asarray(users)
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"users must be integers, got {ids.dtype}: other types cannot hold every id")
    distinct, user = np.unique(ids, return_inverse=True)
    return user.reshape(ids.shape), len(distinct)


def _resamples(users: int, rows: int, samples: int, seed: int) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield blocks of resamples: their columns, and how often each drew each user, float64 [users, block]."""
    rng = np.random.default_rng(seed)
    block = max(1, CHUNK // max(rows, 1))
    for start in range(0, samples, block):
        width = min(block, samples - start)
        drawn = np.zeros((users, width))
        for column in range(width if users else 0):
            drawn[:, column] = np.bincount(rng.integers(users, size=users), minlength=users)
        yield slice(start, start + width), drawn


def _interval(estimate: float, resampled: NDArray[np.float64]) -> Interval:
    valid = resampled[~np.isnan(resampled)]
    if not len(valid):
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(valid, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))
