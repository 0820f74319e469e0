"""Results of `moonlib abtest`, `moonlib exchange` and `moonlib scale`, where their files are there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moonlib.artifacts.checksums import again
from moonlib.artifacts.layout import ABTEST, EXCHANGE, SCALE
from moonlib.metrics.bootstrap import Interval
from moonlib.metrics.key import MetricKey
from moonlib.studies.report.evidence import Evidence, interval, mapping, mappings, telling, typed
from moonlib.studies.report.figures import Figure, PlotAxis, PlotSeries, Row, forest, legend, swatch, xy
from moonlib.studies.report.inputs import Report, headline_keys
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import (
    ends,
    number,
    signed,
    spoken,
    surely,
)

TOLD_APART = 5
"""Iterations whose points have marks of their own in a scatter."""
BEST, FEW = 12, 2
"""Rates shown of clicks, and of each other downstream metric."""


@dataclass(frozen=True)
class RecordedABTest:
    """Results of `moonlib abtest`: relative lifts of the click rate, 0.2 for 20 %.

    Attributes:
        base: name of the run that it is compared with.
        method: ``simulation``, or ``snips`` of logged data.
        users: how many shoppers; None if unknown.
        lifts: by segment.
        oracle: the lift of the oracle's ranking, by segment.
        share: share of the oracle's lift, by segment.
    """

    base: str
    method: str
    users: int | None
    lifts: dict[str, Interval]
    oracle: dict[str, Interval]
    share: dict[str, Interval]


def abtests(run: Evidence) -> list[RecordedABTest]:
    """Files of RUN/abtest, by the name of the base."""
    found = []
    for file in sorted((run.run.directory / ABTEST).glob("*.json")):
        of = ("lifts", "oracle", "share_of_oracle")
        test = typed(file, mapping(file, run.problems), dict.fromkeys(of, dict), run.problems)
        parts = [_intervals(file, test.get(name) or {}, run.problems) for name in of]
        users = test.get("users")
        base = str(test.get("base") or file.stem)
        method = str(test.get("method", "simulation"))
        found.append(RecordedABTest(base, method, users if isinstance(users, int) else None, *parts))
    return found


def _intervals(file: Path, found: Mapping[str, Any], problems: list[str]) -> dict[str, Interval]:
    """Those of the values that are intervals; others are a problem."""
    known: dict[str, Interval] = {}
    for key, value in found.items():
        if each := interval(value):
            known[key] = each
        else:
            problems.append(f"{file}: {key!r} is {str(value)[:40]!r}, and no interval; {again(file)}")
    return known


def abtest(report: Report) -> Section | None:
    """Lifts of every run that has some."""
    figures: list[Figure] = []
    tables: list[Table] = []
    for run in report.runs:
        for test in abtests(run):
            if not test.lifts:
                continue
            rows = [
                Row(
                    segment,
                    _percent(lift),
                    f"{signed(100 * lift.estimate, 1)}\u00a0%",
                    0,
                    _percent(test.oracle[segment]) if segment in test.oracle else None,
                )
                for segment, lift in test.lifts.items()
            ]
            who = f", {test.users:,} shoppers" if test.users else ""
            about = f"Lift of {run.label} over {test.base}: " + "; ".join(f"{row.label} {row.text}" for row in rows)
            marks = [(swatch(0), run.label)] + ([(swatch(1, hollow=True), "oracle")] if test.oracle else [])
            figures.append(
                Figure(
                    f"{run.label} against {test.base}",
                    forest(rows, PlotAxis("lift, %"), about, zero=0.0),
                    f"95 % intervals over shoppers{who}.",
                    marks,
                )
            )
            cells = [
                (
                    segment,
                    [
                        TableCell(
                            f"{signed(100 * lift.estimate, 2)}\u00a0%", ends(lift, 100, 2, sign=True), surely(lift)
                        ),
                        *(
                            TableCell(f"{form(100 * each.estimate, 1)}\u00a0%", ends(each, 100, 1))
                            if each
                            else TableCell("")
                            for each, form in ((test.oracle.get(segment), signed), (test.share.get(segment), number))
                        ),
                    ],
                )
                for segment, lift in test.lifts.items()
            ]
            columns = ["", "lift", "oracle's lift", "share of the oracle's"]
            tables.append(Table(f"Lift of {run.label} over {test.base}{who}", columns, [("", cells)]))
    if not figures:
        previous = report.previous(report.last)
        base = previous or report.last
        words = f"moonlib abtest {base.run.directory if previous else 'BASE'} {report.last.run.directory}"
        report.missing.append(("Simulated A/B", f"no {report.last.run.directory}/{ABTEST}/*.json: `{words}`"))
        return None
    lead = (
        "Two click models rank the same candidates for the same requests, and the simulation's shoppers click; or, of "
        "logged data, their clicks are estimated. A lift is relative: +1\u00a0% is 1.01 times the clicks."
    )
    return Section("abtest", "A/B test", lead, [figures, *tables])


def _percent(found: Interval) -> Interval:
    return Interval(100 * found.estimate, 100 * found.low, 100 * found.high)


def exchange(report: Report) -> Section | None:
    """Recall against AUC over the runs, and over checkpoints where exchange.json has them."""
    problems: list[str] = []
    file = report.beside / EXCHANGE
    found = typed(file, mapping(file, problems), {"points": list, "rates": list, "steer_by": dict}, problems)
    rates = [rate for rate in found.get("rates") or () if isinstance(rate, dict) and interval(rate)]
    if wrong := len(found.get("rates") or ()) - len(rates):
        problems.append(f"{file}: {wrong:,} of its rates are none; {again(file)}")
    report.missing += [("Exchange rate", problem) for problem in problems]
    if not file.exists():
        report.missing.append(("Exchange rate", f"no {file}: `{report.command('exchange', *report.runs)}`"))
    pairs = [(key, "ctr/auc") for key in headline_keys(report) if key != "ctr/auc"]
    figures = [figure for x, y in pairs if (figure := _scatter(report, found, rates, x, y))]
    if not figures and not rates:
        return None
    lead = "" if rates else "The given runs alone: too few for a rate, and none is claimed."
    steer = found.get("steer_by")
    for downstream, choice in steer.items() if isinstance(steer, dict) else ():
        name = choice.get("intermediate") if isinstance(choice, dict) else choice
        sure = interval(choice.get("sure")) if isinstance(choice, dict) else None
        if name and downstream in ("ctr/auc", "ctr/auc@new"):
            lead += f"Steer {downstream} by {name}" + (f", chosen by {sure.estimate:.0%} of resamples" if sure else "")
            lead += ". "
    parts = [*([figures] if figures else []), *([_rates_table(rates)] if rates else [])]
    return Section("exchange", "What recall buys", lead, parts)


def _scatter(
    report: Report, found: Mapping[str, Any], rates: Sequence[Mapping[str, Any]], x_key: str, y_key: str
) -> Figure | None:
    """One downstream metric against one intermediate one, of the days that exchange.json is about."""
    valid = found.get("split") == "valid"
    days = "validation" if valid else "test"
    x, y = (str(replace(MetricKey.parse(key), split="valid" if valid else "test")) for key in (x_key, y_key))
    series = []
    for style, (name, points) in enumerate(_exchange_points(found, x_key, y_key).items()):
        series.append(PlotSeries(f"{name}, points", points, style=style + 1))
    by_data: dict[str, list[Evidence]] = {}
    for run in report.runs:
        if x in run.results and y in run.results:
            by_data.setdefault(run.dataset, []).append(run)
    for i, (dataset, runs) in enumerate(by_data.items()):
        measured = [None if valid else report.of(run).interval(y_key, run.application) for run in runs]
        series.append(
            PlotSeries(
                "runs" if len(by_data) == 1 else f"runs on data {dataset[:6]}",
                [(run.results[x], run.results[y]) for run in runs],
                [(each.low, each.high) if each else (math.nan, math.nan) for each in measured],
                style=0 if i == 0 else len(series) + 1,
                names=[run.label for run in runs],
            )
        )
    if sum(len(one.points) for one in series) < 2:
        return None
    slope = next((interval(r) for r in rates if r.get("intermediate") == x_key and r.get("downstream") == y_key), None)
    caption = "Validation days." if valid else "Test days; bars: 95\u00a0% over shoppers."
    if slope:
        series.append(_slope(series, slope))
        caption += (
            f" A gain of .10 in recall goes with {signed(slope.estimate / 10)} of AUC"
            f"{f' {within}, 95' + chr(0xA0) + '% over runs' if (within := ends(slope, 0.1, sign=True)) else ''}."
        )
    task = spoken(MetricKey.parse(x_key).task)
    about = f"Click AUC against recall@10 of {task}: " + "; ".join(
        f"{name} {x:.3f}, {y:.4f}" for one in series for (x, y), name in zip(one.points, one.names, strict=False)
    )
    axes = PlotAxis(f"recall@10, {task}, {days} days"), PlotAxis("click AUC")
    return Figure(f"Click AUC against {task} recall", xy(series, *axes, about), caption, legend(series))


def _exchange_points(found: Mapping[str, Any], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """Points of exchange.json by iteration."""
    points: dict[str, list[tuple[float, float]]] = {}
    for point in mappings(found.get("points")):
        values = point.get("metrics")
        a, b = (interval(values.get(key)) if isinstance(values, dict) else None for key in (x, y))
        if a and b:
            points.setdefault(str(point.get("iteration") or point.get("run")), []).append((a.estimate, b.estimate))
    if len(points) > TOLD_APART:
        return {f"{len(points)} iterations": [point for of_iteration in points.values() for point in of_iteration]}
    return points


def _slope(series: Sequence[PlotSeries], slope: Interval) -> PlotSeries:
    """A line of the rate's slope through the middle of all points."""
    points = np.array([point for one in series for point in one.points])
    middle = points.mean(axis=0)
    line = [
        (float(x), float(middle[1] + slope.estimate * (x - middle[0])))
        for x in (points[:, 0].min(), points[:, 0].max())
    ]
    return PlotSeries("exchange rate", line, style=5, line=True, marks=False)


