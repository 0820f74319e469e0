"""Power laws: known parameters recovered, honest intervals, and no law where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moonlib.studies.power_law import DELTA, NAMES, evaluate, fit_power_law, minimise, parameters_of, resample

CHINCHILLA = (1.69, 406.4, 0.34, 410.7, 0.28)  # Hoffmann et al. 2022, Appendix D.2


def grid() -> NDArray[np.float64]:
    """Six sizes of model times six numbers of tokens, as they were."""
    sizes, tokens = np.meshgrid(np.geomspace(3e7, 1e10, 6), np.geomspace(1e9, 3e11, 6))
    return np.column_stack([sizes.ravel(), tokens.ravel()])


def test_chinchillas_parameters_are_recovered() -> None:
    x = grid()
    law = fit_power_law(x, evaluate([CHINCHILLA], x)[0])
    assert [law.parameters[name].estimate for name in NAMES] == pytest.approx(CHINCHILLA, rel=1e-4)
    assert law.held_out.x == (pytest.approx(1e10), pytest.approx(3e11))
    assert law.held_out.best == "power law"
    assert law.held_out.predicted["power law"] == pytest.approx(law.held_out.measured, rel=1e-5)


def test_chinchillas_parameters_lie_in_the_intervals_of_noisy_data() -> None:
    x = np.repeat(grid(), 3, axis=0)
    noise = np.random.default_rng(5).normal(0, 0.005, len(x))
    law = fit_power_law(x, evaluate([CHINCHILLA], x)[0] * np.exp(noise), samples=100)
    estimates = [law.parameters[name].estimate for name in ("E", "alpha", "beta")]
    assert estimates == pytest.approx([1.69, 0.34, 0.28], rel=0.1)
    for name, true in zip(NAMES, CHINCHILLA, strict=True):
        interval = law.parameters[name]
        assert interval.low < interval.estimate < interval.high
        width = interval.high - interval.low
        assert interval.low - width / 2 < true < interval.high + width / 2, name
    assert law.held_out.best == "power law" and law.held_out.wins == 1.0


def test_one_axis_with_noise_and_an_outlier() -> None:
    n = np.repeat(np.geomspace(1e2, 1e5, 8), 3)
    y = (0.2 + 4 * n**-0.5) * np.exp(np.random.default_rng(0).normal(0, 0.01, len(n)))
    y[4] *= 1.5  # least squares would follow it
    law = fit_power_law(n, y, samples=100)
    assert law.parameters["E"].estimate == pytest.approx(0.2, rel=0.05)
    assert law.parameters["alpha"].estimate == pytest.approx(0.5, rel=0.1)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    n = np.repeat(np.geomspace(1e2, 1e5, 7), 4)
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        law = fit_power_law(n, (0.2 + 4 * n**-0.5) * np.exp(rng.normal(0, 0.02, len(n))), samples=50)
        inside += law.parameters["alpha"].low <= 0.5 <= law.parameters["alpha"].high
    assert inside >= 85


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_a_line_and_a_constant_are_no_power_law(noise: float) -> None:
    n = np.repeat(np.geomspace(1e2, 1e5, 7), 2)
    factor = np.exp(np.random.default_rng(2).normal(0, noise, len(n)))
    for name, truth in (("line", 0.9 - 0.07 * np.log(n)), ("constant", np.full(len(n), 0.4))):
        law = fit_power_law(n, truth * factor, samples=50)
        told = law.verdict(["pairs"])
        if name == "line" or not noise:
            assert law.held_out.best == name
            assert told.startswith(f"no power law here: a {name} predicts the largest point better")
        assert law.held_out.best != "power law" or "not certain" in told  # noise may favour any of the three
        assert "pairs 100,000" in told and f"line {law.held_out.errors['line']:.4f}" in told


def test_values_that_rise_are_no_power_law() -> None:
    n = np.geomspace(1e2, 1e5, 6)
    assert fit_power_law(n, 0.1 * n**0.2).held_out.best != "power law"


def test_the_held_out_point_has_no_say_in_its_prediction() -> None:
    n = np.geomspace(1e2, 1e5, 6)
    y = 0.2 + 4 * n**-0.5
    other = y.copy()
    other[-1] *= 3
    assert fit_power_law(n, other).held_out.predicted == fit_power_law(n, y).held_out.predicted
    assert fit_power_law(n, other).held_out.measured == 3 * y[-1]


def test_line_and_constant_are_fitted_by_the_same_loss() -> None:
    n, y = np.array([1.0, 10, 100, 1000, 1e4, 1e5, 1e5]), np.array([4.0, 3.5, 3, 2.5, 6, 1, 1.2])
    u = np.log10(n[:5])
    a, b = np.meshgrid(np.linspace(3, 5, 401), np.linspace(-1, 1, 401))
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.abs(np.log(a[..., None] + b[..., None] * u) - np.log(y[:5])).sum(axis=2)
    place = np.unravel_index(np.nanargmin(sums), sums.shape)
    held = fit_power_law(n, y, samples=10).held_out
    assert held.predicted["line"] == pytest.approx(a[place] + b[place] * 5, abs=0.02)
    assert held.predicted["constant"] == pytest.approx(3.5, rel=2 * DELTA)  # the median
    assert held.measured == pytest.approx(1.1)
    assert held.errors["constant"] == pytest.approx(held.predicted["constant"] - 1.1)


def test_a_law_that_has_become_a_constant_is_no_power_law() -> None:
    held = fit_power_law([1.0, 7, 31, 127], [0.83, 0.87, 0.88, 0.9]).held_out
    assert held.predicted["power law"] == pytest.approx(held.predicted["constant"], rel=2 * DELTA)
    assert held.best != "power law"


def test_one_seed_has_no_intervals() -> None:
    n = np.geomspace(1e2, 1e5, 6)
    law = fit_power_law(n, 0.2 + 4 * n**-0.5)
    assert math.isnan(law.parameters["E"].low) and law.band(n) is None and law.held_out.wins is None
    assert "one seed does not say how surely" in law.verdict(["n"])


def test_the_band_holds_the_law() -> None:
    n = np.repeat(np.geomspace(1e2, 1e5, 6), 2)
    law = fit_power_law(n, (0.2 + 4 * n**-0.5) * np.tile([0.98, 1.02], 6), samples=100)
    band = law.band(n[::2])
    assert band is not None
    assert (band[0] <= law(n[::2])).all() and (law(n[::2]) <= band[1]).all()


def test_resamples_stay_at_their_point_and_have_the_spread_of_the_mean() -> None:
    place = np.array([0, 0, 0, 1, 1, 2])
    y = np.exp([0.1, 0.2, 0.6, 1.0, 2.0, 5.0])
    drawn = np.log(resample(place, y, samples=20_000, seed=0))
    assert (drawn[:, 5] == 5).all()  # measured once: nothing is known of its spread
    for rows in (slice(0, 3), slice(3, 5)):
        logs = np.log(y[rows])
        means = drawn[:, rows].mean(axis=1)
        assert means.mean() == pytest.approx(logs.mean(), abs=0.01)
        assert means.std() == pytest.approx(logs.std(ddof=1) / math.sqrt(len(logs)), rel=0.03)


@settings(max_examples=3)
@given(st.integers(0, 2**32), st.booleans())
def test_no_start_of_torchs_lbfgs_finds_a_better_minimum(seed: int, two: bool) -> None:
    """The oracle: the loss as it is written in the paper, with torch's gradients and optimizer."""
    rng = np.random.default_rng(seed)
    x = grid()[rng.choice(36, 12, replace=False)] if two else np.geomspace(1e2, 1e5, 8)[:, None]
    truth = np.array([CHINCHILLA if two else (0.2, 4, 0.5)])
    y = evaluate(truth, x)[0] * np.exp(rng.normal(0, 0.05, len(x)))
    logs, places = torch.from_numpy(np.log(y)), torch.from_numpy(np.log(x))

    def loss(theta: torch.Tensor) -> torch.Tensor:
        terms = [theta[0].expand(len(logs))]
        terms += [theta[1 + 2 * i] - theta[2 + 2 * i] * places[:, i] for i in range(places.shape[1])]
        residual = torch.stack(terms).logsumexp(dim=0) - logs
        return torch.nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="sum", delta=DELTA)

    def logarithms(found: NDArray[np.float64]) -> torch.Tensor:
        theta = np.log(np.maximum(found, 1e-300))
        theta[2::2] = found[2::2]
        return torch.from_numpy(theta)

    ours = loss(logarithms(parameters_of(x, y[None])[0]))
    for scale in (1.0, 1.5):
        theta = logarithms(truth[0] * scale).requires_grad_()
        optimizer = torch.optim.LBFGS([theta], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

        def closure(theta: torch.Tensor = theta, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(theta) / DELTA**2
            value.backward()
            return value

        optimizer.step(closure)
        assert ours <= loss(theta.detach()) * (1 + 1e-6) or (theta.detach()[2::2] < 0).any()


def test_sets_of_values_are_fitted_as_if_each_were_alone() -> None:
    n = np.geomspace(1e2, 1e5, 6)[:, None]
    y = np.stack([0.2 + 4 * n[:, 0] ** -0.5, 0.5 + 2 * n[:, 0] ** -0.3, 0.1 + 9 * n[:, 0] ** -0.8])
    together = parameters_of(n, y)
    assert together == pytest.approx(np.array([[0.2, 4, 0.5], [0.5, 2, 0.3], [0.1, 9, 0.8]]), rel=1e-4)
    assert np.concatenate([parameters_of(n, row[None]) for row in y]) == pytest.approx(together, rel=1e-6)


def test_minimise_finds_minima_of_smooth_and_of_kinked_functions() -> None:
    def rosenbrock(point: NDArray[np.float64], rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        a = np.array([1.0, 2.0, -1.0])[rows]  # of each function another
        x, y = point.T
        slope = np.stack([-2 * (a - x) - 400 * x * (y - x**2), 200 * (y - x**2)], axis=1)
        return (a - x) ** 2 + 100 * (y - x**2) ** 2, slope

    found = minimise(rosenbrock, np.array([[-1.2, 1.0], [0.0, 3.0], [-1.0, 1.0]]))  # the last begins at its minimum
    assert found == pytest.approx(np.array([[1, 1], [2, 4], [-1, 1]]), abs=1e-4)

    def kinked(point: NDArray[np.float64], rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        weights = np.array([1.0, 10.0])
        return np.abs(point - [1, -2]) @ weights, np.sign(point - [1, -2]) * weights

    assert minimise(kinked, np.array([[4.3, 2.2]])) == pytest.approx(np.array([[1, -2]]), abs=1e-3)


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        ([1, 2, 3], [3, 2, 1], "3 parameters needs at least 4 points, got 3"),
        ([1, 2, 3, 3], [3, 2, 1, 1], "at least 4 points, got 3"),
        ([0, 1, 2, 3], [3, 2, 1, 1], "every x above 0"),
        ([1, 2, 3, 4], [3, 2, 1, 0], "every y above 0"),
        ([1, 2, 3, 4], [3, 2, 1, math.nan], "every y above 0"),
        ([1, 2, 3, 4], [3, 2, 1], r"got \[4, 1\] and \[3\]"),
        (np.ones((4, 3)), [3, 2, 1, 1], r"\[n, 1 or 2\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: object, y: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit_power_law(x, y)  # type: ignore[arg-type]
