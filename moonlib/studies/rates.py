"""The exchange rate of two metrics over points of several runs: slope, intervals, and how well it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLAT = 1e-12
"""Spread of an intermediate metric, as a share of its size, below which it is constant."""


@dataclass(frozen=True)
class Fit:
    """S least-squares fits with one slope and a level per data set.

    Attributes:
        slope: float64 [S], NaN where the intermediate metric does not vary.
        x: float64 [S, G], mean of the intermediate metric in each data set; NaN where no point is.
        y: float64 [S, G], mean of the downstream metric.
    """

    slope: Floats
    x: Floats
    y: Floats


class MetricPairs:
    """P points of an intermediate metric x and a downstream metric y, of runs that belong to data sets and iterations.

    Marketplaces of different seeds have clicks of different difficulty: a data set has a level of its own, and what all
    share is the slope. Everything is computed from sums per run, so that a resample of runs is a vector of weights.

    Args:
        x: [P].
        y: [P].
        run: int [P], numbers of runs from 0 to R - 1.
        dataset: int [R], the data set of each run, numbers from 0 to G - 1.
        iteration: int [R], of which iteration each run is.
    """

    def __init__(self, x: Floats, y: Floats, run: Ints, dataset: Ints, iteration: Ints) -> None:
        self.x, self.y, self.run = np.asarray(x, np.float64), np.asarray(y, np.float64), run
        self.dataset, self.iteration = dataset, iteration
        self.of_dataset = (dataset[:, None] == np.arange(dataset.max(initial=0) + 1)).astype(np.float64)
        cx, cy = self.centred
        # Sums of centred values: what is small is then not the difference of two large ones.
        powers = (np.ones_like(cx), cx, cy, cx * cx, cx * cy, cy * cy)
        self.sums = np.stack([np.bincount(run, value, minlength=len(dataset)) for value in powers])

    @cached_property
    def centred(self) -> tuple[Floats, Floats]:
        """Both metrics less their mean within the data set, float64 [P] each."""
        group = self.dataset[self.run]
        count = np.maximum(np.bincount(group), 1)
        return tuple(v - (np.bincount(group, v) / count)[group] for v in (self.x, self.y))  # type: ignore[return-value]

    @property
    def constant(self) -> tuple[bool, bool]:
        """Whether the intermediate, and the downstream, metric is the same all over each data set."""
        found = [np.abs(c).max(initial=0) <= FLAT * max(np.abs(v).max(initial=0), 1e-300) for c, v in self._both]
        return bool(found[0]), bool(found[1])

    @property
    def _both(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        return (self.centred[0], self.x), (self.centred[1], self.y)

    def fit(self, weights: Floats) -> Fit:
        """Least squares with one slope and a level per data set.

        Args:
            weights: float [S, R], how often each run counts.

        Returns:
            The fits, of centred values.
        """
        n, sx, sy, sxx, sxy, _ = ((weights * of_run) @ self.of_dataset for of_run in self.sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y = sx / n, sy / n
            across = np.nansum(sxy - sx * y, axis=1)
            along = np.nansum(sxx - sx * x, axis=1)
            slope = np.where(along > FLAT * self.sums[3].sum(), across / along, np.nan)
        return Fit(slope, x, y)

    def held_out_error(self, weights: Floats, slope: bool = True) -> Floats:
        """How far off predictions are of an iteration that was not looked at.

        For each iteration the line is fitted to the runs of all others, with the level of each data set from them; it
        predicts the downstream metric of the iteration's points from their intermediate metric. A point in a data set
        that no other iteration has is not predicted.

        Args:
            weights: float [S, R], how often each run counts.
            slope: False predicts the mean of the others, whatever the intermediate metric says.

        Returns:
            float64 [S], root mean squared error over all points that are predicted, in units of the downstream metric;
            NaN where none is.
        """
        squares, points = np.zeros(len(weights)), np.zeros(len(weights))
        n, sx, sy, sxx, sxy, syy = self.sums
        for iteration in np.unique(self.iteration):
            own = self.iteration == iteration
            found = self.fit(weights * ~own)
            b = found.slope[:, None] if slope else np.zeros((len(weights), 1))
            group = self.dataset[own]
            level = found.y[:, group] - b * found.x[:, group]
            # Σ (y - b x - level)² over a run's points.
            error = (
                syy[own] - 2 * b * sxy[own] + b**2 * sxx[own] - 2 * level * (sy[own] - b * sx[own]) + level**2 * n[own]
            )
            predicted = ~np.isnan(error)
            squares += (weights[:, own] * np.where(predicted, np.maximum(error, 0), 0)).sum(axis=1)
            points += (weights[:, own] * n[own] * predicted).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(np.where(points > 0, squares / points, np.nan))

    def spearman(self) -> float:
        """Rank correlation of the centred values, ties at their mean rank; NaN if one of them is constant."""
        if any(self.constant):
            return float("nan")
        rank = [pl.Series(values.round(12)).rank("average").to_numpy() for values in self.centred]
        return float(np.corrcoef(rank[0], rank[1])[0, 1])


def resampled_runs(runs: int, samples: int, seed: int = 0) -> Floats:
    """How often each run is drawn: resamples of whole runs, because the points of one are not independent.

    Returns:
        float64 [samples, runs], each row summing to ``runs``.
    """
    drawn = np.random.default_rng(seed).integers(runs, size=(samples, runs))
    return (drawn[:, :, None] == np.arange(runs)).sum(axis=1).astype(np.float64)