def _rates_table(rates: Sequence[Mapping[str, Any]]) -> Table:
    """The candidates that predict each downstream metric best; more of them for the first, clicks."""
    groups: dict[str, list[tuple[str, list[TableCell]]]] = {}
    for rate in sorted(rates, key=_error):
        downstream = str(rate.get("downstream"))
        slope = interval(rate)
        if slope is None or len(groups.get(downstream, [])) >= (BEST if downstream == "ctr/auc" else FEW):
            continue
        values = [interval(rate.get(name)) for name in ("spearman", "loo_error")]
        cells = [TableCell(signed(slope.estimate), ends(slope, sign=True), surely(slope))]
        cells += [
            TableCell(number(v.estimate, 2 if i == 0 else 4)) if v else TableCell("") for i, v in enumerate(values)
        ]
        cells.append(TableCell(str(rate.get("points", ""))))
        groups.setdefault(downstream, []).append((str(rate.get("intermediate")), cells))
    return Table(
        "Exchange rates: change of the downstream metric per 1 of the intermediate one, with the 95 % interval of a "
        "bootstrap over runs; rank correlation; error on an iteration left out. Those of the lowest error; all stand "
        "in exchange.json",
        ["intermediate metric", "rate", "Spearman", "error", "points"],
        sorted(groups.items(), key=lambda group: (group[0] != "ctr/auc", group[0])),
    )


