from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moonlib.metrics import bootstrap
from moonlib.metrics.auc import auc
from moonlib.metrics.bootstrap import (
    Interval,
    Resampled,
    bootstrap_auc,
    paired_auc_difference,
    paired_mean_difference,
    pooled,
    resampled_auc,
    resampled_totals,
)
from moonlib.metrics.gauc import gauc, user_auc


def clicks(rows: int = 400, users: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two models' scores (the first is better; both have ties), labels and users with ids beyond float."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.3
    good = np.round(labels + rng.normal(size=rows), 1)
    poor = np.round(0.3 * labels + rng.normal(size=rows), 1)
    return good, poor, labels, rng.integers(users, size=rows) + 2**60


def by_hand(values, users: np.ndarray, samples: int, seed: int) -> list[float]:
    """Draw users, gather their rows one by one, and evaluate the statistic on those rows."""
    rng = np.random.default_rng(seed)
    distinct = np.unique(users)
    results = []
    for _ in range(samples):
        drawn = distinct[rng.integers(len(distinct), size=len(distinct))]
        rows = np.concatenate([np.flatnonzero(users == user) for user in drawn])
        results.append(values(rows))
    return results


def plain_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    return auc(torch.tensor(scores), torch.tensor(labels)).item()


@pytest.mark.parametrize("chunk", [1, 3000, 2_000_000])
def test_equals_resampling_rows_by_hand(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK", chunk)
    good, poor, labels, users = clicks()
    found = bootstrap_auc(np.stack([good, poor]), labels, users, samples=20, seed=5)
    for scores, row in zip((good, poor), found, strict=True):
        expected = by_hand(lambda rows, s=scores: plain_auc(s[rows], labels[rows]), users, 20, 5)
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_auc_difference_is_paired() -> None:
    good, poor, labels, users = clicks()
    interval = paired_auc_difference(good, poor, labels, users, samples=300)
    assert interval.estimate == pytest.approx(plain_auc(good, labels) - plain_auc(poor, labels))
    assert 0 < interval.low < interval.estimate < interval.high
    nothing = paired_auc_difference(good, good * 2 + 1, labels, users, samples=50)
    assert (nothing.estimate, nothing.low, nothing.high) == (0, 0, 0)


def test_mean_difference_equals_resampling_by_hand() -> None:
    good, poor, _, users = clicks()
    weights = np.linspace(0, 2, len(good))
    interval = paired_mean_difference(good, poor, users, weights, samples=50, seed=3)
    drawn = by_hand(lambda rows: np.average((good - poor)[rows], weights=weights[rows]), users, 50, 3)
    assert interval.estimate == pytest.approx(np.average(good - poor, weights=weights))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_serves_hits_and_gauc() -> None:
    good, poor, labels, users = clicks()
    hits = paired_mean_difference(np.array([True, True, False]), np.array([True, False, False]), [1, 2, 3], samples=20)
    assert hits.estimate == pytest.approx(1 / 3)

    a, b = (user_auc(torch.tensor(s), torch.tensor(labels), torch.tensor(users)) for s in (good, poor))
    interval = paired_mean_difference(a.auc, b.auc, a.users, a.impressions, samples=200)
    rows = [torch.tensor(labels), torch.tensor(users)]
    assert interval.estimate == pytest.approx(
        (gauc(torch.tensor(good), *rows) - gauc(torch.tensor(poor), *rows)).item()
    )
    assert interval.low > 0


def test_rows_of_one_user_are_not_independent() -> None:
    """Every row copied ten times says nothing new: the interval over users stays as wide."""
    rng = np.random.default_rng(0)
    a, b, users = rng.normal(size=200), rng.normal(size=200), np.arange(200)
    once = paired_mean_difference(a, b, users, samples=100)
    copied = paired_mean_difference(np.repeat(a, 10), np.repeat(b, 10), np.repeat(users, 10), samples=100)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng([7, seed])
        users = np.repeat(np.arange(60), 4)
        per_user = rng.normal(0.5, 1, size=60)[users]
        interval = paired_mean_difference(per_user + rng.normal(size=240), np.zeros(240), users, samples=200, seed=seed)
        covered += interval.low <= 0.5 <= interval.high
    assert 88 <= covered <= 100


def test_the_mean_of_independent_estimates_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    scales = np.array([0.5, 1.0, 2.0])
    drawn = 0.5 + scales * rng.normal(size=(2000, 3))
    means = [pooled([Interval(x, x - 1.96 * s, x + 1.96 * s) for x, s in zip(of, scales, strict=True)]) for of in drawn]
    assert [mean.estimate for mean in means] == pytest.approx(drawn.mean(axis=1))
    assert 0.935 <= np.mean([mean.low <= 0.5 <= mean.high for mean in means]) <= 0.965


def test_the_mean_has_no_interval_where_one_estimate_has_none() -> None:
    mean = pooled([Interval(1.0, 0.0, 2.0), Interval(3.0, math.nan, math.nan)])
    assert mean.estimate == 2 and math.isnan(mean.low) and math.isnan(mean.high)
    with pytest.raises(ValueError, match="no interval"):
        pooled([])


def test_depends_on_the_seed_only() -> None:
    good, poor, labels, users = clicks()
    first = paired_auc_difference(good, poor, labels, users, samples=30, seed=1)
    assert paired_auc_difference(good, poor, labels, users, samples=30, seed=1) == first
    assert paired_auc_difference(good, poor, labels, users, samples=30, seed=2) != first


def test_resamples_with_one_class_are_left_out() -> None:
    """One user clicked, one did not: about half of the resamples draw both."""
    found = bootstrap_auc([[0.9, 0.1]], [1, 0], [1, 2], samples=50)
    assert 0 < np.isnan(found).sum() < 50
    interval = paired_auc_difference([0.9, 0.1], [0.1, 0.9], [1, 0], [1, 2], samples=50)
    assert (interval.estimate, interval.low, interval.high) == (1, 1, 1)


def test_without_a_click_all_is_nan() -> None:
    interval = paired_auc_difference([0.9, 0.1], [0.1, 0.9], [0, 0], [1, 2], samples=10)
    assert np.isnan([interval.estimate, interval.low, interval.high]).all()


def test_without_rows_all_is_nan() -> None:
    interval = paired_mean_difference([], [], np.empty(0, dtype=np.int64), samples=10)
    assert np.isnan([interval.estimate, interval.low, interval.high]).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected scores \[M, n\], labels \[n\] and users \[n\]"):
        bootstrap_auc([[0.1, 0.2]], [1, 0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        bootstrap_auc([[0.1, np.nan]], [1, 0], [1, 2])
    with pytest.raises(ValueError, match="labels must be 0 or 1, got 3"):
        bootstrap_auc([[0.1, 0.2]], [3, 0], [1, 2])
    with pytest.raises(ValueError, match="users must be integers, got float64"):
        paired_mean_difference([1.0], [2.0], [1.5])
    with pytest.raises(ValueError, match=r"one shape \[n\]"):
        paired_mean_difference([1.0], [2.0, 3.0], [1])
    with pytest.raises(ValueError, match="a value is NaN"):
        paired_mean_difference([1.0], [np.nan], [1])


def test_resampled_auc_pairs_with_resampled_totals() -> None:
    good, poor, labels, users = clicks()
    found = resampled_auc(np.stack([good, poor]), labels, users, samples=40, seed=2)
    assert found.difference(0, 1) == paired_auc_difference(good, poor, labels, users, samples=40, seed=2)
    rows = np.stack([np.stack([labels * 1.0, np.ones(len(labels))], axis=1)])
    rate = resampled_totals(rows, users, {"rate": lambda sums: sums[0] / sums[1]}, samples=40, seed=2)["rate"]
    np.testing.assert_allclose(rate.samples[0], by_hand(lambda rows: labels[rows].mean(), users, 40, 2), rtol=1e-12)


def test_share_of_the_way_from_one_model_to_another() -> None:
    found = Resampled(np.array([0.6, 0.65, 0.7]), np.array([[0.6, 0.5], [0.65, 0.65], [0.7, 0.7]]))
    share = found.share(1, 0, 2)
    assert share.estimate == pytest.approx(0.5)
    assert share.low == pytest.approx(np.quantile([0.5, 0.75], 0.025))
    assert np.isnan(found.share(1, 0, 0).low)


def test_totals_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"totals \[M, n, C\]"):
        resampled_totals(np.zeros((1, 3)), np.arange(3), {})
    with pytest.raises(ValueError, match="NaN"):
        resampled_totals(np.full((1, 3, 1), np.nan), np.arange(3), {})
