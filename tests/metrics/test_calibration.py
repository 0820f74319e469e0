"""log loss, NE, RCE, PCOC, ECE and the calibration curve."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moonlib.metrics.bins import equal_mass_bins
from moonlib.metrics.calibration_curve import CalibrationCurve, calibration_curve
from moonlib.metrics.ece import ECE, ece
from moonlib.metrics.log_loss import LogLoss, log_loss, row_log_loss
from moonlib.metrics.ne import NE, ne
from moonlib.metrics.pcoc import PCOC, pcoc
from moonlib.metrics.rce import RCE, rce

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.03, 0.1, 0.11, 0.5, 0.9, 1.0]), st.booleans()), max_size=60)
BOTH = [(log_loss, LogLoss), (ne, NE), (rce, RCE), (pcoc, PCOC), (ece, ECE)]


def columns(rows: list[tuple[float, bool]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([p for p, _ in rows], dtype=torch.float64), torch.tensor([y for _, y in rows], dtype=torch.bool)


def slow_log_loss(rows: list[tuple[float, bool]]) -> float:
    clipped = [(min(max(p, 1e-7), 1 - 1e-7), y) for p, y in rows]
    return -sum(math.log(p if y else 1 - p) for p, y in clipped) / len(rows)


def slow_curve(rows: list[tuple[float, bool]], bins: int) -> list[tuple[float, float, int]]:
    """Mean prediction, click rate and rows of each bin that holds any."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for p, y in rows:
        below = sum(q < p for q, _ in rows)
        members[below * bins // len(rows)].append((p, y))
    return [(sum(p for p, _ in m) / len(m), sum(y for _, y in m) / len(m), len(m)) for m in members if m]


def slow_ece(rows: list[tuple[float, bool]], bins: int) -> float:
    return sum(n / len(rows) * abs(prediction - clicks) for prediction, clicks, n in slow_curve(rows, bins))


@settings(deadline=None)
@given(ROWS.filter(bool), st.integers(1, 7))
def test_equal_the_definitions(rows: list[tuple[float, bool]], bins: int) -> None:
    probabilities, labels = columns(rows)
    loss, rate = slow_log_loss(rows), sum(y for _, y in rows) / len(rows)
    constant = [(rate, y) for _, y in rows]
    assert log_loss(probabilities, labels).item() == pytest.approx(loss)
    assert ece(probabilities, labels, bins).item() == pytest.approx(slow_ece(rows, bins), abs=1e-12)
    if 0 < rate < 1:
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        assert rce(probabilities, labels).item() == pytest.approx(100 * (1 - loss / slow_log_loss(constant)), abs=1e-9)
        assert ne(probabilities, labels).item() == pytest.approx(loss / entropy)
        assert pcoc(probabilities, labels).item() == pytest.approx(sum(p for p, _ in rows) / len(rows) / rate)


def test_golden_ne_and_a_constant_base_rate() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    assert ne(torch.tensor([0.1, 0.4, 0.6, 0.9]), labels).item() == pytest.approx(0.44448435)
    assert ne(torch.full((4,), 0.5), labels).item() == pytest.approx(1.0)


def test_rce_is_a_gain_in_percent() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    assert rce(torch.full((4,), 0.5), labels).item() == pytest.approx(0, abs=1e-9)
    assert rce(torch.tensor([0.1, 0.4, 0.6, 0.9]), labels).item() == pytest.approx(100 - 44.448435)
    assert rce(torch.tensor([0.9, 0.6, 0.4, 0.1]), labels).item() < 0
    assert rce(labels.double(), labels).item() == pytest.approx(100, abs=1e-4)


@given(ROWS, st.integers(1, 7))
def test_curve_equals_the_definition(rows: list[tuple[float, bool]], bins: int) -> None:
    curve = calibration_curve(*columns(rows), bins)
    expected = slow_curve(rows, bins) if rows else []
    assert torch.stack([*curve[:2], curve.rows.double()], dim=1).tolist() == [
        pytest.approx(point) for point in expected
    ]
    if rows:
        error = (curve.rows * (curve.prediction - curve.click_rate).abs()).sum() / curve.rows.sum()
        assert error.item() == pytest.approx(ece(*columns(rows), bins).item(), abs=1e-12)


def test_curve_shows_where_a_model_promises_too_much() -> None:
    probabilities = torch.linspace(0, 1, 1000, dtype=torch.float64)
    labels = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < probabilities / 2
    curve = calibration_curve(probabilities, labels, bins=10)
    assert curve.rows.tolist() == [100] * 10
    assert torch.allclose(curve.prediction, torch.linspace(0.05, 0.95, 10, dtype=torch.float64), atol=0.01)
    assert torch.allclose(curve.click_rate, curve.prediction / 2, atol=0.15)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@given(ROWS, st.integers(0, 60), st.randoms())
def test_curve_does_not_depend_on_batches_or_order(rows: list, cut: int, random) -> None:
    shuffled = random.sample(rows, len(rows))
    first, second = CalibrationCurve(bins=5), CalibrationCurve(bins=5)
    first.update(*columns(shuffled[:cut]))
    second.update(*columns(shuffled[cut:]))
    first.merge_state(second)
    for found, expected in zip(first.compute(), calibration_curve(*columns(rows), bins=5), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
    first.reset()
    assert not len(first.compute().rows)


def test_bins_ascend_with_the_prediction_and_are_filled_evenly() -> None:
    probabilities = torch.rand(1003, generator=torch.Generator().manual_seed(0))
    bins = equal_mass_bins(probabilities, 10)
    assert torch.equal(bins[probabilities.argsort()], bins.sort().values)
    assert set(bins.bincount().tolist()) == {100, 101}


def test_float32_certainty_costs_no_infinity() -> None:
    losses = row_log_loss(torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([16.118, 16.118], abs=1e-3)


def test_equal_predictions_share_a_bin() -> None:
    """However the rows are ordered: else a constant, calibrated predictor would look miscalibrated."""
    labels = torch.tensor([1] * 10 + [0] * 90)
    assert ece(torch.full((100,), 0.1, dtype=torch.float64), labels).item() == pytest.approx(0.0, abs=1e-12)


def test_bins_of_equal_mass_see_what_one_wide_bin_hides() -> None:
    """Predictions within .1 of each other: equal widths would put all in two bins."""
    probabilities = torch.linspace(0.0, 0.1, 1000, dtype=torch.float64)
    labels = torch.zeros(1000)
    labels[:50] = 1  # clicks where the prediction is lowest: calibrated as a whole only
    assert pcoc(probabilities, labels).item() == pytest.approx(1.0)
    assert ece(probabilities, labels).item() > 0.09


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@settings(deadline=None)
@given(ROWS, st.integers(0, 60), st.randoms(), st.sampled_from(BOTH))
def test_metrics_do_not_depend_on_batches_or_order(rows: list, cut: int, random, pair) -> None:
    function, metric = pair
    shuffled = random.sample(rows, len(rows))
    first, second = metric(), metric()
    first.update(*columns(shuffled[:cut]))
    second.update(*columns(shuffled[cut:]))
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(function(*columns(rows)).item(), rel=1e-12, abs=1e-15, nan_ok=True)
    first.reset()
    assert first.compute().isnan()


@pytest.mark.parametrize("function", [ne, rce])
@pytest.mark.parametrize("label", [0, 1])
def test_entropy_of_one_class_is_nan(function, label: int) -> None:
    assert function(torch.rand(3), torch.full((3,), label)).isnan()


def test_pcoc_without_a_click_is_nan() -> None:
    assert pcoc(torch.rand(3), torch.zeros(3)).isnan()


@pytest.mark.parametrize(("function", "metric"), [*BOTH, (calibration_curve, CalibrationCurve)])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([0.1, 1.5], [0, 1], "got 1.5; pass the sigmoid of logits"),
        ([0.1, math.nan], [0, 1], "1 of 2 scores are NaN"),
        ([0.1, 0.2], [0, -1], "labels must be 0 or 1, got -1"),
        ([[0.1]], [[0]], r"one shape \[n\]"),
    ],
)
def test_bad_input_is_refused(function, metric, probabilities: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(torch.tensor(probabilities), torch.tensor(labels))
    with pytest.raises(ValueError, match=message):
        metric().update(torch.tensor(probabilities), torch.tensor(labels))


def test_bins_are_checked() -> None:
    for metric in (ECE, CalibrationCurve):
        with pytest.raises(ValueError, match="bins must be at least 1"):
            metric(bins=0)
    for function in (ece, calibration_curve):
        with pytest.raises(ValueError, match="bins must be at least 1"):
            function(torch.rand(3), torch.zeros(3), bins=0)