def _error(rate: Mapping[str, Any]) -> float:
    """By what rates are ranked: the error of the iteration left out, or else how weak the rank correlation is."""
    error, rank = interval(rate.get("loo_error")), interval(rate.get("spearman"))
    return error.estimate if error else 1 - abs(rank.estimate) if rank else math.inf


def scaling(report: Report) -> Section | None:
    """Every scale.json beside the runs."""
    figures: list[Figure] = []
    for file in sorted(report.beside.glob(f"*/{SCALE}")):
        problems: list[str] = []
        study = typed(file, mapping(file, problems), {"points": list, "more": list, "fit": dict}, problems)
        for part in [study, *mappings(study.get("more"))]:
            title = f"{study.get('study', file.parent.name)}: {part.get('metric', 'metric')}"
            points = part.get("points")
            if wrong := sum(not _is_point(point) for point in points) if isinstance(points, list) else 0:
                problems.append(f"{file}: {wrong:,} of its points are none; {again(file)}")
            with telling(problems.append):
                figures += _scaling_figures(title, part, study.get("units"))
        report.missing += [("Scaling", problem) for problem in problems]
    if not figures:
        report.missing.append(
            ("Scaling curves", f"no {report.beside}/*/scale.json with points: `moonlib scale --config STUDY`")
        )
        return None
    lead = "How far more of one thing carries; each point is a run of its own."
    return Section("scaling", "Scaling", lead, [figures])


