"""Power laws: fitted, with intervals, and asked to predict what they have not seen.

A law of one axis is L(N) = E + A·N^-α, of two L(N, D) = E + A·N^-α + B·D^-β. E is what no amount of N removes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moonlib.metrics.bootstrap import Interval

Floats = NDArray[np.float64]
Objective = Callable[[Floats, NDArray[np.int64]], tuple[Floats, Floats]]
"""Points [P', k] and their problems' numbers, int64 [P'] → values [P'] and gradients [P', k]."""

Loss = Callable[[Floats, Floats, Floats, float], tuple[Floats, Floats]]
"""Parameters [P, k], places [n, ...], logarithms of values [P, n] and delta → losses [P] and gradients [P, k]."""

Step = tuple[Floats, Floats, Floats]
"""s [P, k], how far a step went; y [P, k], how the gradient changed; 1 / s·y [P], 0 where there is nothing to learn."""

NAMES = ("E", "A", "alpha", "B", "beta")
"""Of the parameters of a law of two axes; one of one axis has the first three."""

DELTA = 1e-3
"""Where the Huber loss of log residuals turns from a parabola into a line."""

STEEPEST = 5.0
"""Bound of the exponents: a term that falls faster is gone after the first point, and has no exponent to speak of."""

FLOORS = (0.01, 0.5, 0.8, 0.95)
EXPONENTS = (0.1, 0.3, 0.9)
SHARES = (0.1, 0.5, 0.9)
"""The grid of starts: E as a share of the lowest value, the exponents, A's share of what is above E."""

TOLERANCE = 1e-9
"""Where a minimisation ends: gradient, or gain of a step, as a share of the value."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a law, a line and a constant for the largest point, fitted to the others.

    Attributes:
        x: the largest point, by axis.
        measured: the mean of its values.
        predicted: by ``power law``, ``line`` (in the logarithm of each axis) and ``constant``.
        wins: share of the resamples in which the power law comes closest; None without resamples.
    """

    x: tuple[float, ...]
    measured: float
    predicted: dict[str, float]
    wins: float | None

    @property
    def errors(self) -> dict[str, float]:
        """Distance of each prediction from what was measured."""
        return {name: abs(value - self.measured) for name, value in self.predicted.items()}

    @property
    def best(self) -> str:
        """The closest one; to beat a simpler one takes more than the fit resolves, a share `DELTA` of the value."""
        best = "constant"
        for name in ("line", "power law"):
            if self.errors[name] < self.errors[best] - DELTA * abs(self.measured):
                best = name
        return best


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Attributes:
        parameters: estimate and 95 % interval of E, A, alpha and, for two axes, B and beta; the interval is NaN where
            no point was measured twice.
        held_out: how well it extrapolates.
        resampled: parameters of every resample, float64 [S, k], S = 0 where no point was measured twice.
    """

    parameters: dict[str, Interval]
    held_out: Predictions
    resampled: Floats = field(repr=False, compare=False)

    @property
    def axes(self) -> int:
        """How many axes it has."""
        return len(self.parameters) // 2

    def __call__(self, x: ArrayLike) -> Floats:
        """The law's values, float64 [n], at points float64 [n, axes]."""
        estimate = np.array([[interval.estimate for interval in self.parameters.values()]])
        return evaluate(estimate, x)[0]

    def band(self, x: ArrayLike) -> tuple[Floats, Floats] | None:
        """The 95 % interval of the law's value at each point, float64 [n] twice; None without resamples."""
        if not len(self.resampled):
            return None
        low, high = np.quantile(evaluate(self.resampled, x), [0.025, 0.975], axis=0)
        return low, high

    def verdict(self, axes: Sequence[str]) -> str:
        """Whether this is a power law, in words.

        Args:
            axes: their titles.
        """
        held, errors = self.held_out, self.held_out.errors
        place = ", ".join(f"{axis} {value:,.10g}" for axis, value in zip(axes, held.x, strict=True))
        told = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        where = f"errors at {place}, predicted from the smaller: {told}"
        if held.best != "power law":
            return f"no power law here: a {held.best} predicts the largest point better, or as well ({where})"
        if held.wins is None:
            return f"a power law predicts the largest point best; one seed does not say how surely ({where})"
        sure = f"a power law predicts the largest point best, in {held.wins:.0%} of the resamples ({where})"
        return sure if held.wins >= 0.95 else f"{sure}: not certain, more seeds or a wider range would tell"


def fit_power_law(x: ArrayLike, y: ArrayLike, samples: int = 1000, seed: int = 0) -> PowerLaw:
    """Fit a power law, bound its parameters, and hold out the largest point.

    The sum of the Huber losses (`DELTA`) of the log residuals is minimised by L-BFGS, in the form log L = logsumexp of
    the terms' logarithms, from a grid of starts; exponents are between 0 and `STEEPEST`. The intervals are percentiles
    over resamples: of each point's n values as many are drawn with replacement, and spread by sqrt(n / (n - 1)) around
    their mean, because n values lie closer to their own mean than to the true one. The intervals know of that spread,
    and not of a wrong form.

    The held-out point is the largest: that of the largest product of the axes. Law, line and constant are fitted to all
    others by the same loss.

    Args:
        x: float [n] or [n, axes], one or two axes; above 0. Rows with equal x are repeated measurements.
        y: float [n], above 0; lower is better.
        samples: number S of resamples.
        seed: of the resamples.

    Raises:
        ValueError: for too few points (k parameters need k + 1 different ones), or values that are not above 0.

    Source: Hoffmann et al., "Training compute-optimal large language models" (arXiv 2203.15556), Appendix D.2, for the
    loss; Besiroglu et al., "Chinchilla scaling: a replication attempt" (arXiv 2404.10102), for what becomes of the fit
    where the minimisation stops early; Davison and Hinkley, "Bootstrap methods and their application" (1997), section
    2.3, for the factor.

    Example:
        >>> n = np.array([1e3, 3e3, 1e4, 3e4, 1e5, 3e5])
        >>> law = fit_power_law(n, 0.2 + 10 * n**-0.5)
        >>> [round(law.parameters[name].estimate, 3) for name in ("E", "A", "alpha")]
        [0.2, 10.0, 0.5]
    """
    points, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] not in (1, 2) or values.shape != points.shape[:1]:
        raise ValueError(f"expected x [n, 1 or 2] and y [n], got {list(points.shape)} and {list(values.shape)}")
    if not (np.isfinite(points).all() and (points > 0).all()):
        raise ValueError("a power law needs every x above 0")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("a power law needs every y above 0")
    distinct, place = np.unique(points, axis=0, return_inverse=True)
    place = place.reshape(-1)
    count = 1 + 2 * points.shape[1]
    if len(distinct) <= count:
        raise ValueError(f"a power law of {count} parameters needs at least {count + 1} points, got {len(distinct)}")

    drawn = resample(place, values, samples, seed)
    largest = int(np.argmax(np.log(distinct).sum(axis=1)))
    smaller, held = place != largest, place == largest
    corner = distinct[largest : largest + 1]

    def predict(y: Floats, law: Floats) -> dict[str, Floats]:
        at, seen = np.column_stack([np.ones(len(points)), np.log(points)]), y[:, smaller]
        line, constant = (at[held][0, :k] @ linear(at[smaller, :k], seen).T for k in (at.shape[1], 1))
        return {"power law": evaluate(law, corner)[:, 0], "line": line, "constant": constant}

    estimate, without = (parameters_of(points[rows], values[None, rows])[0] for rows in (place >= 0, smaller))
    measured = float(values[held].mean())
    predicted = {name: float(value[0]) for name, value in predict(values[None], without[None]).items()}
    resampled = parameters_of(points, drawn, estimate)
    wins, (low, high) = None, np.full((2, count), np.nan)
    if len(drawn):
        again = predict(drawn, parameters_of(points[smaller], drawn[:, smaller], without))
        distance = {name: np.abs(value - drawn[:, held].mean(axis=1)) for name, value in again.items()}
        wins = float(np.mean(distance["power law"] < np.minimum(distance["line"], distance["constant"])))
        low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    intervals = [Interval(*map(float, bounds)) for bounds in zip(estimate, low, high, strict=True)]
    return PowerLaw(
        dict(zip(NAMES, intervals, strict=False)),
        Predictions(tuple(map(float, corner[0])), measured, predicted, wins),
        resampled,
    )


def evaluate(parameters: ArrayLike, x: ArrayLike) -> Floats:
    """Values of P laws at n points.

    Args:
        parameters: float [P, 3 or 5], in the order of `NAMES`.
        x: float [n] or [n, axes].

    Returns:
        float64 [P, n].

    Example:
        >>> evaluate([[1.0, 8.0, 0.5]], [4.0, 16.0]).tolist()
        [[5.0, 3.0]]
    """
    laws, points = np.asarray(parameters, dtype=np.float64), np.asarray(x, dtype=np.float64)
    points = points[:, None] if points.ndim == 1 else points
    factors, exponents = laws[:, 1::2], laws[:, 2::2]
    terms = factors[:, None] * points[None] ** -exponents[:, None]
    total: Floats = laws[:, :1] + terms.sum(axis=2)
    return total


def resample(place: NDArray[np.int64], y: Floats, samples: int, seed: int) -> Floats:
    """Draw each point's values anew among its own, see `fit_power_law`.

    Args:
        place: int64 [n], the number of the point that each value was measured at.
        y: float64 [n], above 0.
        samples: number S of resamples.
        seed: of them.

    Returns:
        float64 [S, n], above 0; S = 0 if no point was measured twice.
    """
    if len(np.unique(place)) == len(place):
        return np.empty((0, len(y)))
    rng = np.random.default_rng(seed)
    drawn, logs = np.empty((samples, len(y))), np.log(y)
    for point in np.unique(place):
        own = np.flatnonzero(place == point)
        deviations = (logs[own] - logs[own].mean()) * np.sqrt(len(own) / max(1, len(own) - 1))
        drawn[:, own] = logs[own].mean() + deviations[rng.integers(len(own), size=(samples, len(own)))]
    return np.exp(drawn)


def parameters_of(x: Floats, y: Floats, near: Floats | None = None) -> Floats:
    """The parameters of the law that fits best, for each of P sets of values at the same points.

    Args:
        x: float64 [n, axes], above 0.
        y: float64 [P, n], above 0.
        near: float64 [1 + 2 · axes], the parameters of values much like these. Every set then starts from them and
            from one point of the grid, each from another; otherwise from all of the grid.

    Returns:
        float64 [P, 1 + 2 · axes], in the order of `NAMES`.
    """
    axes = x.shape[1]
    if not len(y):
        return np.empty((0, 1 + 2 * axes))
    # Around their mean, the logarithms of x leave factors and exponents nearly independent of each other.
    centre = np.log(x).mean(axis=0)
    u, logs = np.log(x) - centre, np.log(y)
    starts = _starts(u, y)  # [P, G, k]
    if near is not None:
        known = np.log(np.maximum(near, np.finfo(np.float64).tiny))
        known[1::2] -= near[2::2] * centre
        known[2::2] = _logit(near[2::2])
        turn = np.arange(len(y)) % starts.shape[1]
        starts = np.stack([np.broadcast_to(known, (len(y), len(known))), starts[np.arange(len(y)), turn]], axis=1)
    targets = np.repeat(logs, starts.shape[1], axis=0)
    theta = starts.reshape(len(targets), -1)
    theta = _narrowing(_objective, theta, u, targets)
    final = _objective(theta, u, targets, DELTA)[0].reshape(len(y), -1)
    best = theta.reshape(*final.shape, -1)[np.arange(len(y)), np.argmin(final, axis=1)]
    exponents = _exponents(best[:, 2::2])
    found = np.exp(best)
    found[:, 1::2], found[:, 2::2] = np.exp(best[:, 1::2] + exponents * centre), exponents
    return found


def linear(design: Floats, y: Floats) -> Floats:
    """Coefficients of the linear function that fits best, by the same loss as `parameters_of`.

    Args:
        design: float64 [n, k], the first column 1.
        y: float64 [P, n], above 0.

    Returns:
        float64 [P, k].

    Example:
        >>> linear(np.ones((3, 1)), np.array([[1.0, 2.0, 30.0]])).round(2).tolist()  # nearly the median
        [[2.0]]
    """
    # Around their mean, as in `parameters_of`.
    centre = np.concatenate([[0.0], design[:, 1:].mean(axis=0)])
    start = np.zeros((len(y), design.shape[1]))
    start[:, 0] = np.median(y, axis=1)
    found = _narrowing(_linear_objective, start, design - centre, np.log(y))
    found[:, 0] -= found[:, 1:] @ centre[1:]
    return found


def minimise(objective: Objective, start: Floats, iterations: int = 300, memory: int = 10) -> Floats:
    """Minimise P functions of k variables at once by L-BFGS.

    Every function has its own line search, by bisection for the weak Wolfe conditions, which also serve functions with
    kinks; one that has converged is left alone.

    Args:
        objective: values and gradients at some points; a point is given with the number of its function.
        start: float64 [P, k].
        iterations: at most.
        memory: pairs of steps and changes of the gradient that are remembered.

    Returns:
        float64 [P, k].

    Source: Nocedal and Wright, "Numerical optimization" (2006), algorithm 7.4; Lewis and Overton, "Nonsmooth
    optimization via quasi-Newton methods" (2013), algorithm 2.6, for the line search.
    """
    result, rows = start.copy(), np.arange(len(start))
    x = start.copy()
    value, slope = objective(x, rows)
    gain = np.full(len(x), np.inf)
    steps: list[Step] = []
    for _ in range(iterations):
        # One that moved, and gained nothing by it, has arrived as well.
        going = np.minimum(np.abs(slope).max(axis=1), gain) > TOLERANCE * np.maximum(1, value)
        if not going.all():
            result[rows] = x
            rows, x, value, slope = rows[going], x[going], value[going], slope[going]
            steps = [(s[going], y[going], rho[going]) for s, y, rho in steps]
            if not len(rows):
                break
        direction = -_two_loops(slope, steps)
        downhill = (direction * slope).sum(axis=1)
        uphill = downhill >= 0
        direction[uphill], downhill[uphill] = -slope[uphill], -(slope[uphill] ** 2).sum(axis=1)
        if not steps:
            length = np.linalg.norm(direction, axis=1)
            direction, downhill = direction / length[:, None], downhill / length
        new, new_value, new_slope = _search(objective, x, value, direction, downhill, rows)
        s, y = new - x, new_slope - slope
        product = (s * y).sum(axis=1)
        steps = [*steps[1 - memory :], (s, y, np.where(product > 0, 1 / np.where(product > 0, product, 1), 0))]
        gain = value - new_value
        x, value, slope = new, new_value, new_slope
    result[rows] = x
    return result


def _search(
    objective: Objective,
    x: Floats,
    value: Floats,
    direction: Floats,
    downhill: Floats,
    problems: NDArray[np.int64],
) -> tuple[Floats, Floats, Floats]:
    """Steps along the directions that satisfy the weak Wolfe conditions; the best step seen where none is found."""
    low, high, step = np.zeros(len(x)), np.full(len(x), np.inf), np.ones(len(x))
    best, best_value = x.copy(), value.copy()
    best_slope = np.zeros_like(x)
    best_slope[:] = np.nan
    searching = np.arange(len(x))
    for _ in range(40):
        point = x[searching] + step[searching, None] * direction[searching]
        at, slope = objective(point, problems[searching])
        finite = np.isfinite(at) & np.isfinite(slope).all(axis=1)
        falls = finite & (at <= value[searching] + 1e-4 * step[searching] * downhill[searching])
        flat = falls.copy()
        flat[falls] = (slope * direction[searching])[falls].sum(axis=1) >= 0.9 * downhill[searching][falls]
        better = searching[falls & (at <= best_value[searching])]
        inside = falls & (at <= best_value[searching])
        best[better], best_value[better], best_slope[better] = point[inside], at[inside], slope[inside]
        high[searching[~falls]] = step[searching[~falls]]
        low[searching[falls]] = step[searching[falls]]
        searching = searching[~flat]
        if not len(searching):
            break
        bounded = np.isfinite(high[searching])
        step[searching] = np.where(
            bounded, (low[searching] + np.where(bounded, high[searching], 0)) / 2, 2 * low[searching]
        )
    unmoved = np.flatnonzero(np.isnan(best_slope[:, 0]))
    if len(unmoved):
        best_slope[unmoved] = objective(best[unmoved], problems[unmoved])[1]
    return best, best_value, best_slope


def _two_loops(slope: Floats, steps: list[Step]) -> Floats:
    """The approximate inverse Hessians times the gradients."""
    result, shares = slope.copy(), []
    for s, y, rho in reversed(steps):
        share = rho * (s * result).sum(axis=1)
        shares.append(share)
        result = result - share[:, None] * y
    scale = np.ones(len(slope))
    for _, y, rho in steps:  # the latest pair that tells
        scale = np.where(rho > 0, 1 / (np.where(rho > 0, rho, 1) * np.maximum((y**2).sum(axis=1), 1e-300)), scale)
    result = result * scale[:, None]
    for (s, y, rho), share in zip(steps, reversed(shares), strict=True):
        result = result + (share - rho * (y * result).sum(axis=1))[:, None] * s
    return result


def _narrowing(loss: Loss, theta: Floats, u: Floats, logs: Floats) -> Floats:
    """Minimise the Huber loss of `DELTA` after wider ones: it is nearly a sum of absolute values, with valleys."""

    def objective(theta: Floats, problems: NDArray[np.int64]) -> tuple[Floats, Floats]:
        return loss(theta, u, logs[problems], delta)

    for delta in (100 * DELTA, 10 * DELTA, DELTA):  # noqa: B007  (it is `objective` that reads it)
        theta = minimise(objective, theta)
    return theta


def _linear_objective(theta: Floats, design: Floats, logs: Floats, delta: float) -> tuple[Floats, Floats]:
    """As `_objective`, of linear functions: theta float64 [P, k], design float64 [n, k]."""
    values = theta @ design.T
    with np.errstate(invalid="ignore", divide="ignore"):  # the search turns back from where a value is not above 0
        residual = (np.log(values) - logs) / delta
        size = np.abs(residual)
        losses = np.where(size <= 1, residual**2 / 2, size - 0.5).sum(axis=1)
        slope = (np.clip(residual, -1, 1) / delta / values) @ design
    return losses, slope


def _objective(theta: Floats, u: Floats, logs: Floats, delta: float) -> tuple[Floats, Floats]:
    """Sum of Huber losses, and gradient, in units of delta.

    Args:
        theta: float64 [P, k]: log E, then of each axis the logarithm of its factor and what `_exponents` takes.
        u: float64 [n, axes], centred logarithms.
        logs: float64 [P, n], logarithms of the values.
        delta: of the Huber loss.
    """
    terms = np.empty((1 + u.shape[1], len(theta), len(u)))
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a step may go too far; the search turns back from what is not finite
        terms[0] = theta[:, :1]
        exponents = _exponents(theta[:, 2::2])
        for axis in range(u.shape[1]):
            terms[1 + axis] = theta[:, 1 + 2 * axis, None] - exponents[:, axis, None] * u[:, axis]
        largest = terms.max(axis=0)
        terms -= largest
        shares = np.exp(terms, out=terms)
        total = shares.sum(axis=0)
        residual = (largest + np.log(total) - logs) / delta
        size = np.abs(residual)
        losses = np.where(size <= 1, residual**2 / 2, size - 0.5).sum(axis=1)
        weighted = shares * (np.clip(residual, -1, 1) / delta / total)
        slope = np.empty_like(theta)
        slope[:, 0] = weighted[0].sum(axis=1)
        slope[:, 1::2] = weighted[1:].sum(axis=2).T
        for axis in range(u.shape[1]):
            slope[:, 2 + 2 * axis] = -(weighted[1 + axis] @ u[:, axis])
        slope[:, 2::2] *= exponents * (1 - exponents / STEEPEST)
    return losses, slope


def _starts(u: Floats, y: Floats) -> Floats:
    """The grid of starts for each set of values, float64 [P, G, k]: factors are what the rest leaves over."""
    axes = u.shape[1]
    grid = []
    for floor, exponents, share in itertools.product(
        FLOORS, itertools.product(EXPONENTS, repeat=axes), SHARES if axes == 2 else (1.0,)
    ):
        lowest = floor * y.min(axis=1, keepdims=True)
        columns = [np.log(lowest[:, 0])]
        for axis, exponent in enumerate(exponents):
            part = share if axis == 0 else 1 - share
            factor = np.median(np.log(part * (y - lowest)) + exponent * u[:, axis], axis=1)
            columns += [factor, np.full(len(y), _logit(exponent))]
        grid.append(np.stack(columns, axis=1))
    return np.stack(grid, axis=1)


def _exponents(theta: Floats) -> Floats:
    """Any number to one between 0 and `STEEPEST`."""
    bounded: Floats = STEEPEST / (1 + np.exp(-theta))
    return bounded


def _logit(exponents: ArrayLike) -> Floats:
    """The inverse of `_exponents`."""
    share = np.clip(np.asarray(exponents, dtype=np.float64) / STEEPEST, 1e-12, 1 - 1e-12)
    inverse: Floats = np.log(share / (1 - share))
    return inverse
