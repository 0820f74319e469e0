"""The exchange rate: how much downstream gain a gain in an intermediate metric buys, over points of runs."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from rich.console import Group

from moonlib.artifacts.directories import LOCK, write_json
from moonlib.artifacts.layout import EXCHANGE, PREPROCESSING, RunLayout
from moonlib.config.earlier import SCHEDULE
from moonlib.config.fingerprint import material_stage
from moonlib.config.recipe import fingerprint
from moonlib.metrics.key import MetricKey
from moonlib.runs.checkpoint_evaluation import evaluate_checkpoints
from moonlib.runs.lineage import Lineage
from moonlib.runs.results import Legend, legend_of_run
from moonlib.runs.run import Run, RunError
from moonlib.runs.runner import Runner, quiet
from moonlib.studies.rates import Floats, Ints, MetricPairs, resampled_runs
from moonlib.system import lock
from moonlib.system.fitted_table import FittedTable
from moonlib.system.interruption import Interruption
from moonlib.system.remote import local_only

APPLIED = ("ctr", "retrieval", "relevance")
"""Tasks of downstream models; all others are of intermediate metrics."""
WANTED = ("", "new", "tail")
"""Segments of downstream metrics that a gain is wanted in."""
FEWEST = 3
"""Points below which there is no rate."""
SHOWN = 12
"""Rows of the table that is printed of a downstream metric."""


class ExchangeError(ValueError):
    """Runs that no exchange rate can be found from; the message says why and what to do."""


@dataclass(frozen=True)
class EvaluatedPoint:
    """One point with what it is told apart by, as it stands in ``exchange.json``; ``about`` holds its names."""

    about: dict[str, Any]
    dataset: str
    iteration: str
    metrics: dict[str, float]
    legend: Legend = field(default_factory=Legend)


@dataclass(frozen=True)
class Rate:
    """Rate of exchange of an intermediate metric for a downstream one; None where something is not defined.

    Attributes:
        intermediate: key of the intermediate metric.
        downstream: key of the downstream metric.
        estimate: downstream per unit of intermediate.
        low: lower end of its 95 % interval over runs; a single run has none.
        high: upper end.
        spearman: rank correlation.
        loo_error: error of predicting iterations that were left out.
        points: how many have both metrics.
        runs: how many these are of.
    """

    intermediate: str
    downstream: str
    estimate: float | None
    low: float | None
    high: float | None
    spearman: float | None
    loo_error: float | None
    points: int
    runs: int


@dataclass(frozen=True)
class Steering:
    """The intermediate metric to steer by for a downstream one.

    Attributes:
        rate: the chosen metric's.
        by: what chose it: the error of prediction or, where none is defined, the rank correlation.
        sure: share of resamples that choose it; None for one run.
        runner_up: the second best, if there is one.
        candidates: how many there were.
        loo_error_of_mean: error of predicting without any metric.
    """

    rate: Rate
    by: Literal["loo_error", "spearman"]
    sure: float | None
    runner_up: str | None
    candidates: int
    loo_error_of_mean: float | None

    def to_json(self) -> dict[str, Any]:
        """A value of ``steer_by`` in exchange.json, of one level."""
        own = {name: value for name, value in vars(self).items() if name != "rate"}
        return {name: value for name, value in asdict(self.rate).items() if name != "downstream"} | own


@dataclass(frozen=True)
class Exchange:
    """Result of `exchange`.

    Attributes:
        split: whose days the metrics are of.
        points: the points that were compared.
        rates: of every pair of an intermediate and a downstream metric that has one.
        steer_by: what to steer by, by downstream metric.
        constant: metrics that never differ within a data set, and so have no rate.
        file: the JSON file that holds all this.
    """

    split: Literal["valid", "test"]
    points: list[EvaluatedPoint]
    rates: list[Rate]
    steer_by: dict[str, Steering]
    constant: list[str]
    file: Path

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "split": self.split,
            "points": [{**point.about, "metrics": point.metrics} for point in self.points],
            "rates": [asdict(rate) for rate in self.rates],
            "steer_by": {key: chosen.to_json() for key, chosen in self.steer_by.items()},
            "constant": self.constant,
        }


def exchange(
    runs: Sequence[str | Path],
    *,
    split: Literal["valid", "test"] = "valid",
    out: str | Path | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Exchange:
    """Find the exchange rate of every intermediate metric to every downstream metric.

    Downstream are the metrics of clicks, retrieval and relevance that are better when higher, for all, new and tail
    products; those that a recipe names in these stages are among them. All other metrics are intermediate: recall,
    probes, and what a plugin's stage says of the representations.

    Points are the checkpoints of trainings that had ``checkpoint_evaluation: {every: N}``, the ends of these
    stages, and each run's final representations; those that are not evaluated yet are (see
    `moonlib.runs.checkpoint_evaluation`), into ``.stages``, so that a second call only reads. A point that several
    runs share, because one reused a stage of the other, counts once, for the run with the fewest points.

    The rate is a slope: downstream gain per unit of the intermediate metric, by least squares over the points, with a
    level of its own for every data set. Its 95 % interval resamples whole runs. The rank correlation (Spearman) is that
    of the values less their mean within the data set. ``loo_error`` is the error of predicting an iteration from all
    others, see `moonlib.studies.rates.MetricPairs.held_out_error`; an *iteration* is all runs whose recipes differ in
    nothing but seeds. The metric to steer by is the one with the lowest such error, or, where no iteration can be
    predicted from another, with the highest rank correlation; how sure that is, is the share of resamples that choose
    it too.

    Both metrics are those of validation days by default. To choose what to steer by is to select, which validation
    days are for; and every snapshot is measured, while test days are to be read once per run. ``split="test"`` reads
    the days of the final tables: more rows and less noise, for a report of what was decided before.

    Args:
        runs: run directories, of one kind of data; seeds may differ.
        split: whose days both metrics are of.
        out: the JSON file to write; by default ``exchange.json`` beside the first run.
        samples: resamples of runs.
        seed: of the resamples.

    Returns:
        The rates, and what to steer by.

    Raises:
        ExchangeError: fewer than three points, nothing that varies, or runs of different kinds of data.
        RunError: a run that is not finished, or whose data is gone.

    Example: ``exchange(["runs/iter2", "runs/iter3"]).steer_by["ctr/auc"].rate.intermediate``
    """
    if not runs:
        raise ExchangeError("give at least one run directory")
    opened = [Run(local_only(run, "the evaluation of a run's checkpoints")) for run in runs]
    refuse_other_kinds(opened)
    quiet()
    measured = distinct([measure(run, split) for run in opened])
    file = local_only(out, "the result") if out else opened[0].directory.resolve().parent / EXCHANGE
    found = Exchange(split, measured, *rates(measured, samples, seed), file)
    write_json(file, found.to_json())
    return found


def refuse_other_kinds(runs: Sequence[Run]) -> None:
    """Refuse runs whose data differs in more than its seed: recall in another catalogue is another unit."""

    def kind(run: Run) -> dict[str, Any]:
        data = copy.deepcopy(run.config.get("data") or {})
        if isinstance(data, dict):
            data.get("init_args", {}).pop("seed", None)
        return {"data": data}

    first = kind(runs[0])
    for run in runs[1:]:
        if kind(run) != first:
            raise ExchangeError(
                f"{runs[0].directory} and {run.directory} are of different kinds of data ({first['data']} and "
                f"{kind(run)['data']}), and a unit of a metric is not the same in both: give runs of one kind"
            )


def iteration_key(config: Mapping[str, Any]) -> str:
    """Tells iterations apart: recipes that differ in nothing but seeds, and in when and what they measure, are one."""
    stages = {
        name: {section: values for section, values in material_stage(stage).items() if section != SCHEDULE}
        for name, stage in copy.deepcopy(dict(config["stages"])).items()
    }
    for stage in stages.values():
        arguments = stage["module"].pop("init_args", None) or {}
        stage["module"]["arguments"] = {name: value for name, value in arguments.items() if name != "metrics"}
    return fingerprint({"encoder": config.get("encoder"), "stages": stages})


def measure(run: Run, split: Literal["valid", "test"]) -> list[EvaluatedPoint]:
    """Evaluate the points of a run where they are not yet, and read the metrics of a split's days."""
    recipe, dataset = run.recipe, run.dataset()
    directory = run.directory.resolve()
    layout = RunLayout(directory, run.runs)  # runs of a study lie deeper than others
    preprocessing = None if run.config.get("encoder") is None else layout.fingerprint(PREPROCESSING)
    try:
        with lock.held(directory / LOCK), Interruption().listening() as interruption:
            runner = Runner(recipe, dataset, layout, {}, interruption)
            found = evaluate_checkpoints(runner, Lineage(dataset.hash, preprocessing))
    except FileNotFoundError as error:
        raise RunError(str(error)) from error
    except lock.InUse as holder:
        raise ExchangeError(f"{directory} is in use by {holder}: wait for it to end") from None
    measured = []
    legend = legend_of_run(directory, recipe.stages)
    for point in found:
        keys = {text: legend.key(text) for text in point["metrics"]}
        metrics = {
            str(replace(key, split="test")): point["metrics"][text]
            for text, key in keys.items()
            if key.split == split and (key.task not in APPLIED or is_downstream(key, legend))
        }
        about = {"run": run.name, "iteration": "", "dataset": dataset.name, "stage": point["stage"]}
        about |= {"step": point["step"], "key": point["key"]}
        measured.append(EvaluatedPoint(about, dataset.hash, iteration_key(run.config), metrics, legend))
    return measured