def _is_point(point: object) -> bool:
    """Whether an entry of a study's points has its place and its value."""
    if not isinstance(point, dict) or not isinstance(point.get("x"), dict):
        return False
    return all(interval(value) for value in (*point["x"].values(), point.get("y")))


def _scaling_figures(title: str, study: Mapping[str, Any], units: Any) -> Iterator[Figure]:
    """A figure per axis of one metric of a study."""
    points = [point for point in mappings(study.get("points")) if isinstance(point.get("x"), dict)]
    metric = str(study.get("metric", "metric"))
    axes = list(dict.fromkeys(axis for point in points for axis in point["x"]))
    fit = study.get("fit")
    for axis in axes:
        seeds: dict[Any, list[tuple[float, float]]] = {}
        for point in points:
            x, y = interval(point["x"].get(axis)), interval(point.get("y"))
            if x and y:
                seeds.setdefault(point.get("seed"), []).append((x.estimate, y.estimate))
        series = [PlotSeries(f"seed {seed}", sorted(of), style=i) for i, (seed, of) in enumerate(seeds.items())]
        if not series:
            continue
        values = sorted(x for one in series for x, _ in one.points)
        log = values[0] > 0 and values[-1] / values[0] >= 4
        law = _law(fit, values, maximised=study.get("goal") == "max") if log and len(axes) == 1 else []
        if law:
            series.append(PlotSeries("fitted law", law, style=3, line=True, marks=False))
        about = f"{metric} against {axis}: " + "; ".join(
            f"{one.label} from {one.points[0][1]:.4f} at {one.points[0][0]:g} to {one.points[-1][1]:.4f} at "
            f"{one.points[-1][0]:g}"
            for one in series
        )
        unit = units.get(axis) if isinstance(units, dict) else None
        name = f"{axis}{f', {unit}' if unit else ''}{', log scale' if log else ''}"
        caption = str(fit.get("verdict") or "") if isinstance(fit, dict) else ""
        yield Figure(title, xy(series, PlotAxis(name, log=log), PlotAxis(metric), about), caption, legend(series))


def _law(fit: Any, values: Sequence[float], *, maximised: bool) -> list[tuple[float, float]]:
    """The fitted E + A·N^-alpha between the smallest and the largest point; of a metric to maximise, 1 less it."""
    parameters = fit.get("parameters") if isinstance(fit, dict) else None
    known = [interval(parameters.get(name)) for name in ("E", "A", "alpha")] if isinstance(parameters, dict) else [None]
    e, a, alpha = (each.estimate if each else math.nan for each in (*known, None, None)[:3])
    if not math.isfinite(e + a + alpha):
        return []
    x = np.geomspace(values[0], values[-1], 40)
    loss = e + a * x**-alpha
    return [(float(n), float(1 - y if maximised else y)) for n, y in zip(x, loss, strict=True)]
