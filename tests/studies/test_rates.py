"""Slopes, intervals and errors of prediction against least squares and loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moonlib.studies.rates import MetricPairs, resampled_runs

Floats = NDArray[np.float64]


def synthetic(
    slope: float = 0.03, noise: float = 0.002, seed: int = 0, points: int = 6
) -> tuple[MetricPairs, NDArray[np.int64]]:
    """Four iterations on three data sets whose levels lie far apart, and one iteration on a data set of its own."""
    rng = np.random.default_rng(seed)
    dataset = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 3])
    iteration = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4])
    run = np.repeat(np.arange(len(dataset)), points)[:-2]
    x = rng.random(len(run)) + 3 * dataset[run]
    y = slope * x + np.array([0.6, 0.1, 0.9, 0.4])[dataset[run]] + noise * rng.standard_normal(len(run))
    return MetricPairs(x, y, run, dataset, iteration), run


def expanded(pairs: MetricPairs, weights: Floats) -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    """The points as often as their runs count: x, y, data set and iteration of each."""
    rows = np.repeat(np.arange(len(pairs.x)), weights[pairs.run].astype(int))
    return pairs.x[rows], pairs.y[rows], pairs.dataset[pairs.run[rows]], pairs.iteration[pairs.run[rows]]


def slope_by_lstsq(x: Floats, y: Floats, dataset: NDArray[np.int64]) -> tuple[float, dict[int, float]]:
    """A dummy variable per data set."""
    groups = np.unique(dataset)
    design = np.column_stack([x, dataset[:, None] == groups])
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return float(found[0]), dict(zip(groups.tolist(), found[1:].tolist(), strict=True))


def error_by_hand(pairs: MetricPairs, weights: Floats) -> float:
    x, y, dataset, iteration = expanded(pairs, weights)
    errors = []
    for left_out in np.unique(iteration):
        rest = iteration != left_out
        if not rest.any():
            continue
        slope, level = slope_by_lstsq(x[rest], y[rest], dataset[rest])
        for i in np.flatnonzero(~rest):
            if dataset[i] in level:
                errors.append(y[i] - slope * x[i] - level[dataset[i]])
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")


def test_a_known_slope_is_recovered_whatever_the_levels_of_the_data_sets() -> None:
    pairs, _ = synthetic(noise=0.0)
    once = np.ones((1, 11))
    assert pairs.fit(once).slope[0] == pytest.approx(0.03)
    assert pairs.held_out_error(once)[0] == pytest.approx(0.0, abs=1e-9)
    assert pairs.spearman() == pytest.approx(1.0)
    assert np.corrcoef(pairs.x, pairs.y)[0, 1] < 0.5  # which without levels would not be seen


def test_the_interval_holds_the_slope_that_the_points_were_made_with() -> None:
    held = 0
    for seed in range(40):
        pairs, _ = synthetic(noise=0.01, seed=seed)
        low, high = np.quantile(pairs.fit(resampled_runs(11, 300)).slope, [0.025, 0.975])
        held += low <= 0.03 <= high
    assert held >= 30  # 95 % of many runs, less of eleven


def test_resamples_are_of_whole_runs_and_fit_as_repeated_points_do() -> None:
    pairs, _ = synthetic()
    weights = resampled_runs(11, 50)
    assert (weights.sum(axis=1) == 11).all() and (weights == 0).any() and (weights > 1).any()
    found = pairs.fit(weights)
    for i, drawn in enumerate(weights):
        x, y, dataset, _ = expanded(pairs, drawn)
        assert found.slope[i] == pytest.approx(slope_by_lstsq(x, y, dataset)[0], rel=1e-6)


def test_the_error_of_held_out_iterations_is_that_of_a_loop() -> None:
    pairs, _ = synthetic(noise=0.01)
    weights = np.concatenate([np.ones((1, 11)), resampled_runs(11, 30)])
    found = pairs.held_out_error(weights)
    for i, drawn in enumerate(weights):
        assert found[i] == pytest.approx(error_by_hand(pairs, drawn), rel=1e-6)
    assert pairs.held_out_error(weights[:1], slope=False)[0] > 1.2 * found[0]


def test_spearman_is_the_correlation_of_ranks_and_ties_share_theirs() -> None:
    one = np.zeros(1, dtype=np.int64)
    x, y = np.array([1.0, 2.0, 2.0, 4.0]), np.array([3.0, 1.0, 5.0, 9.0])
    ranks_x, ranks_y = [1, 2.5, 2.5, 4], [2, 1, 3, 4]
    expected = np.corrcoef(ranks_x, ranks_y)[0, 1]
    assert MetricPairs(x, y, np.zeros(4, np.int64), one, one).spearman() == pytest.approx(expected)


def test_what_does_not_vary_within_a_data_set_has_no_slope() -> None:
    run, dataset = np.repeat(np.arange(2), 3), np.arange(2)
    pairs = MetricPairs(np.repeat([0.3, 0.7], 3), np.arange(6.0), run, dataset, np.zeros(2, np.int64))
    assert pairs.constant == (True, False)
    assert np.isnan(pairs.fit(np.ones((1, 2))).slope[0]) and np.isnan(pairs.spearman())


def test_a_single_iteration_predicts_nothing() -> None:
    rng = np.random.default_rng(0)
    pairs = MetricPairs(
        rng.random(6), rng.random(6), np.repeat([0, 1], 3), np.zeros(2, np.int64), np.zeros(2, np.int64)
    )
    assert np.isnan(pairs.held_out_error(np.ones((1, 2)))[0])