def is_downstream(key: MetricKey, legend: Legend) -> bool:
    """Whether a gain is wanted in a metric: of a downstream model, and better when higher."""
    return key.task in APPLIED and key.segment in WANTED and legend.meaning(key).higher_is_better is True


def distinct(runs: Sequence[list[EvaluatedPoint]]) -> list[EvaluatedPoint]:
    """Every point once, and a name for every iteration: that of its first run, without what tells seeds apart."""
    kept: list[EvaluatedPoint] = []
    seen: set[tuple[str, str]] = set()
    for run in sorted(runs, key=len):  # stable: of equally many points the run that was given first
        for point in run:
            if (key := (point.dataset, point.about.pop("key"))) not in seen:
                seen.add(key)
                kept.append(point)
    labels: dict[str, str] = {}
    for point in kept:
        name = str(point.about["run"])
        label = re.sub(r"[-_.](seed)?\d+$", "", name)
        labels.setdefault(point.iteration, name if label in labels.values() else label)
        point.about["iteration"] = labels[point.iteration]
    return kept


def rates(
    measured: Sequence[EvaluatedPoint], samples: int, seed: int
) -> tuple[list[Rate], dict[str, Steering], list[str]]:
    """Rates of every pair of metrics, what to steer by, and the constant metrics; see `Exchange`.

    Raises:
        ExchangeError: see `exchange`.
    """
    if len(measured) < FEWEST:
        raise ExchangeError(
            f"{len(measured)} points, and a rate needs at least {FEWEST}: give more runs, or let a training stage keep "
            "snapshots (--stages.STAGE.checkpoint_evaluation.every N)"
        )
    keys = sorted({key for point in measured for key in point.metrics})
    legend = reduce(or_, (point.legend for point in measured))
    wanted = [key for key in keys if is_downstream(legend.key(key), legend)]
    candidates = [key for key in keys if key not in wanted]
    if not wanted or not candidates:
        raise ExchangeError("the runs have no downstream metric: their data has no clicks, no orders and no grades")
    found: list[Rate] = []
    steer_by: dict[str, Steering] = {}
    alone = {key: pairs_of(measured, key, key) for key in keys}
    constant = {key for key, pairs in alone.items() if pairs is not None and pairs.constant[0]}
    for downstream in wanted:
        compared: list[tuple[Rate, MetricPairs]] = []
        for intermediate in candidates:
            pairs = pairs_of(measured, intermediate, downstream)
            if pairs is None:
                continue
            if not any(pairs.constant):
                compared.append((rate(intermediate, downstream, pairs, samples, seed), pairs))
        found += [row for row, _ in compared]
        # Errors compare on the same points alone.
        most = max((len(pairs.x) for _, pairs in compared), default=0)
        rivals = [(row, pairs) for row, pairs in compared if len(pairs.x) == most]
        if rivals:
            steer_by[downstream] = steering(rivals, samples, seed)
    if not found:
        raise ExchangeError(
            f"no metric has a rate: the {len(measured)} points differ in no pair of metrics "
            f"(constant: {', '.join(sorted(constant)) or 'none'}); give runs of other iterations, or with snapshots"
        )
    return found, steer_by, sorted(constant)


def pairs_of(measured: Sequence[EvaluatedPoint], intermediate: str, downstream: str) -> MetricPairs | None:
    """The points that have both metrics; None for fewer than `FEWEST`."""
    both = [point for point in measured if intermediate in point.metrics and downstream in point.metrics]
    if len(both) < FEWEST:
        return None
    runs = {(point.about["run"], point.dataset): point for point in both}
    number = {key: i for i, key in enumerate(runs)}
    return MetricPairs(
        np.array([point.metrics[intermediate] for point in both]),
        np.array([point.metrics[downstream] for point in both]),
        np.array([number[point.about["run"], point.dataset] for point in both]),
        numbered([point.dataset for point in runs.values()]),
        numbered([point.iteration for point in runs.values()]),
    )


def numbered(names: Sequence[str]) -> Ints:
    """Number names from 0 in the order of their first appearance."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def rate(intermediate: str, downstream: str, pairs: MetricPairs, samples: int, seed: int) -> Rate:
    """Find what one metric buys in another, over their points."""
    runs = len(pairs.dataset)
    once = np.ones((1, runs))
    slopes = pairs.fit(resampled_runs(runs, samples, seed)).slope if runs > 1 else np.empty(0)
    slopes = slopes[~np.isnan(slopes)]
    low, high = np.quantile(slopes, [0.025, 0.975]) if len(slopes) else (math.nan, math.nan)
    return Rate(
        intermediate=intermediate,
        downstream=downstream,
        estimate=plain(pairs.fit(once).slope[0]),
        low=plain(low),
        high=plain(high),
        spearman=plain(pairs.spearman()),
        loo_error=plain(pairs.held_out_error(once)[0]),
        points=len(pairs.x),
        runs=runs,
    )


def steering(rivals: Sequence[tuple[Rate, MetricPairs]], samples: int, seed: int) -> Steering:
    """Choose the intermediate metric that predicts a downstream metric best.

    Args:
        rivals: rates and their points, which are the same for all.
        samples: resamples of runs.
        seed: of the resamples.

    Returns:
        The chosen metric, and how sure that is.
    """
    pairs = rivals[0][1]
    runs = len(pairs.dataset)
    weights = resampled_runs(runs, samples, seed) if runs > 1 else np.empty((0, runs))
    by_error = any(row.loo_error is not None for row, _ in rivals)
    if by_error:
        own = np.array([np.nan if row.loo_error is None else row.loo_error for row, _ in rivals])
        drawn = np.stack([pairs.held_out_error(weights) for _, pairs in rivals])
    else:
        own = np.array([-abs(row.spearman or 0.0) for row, _ in rivals])
        drawn = np.stack([-rank_correlation(pairs, weights) for _, pairs in rivals])
    order = np.argsort(np.where(np.isnan(own), np.inf, own), kind="stable")
    usable = ~np.isnan(drawn).all(axis=0)
    drawn = np.where(np.isnan(drawn), np.inf, drawn)[:, usable]
    sure = float((drawn.argmin(axis=0) == order[0]).mean()) if drawn.shape[1] else None
    return Steering(
        rate=rivals[order[0]][0],
        by="loo_error" if by_error else "spearman",
        sure=sure,
        runner_up=rivals[order[1]][0].intermediate if len(order) > 1 else None,
        candidates=len(rivals),
        loo_error_of_mean=plain(pairs.held_out_error(np.ones((1, runs)), slope=False)[0]),
    )


def rank_correlation(pairs: MetricPairs, weights: Floats) -> Floats:
    """Size of the correlation of ranks in resamples of runs, float64 [S]; the ranks are those among all points."""
    ranks = [pl.Series(values.round(12)).rank("average").to_numpy() for values in pairs.centred]
    one = np.zeros(len(pairs.dataset), dtype=np.int64)
    there = MetricPairs(ranks[0], ranks[1], pairs.run, one, one)
    back = MetricPairs(ranks[1], ranks[0], pairs.run, one, one)
    product: Floats = there.fit(weights).slope * back.fit(weights).slope
    with np.errstate(invalid="ignore"):
        return np.sqrt(product)


def plain(value: float) -> float | None:
    """A number as JSON has it: None for NaN."""
    return None if math.isnan(value) else float(value)


def exchange_tables(found: Exchange, downstream: str | None = None) -> Group:
    """Tables to print: the metric to steer by, and the best candidates for one downstream metric.

    Args:
        found: what `exchange` returned.
        downstream: by default the AUC of clicks, or the first there is.
    """
    rows: list[tuple[str, Sequence[str]]] = []
    for key, steering_by in found.steer_by.items():
        sure = "" if steering_by.sure is None else f"{steering_by.sure:.0%}"
        values = (*cells(steering_by.rate), number(steering_by.loo_error_of_mean, ".4f"), sure)
        rows += [
            (f"{key}, n: {steering_by.rate.points} points of {steering_by.rate.runs} runs", ()),
            (f"  {steering_by.rate.intermediate}", values),
        ]
    chosen = FittedTable(
        f"{found.split} days: what to steer each downstream metric by",
        "downstream",
        ["+.01 buys", "95 % interval", "rank corr.", "error", "without", "sure"],
        rows,
    )
    downstream = downstream or ("ctr/auc" if "ctr/auc" in found.steer_by else next(iter(found.steer_by)))
    candidates = [row for row in found.rates if row.downstream == downstream]
    by_error = found.steer_by[downstream].by == "loo_error"

    def worse(row: Rate) -> float:
        if not by_error:
            return -abs(row.spearman or 0.0)
        return math.inf if row.loo_error is None else row.loo_error

    ranked = sorted(candidates, key=worse)[:SHOWN]
    best = FittedTable(
        f"{found.split} days: the best candidates for {downstream}",
        "steer by",
        ["+.01 buys", "95 % interval", "rank corr.", "error", "points", "runs"],
        [(row.intermediate, [*cells(row), str(row.points), str(row.runs)]) for row in ranked],
    )
    return Group(chosen, best)


def cells(row: Rate) -> tuple[str, str, str, str]:
    """A rate per .01 of the intermediate metric, its interval, the rank correlation and the error, as text."""
    estimate, low, high = (number(end and end / 100, "+.5f") for end in (row.estimate, row.low, row.high))
    interval = f"{low} to {high}" if low else ""
    return estimate, interval, number(row.spearman, "+.2f"), number(row.loo_error, ".4f")


def number(value: float | None, form: str) -> str:
    """A number as text, nothing for none."""
    return "" if value is None else format(value, form)
