"""The parts of the report, from the verdict to the costs: plain values that the page's template lays out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from moonlib.metrics.bootstrap import Interval, resampled_auc
from moonlib.recipe import NOT_SET, RecipeError, diff
from moonlib.run import RunError
from moonlib.studies.paired import predictions, resampled_click_rates
from moonlib.studies.report.evidence import (
    SEARCH_TASKS,
    TITLES,
    Evidence,
    Measured,
    curve,
    interval,
    read_json,
)
from moonlib.studies.report.figures import Axis, Figure, Row, Series, forest, legend, swatch, xy
from moonlib.studies.report.parts import Card, Cell, Section, Table, Tile
from moonlib.studies.report.sheets import Sheet, sheets

NAMES = {
    "ctr/auc": "AUC",
    "ctr/gauc": "GAUC",
    "ctr/logloss": "log loss, nats",
    "ctr/ne": "NE",
    "ctr/pcoc": "PCOC",
    "ctr/ece": "ECE",
}
LOWER_IS_BETTER = ("logloss", "ne", "ece")
NO_DIRECTION = ("pcoc",)
SEGMENTS = {"": "all", "new": "new products", "tail": "tail products"}
CATEGORIES = 24
"""Most that a figure by category shows."""


@dataclass
class Report:
    """All that is told.

    Attributes:
        runs: in the order given.
        measured: by the hash of the dataset.
        beside: the directory where the studies' files lie: the parent of the first run.
        missing: what is not there, and how to get it.
    """

    runs: list[Evidence]
    measured: dict[str, Measured]
    beside: Path
    missing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def last(self) -> Evidence:
        """The run that the verdict is about."""
        return self.runs[-1]

    def previous(self, run: Evidence) -> Evidence | None:
        """The run before, if it is on the same data."""
        place = self.runs.index(run)
        before = self.runs[place - 1] if place else None
        return before if before and before.dataset and before.dataset == run.dataset else None

    def of(self, run: Evidence) -> Measured:
        """What was measured on the run's data."""
        return self.measured.get(run.dataset) or Measured()

    def command(self, verb: str, *runs: Evidence) -> str:
        """A command on runs, as it can be pasted."""
        return " ".join(["moonlib", verb, *(str(run.run.directory) for run in runs)])

    def peers(self) -> list[Evidence]:
        """The runs on the last run's data."""
        return [run for run in self.runs if run.dataset == self.last.dataset]


# --- words and numbers -----------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 4) -> str:
    """A value as text.

    Example:
        >>> number(-0.5), number(None), number(float("nan"))
        ('−0.5000', '', '')
    """
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """A difference as text, always with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def ends(found: Interval | None, scale: float = 1, digits: int = 4, *, sign: bool = False) -> str:
    """The ends of an interval as text; empty where there is none."""
    if found is None or not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ""
    low, high = ((signed if sign else number)(end * scale, digits) for end in (found.low, found.high))
    return f"[{low}, {high}]"


def tone(key: str, found: Interval | None) -> str:
    """Whether a difference is one for the better, by an interval that leaves out zero."""
    metric = key.rpartition("/")[2].partition("@")[0]
    if found is None or metric in NO_DIRECTION or not (found.low > 0 or found.high < 0):
        return ""
    return "better" if (found.low > 0) != (metric in LOWER_IS_BETTER) else "worse"


def metric_name(key: str) -> str:
    """What the tables call a metric.

    Example:
        >>> metric_name("ctr/auc"), metric_name("image_search/recall@10")
        ('AUC', 'recall@10')
    """
    return NAMES.get(key, key.partition("/")[2] or key)


def spoken(task: str) -> str:
    """``image search`` for ``image_search``."""
    return task.replace("_", " ")


# --- the verdict -----------------------------------------------------------------------------------------------------


def verdict(report: Report) -> tuple[str, list[Tile]]:
    """One sentence and a few numbers about the last run."""
    last, previous = report.last, report.previous(report.last)
    measured = report.of(last)
    tiles: list[Tile] = []
    words: list[str] = []
    key = next((f"{task}/recall@10" for task in SEARCH_TASKS if f"{task}/recall@10" in last.results), "")
    if key:
        own = measured.interval(key, last.represent)
        gain = measured.difference(key, last.represent, previous.represent if previous else None)
        what = spoken(key.partition("/")[0])
        tiles.append(
            Tile(
                f"{what.capitalize()}, recall@10",
                f"{number(100 * last.results[key], 1)} %",
                ends(own, 100, 1),
                _change(gain, previous, 100, 1, " points"),
                tone(key, gain),
                "of the searches that ended in an order show what was ordered among their first ten products",
            )
        )
        words.append(_verdict_word(what + " recall", key, gain))
    elif last.represent is None:
        report.missing.append(("Recall", f"{last.label} has no finished represent stage; {_continue(last)}"))
    if "ctr/auc" in last.results:
        own = measured.interval("ctr/auc", last.application)
        gain = measured.difference("ctr/auc", last.application, previous.application if previous else None)
        tiles.append(
            Tile(
                "Click model, AUC",
                number(last.results["ctr/auc"]),
                ends(own),
                _change(gain, previous, 1, 4, ""),
                tone("ctr/auc", gain),
                "chance that a clicked product is ranked above one that was not; 0.5 is guessing",
            )
        )
        words.append(_verdict_word("click AUC", "ctr/auc", gain))
        tiles += _share_tile(report)
    else:
        report.missing.append(("Click metrics", f"{last.label} has no finished application stage; {_continue(last)}"))
    tiles += _lift_tile(report)
    words = [word for word in words if word]
    if previous and words:
        sentence = f"Against {previous.label}, on the same test days: {' and '.join(words)}."
    elif previous:
        sentence = f"Against {previous.label}: nothing that both were measured on."
    elif len(report.runs) > 1:
        sentence = (
            f"The run before it, {report.runs[-2].label}, is on other data: the two are not compared. "
            "Give runs on the same data one after the other."
        )
    else:
        sentence = "One run: its numbers stand beside its baselines. Give the run before it too, and they are compared."
    return sentence, tiles


def _change(gain: Interval | None, previous: Evidence | None, scale: float, digits: int, unit: str) -> str:
    if gain is None or previous is None:
        return ""
    return (
        f"{signed(gain.estimate * scale, digits)}{unit} {ends(gain, scale, digits, sign=True)} against {previous.label}"
    )


def _verdict_word(what: str, key: str, gain: Interval | None) -> str:
    if gain is None:
        return ""
    return f"{what} {'is ' + tone(key, gain) if tone(key, gain) else 'shows no difference'}"


def _share_tile(report: Report) -> list[Tile]:
    last = report.last
    base, top = (last.reference("application", prefix) for prefix in ("baseline", "oracle"))
    share = report.of(last).share("ctr/auc", last.application, base, top)
    if base is None or top is None:
        report.missing.append(("Share of the gap", "only a simulated data set has an oracle to compare with"))
    if share is None or not math.isfinite(share.estimate):
        return []
    return [
        Tile(
            "Share of the gap",
            f"{number(100 * share.estimate, 0)} %",
            ends(share, 100, 0),
            "",
            "",
            "of the AUC between a click model of ids alone and one that knows the true attributes of every product",
        )
    ]


def _lift_tile(report: Report) -> list[Tile]:
    last = report.last
    tests = abtests(last)
    if not tests:
        return []
    previous = report.previous(last)
    test = next((t for t in tests if previous and t.base == previous.run.name), tests[0])
    lift = test.lifts.get("all") or next(iter(test.lifts.values()), None)
    if lift is None:
        return []
    sign = "better" if lift.low > 0 else "worse" if lift.high < 0 else ""
    share = test.share.get("all")
    reached = f"; {number(100 * share.estimate, 0)} % of the oracle's" if share else ""
    return [
        Tile(
            "Simulated A/B, click rate",
            f"{signed(100 * lift.estimate, 1)} %",
            ends(lift, 100, 1, sign=True),
            f"against {test.base}{reached}",
            sign,
            "more clicks when simulated shoppers see this run's ranking",
        )
    ]


def _continue(run: Evidence) -> str:
    return run.run._command + " continues the run"


# --- lineage ---------------------------------------------------------------------------------------------------------


def lineage(report: Report) -> Section:
    """What each iteration changed."""
    cards = []
    for i, run in enumerate(report.runs):
        before = report.runs[i - 1] if i else None
        config = run.run.config
        changes = config.get("changes")
        table = None
        if before is not None:
            found = [change for change in diff(before.run.config, config) if not change[0].startswith("changes")]
            table = _differences(found, before, run)
        facts = f"data {run.dataset[:12] or 'unknown'}, {_data(config.get('data'))}; seed {config.get('seed', 0)}"
        if before is not None and report.previous(run) is None:
            facts += f". Other data than {before.label}: not compared with it"
        relaxed = [name for name, stage in config["stages"].items() if _reads_train_days(stage)]
        if relaxed:
            facts += f". {', '.join(relaxed)}: reads searches of the days that the click model trains on (until: train)"
        cards.append(
            Card(
                run.label,
                facts + ".",
                [(str(key), str(value)) for key, value in changes.items()] if isinstance(changes, dict) else [],
                table,
                before.label if before else "",
                yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
            )
        )
    lead = "What each iteration changed, in words and in its recipe, against the run before it."
    return Section("lineage", "Lineage", lead, cards)


def _reads_train_days(stage: Any) -> bool:
    data = stage.get("data") if isinstance(stage, dict) else None
    return isinstance(data, dict) and data.get("until") == "train"


def _data(section: Any) -> str:
    return brief(section)


def _differences(found: list[tuple[str, Any, Any]], before: Evidence, run: Evidence) -> Table:
    groups: dict[str, list[tuple[str, list[Cell]]]] = {}
    for key, old, new in found:
        parts = key.split(".")
        group, rest = "", key
        if parts[0] == "stages" and len(parts) > 2:
            group, rest = parts[1], ".".join(parts[2:])
            if group not in before.run.config["stages"]:
                group += " (new stage)"
            elif group not in run.run.config["stages"]:
                group += " (no more)"
        groups.setdefault(group, []).append((rest, [Cell(brief(old)), Cell(brief(new))]))
    return Table(
        f"Keys of the recipe that differ from {before.label}'s",
        ["key", before.label, run.label],
        list(groups.items()),
        texts=True,
    )


def brief(value: Any) -> str:
    """A value of a recipe in a few words: components by the name of their class, with their arguments.

    Example:
        >>> brief([{"class_path": "moonlib.negatives.mined.Mined", "init_args": {"margin": 0.1}}, "x.Queue"])
        '[Mined(margin=0.1), x.Queue]'
    """
    if value == NOT_SET:
        return "–"
    if isinstance(value, dict) and "class_path" in value:
        arguments = value.get("init_args") or {}
        name = str(value["class_path"]).rpartition(".")[2]
        return name + (f"({', '.join(f'{k}={brief(v)}' for k, v in arguments.items())})" if arguments else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {brief(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(brief, value)) + "]"
    if isinstance(value, str) and value.startswith("moonlib."):
        return value.rpartition(".")[2]
    return (
        str(value)
        if not isinstance(value, bool) and value is not None
        else {None: "null"}.get(value, str(value).lower())
    )  # type: ignore[call-overload]


# --- metrics ---------------------------------------------------------------------------------------------------------


def metrics(report: Report) -> Section:
    """Every metric of the test days, with intervals and the change against the run before."""
    section = Section(
        "metrics",
        "Metrics",
        "Test days. Below a value: its change against the run before it on the same data, with the 95 % interval of "
        "a paired bootstrap over shoppers. ▲ better and ▼ worse where that interval leaves out zero.",
    )
    figures = [found for found in (_standing(report, key) for key in _headline_keys(report)) if found]
    if figures:
        section.parts.append(figures)
    tasks = dict.fromkeys(
        key.partition("/")[0]
        for run in report.runs
        for key in run.results
        if not key.startswith(("valid/", *(f"{prefix}/" for prefix in TITLES)))
    )
    known = [task for task in ("image_search", "text_search", "ctr") if task in tasks]
    for task in [*known, *(task for task in tasks if task not in known)]:
        section.parts.append(_metric_table(report, task))
    return section


def _headline_keys(report: Report) -> Iterator[str]:
    for key in (*(f"{task}/recall@10" for task in SEARCH_TASKS), "ctr/auc"):
        if key in report.last.results:
            yield key


def _kind(key: str) -> str:
    return "application" if key.startswith("ctr/") else "represent"


def _stage(run: Evidence, key: str) -> Path | None:
    return run.application if key.startswith("ctr/") else run.represent


def _standing(report: Report, key: str) -> Figure | None:
    """The runs on the last run's data between their baselines and their upper bounds."""
    last, measured = report.last, report.of(report.last)
    rows = []
    for prefix, title in TITLES.items():
        if (value := last.results.get(f"{prefix}/{key}")) is not None:
            found = measured.interval(key, last.reference(_kind(key), prefix))
            rows.append((value, Row(title, found or _bare(value), number(value, 3), style=3)))
    for run in report.peers():
        if (value := run.results.get(key)) is not None:
            found = measured.interval(key, _stage(run, key))
            rows.append((value, Row(run.label, found or _bare(value), number(value, 3), style=0)))
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: row[0])
    task = spoken(key.partition("/")[0])
    unit = f"{metric_name(key)}, {task if task != 'ctr' else 'clicks'}, test days"
    about = f"{unit}, ascending: " + "; ".join(f"{row.label} {row.text}" for _, row in rows)
    legend = [(swatch(0), "runs"), (swatch(3), "baselines and upper bounds")]
    caption = "With 95 % intervals over shoppers, where rows were kept. Oracle and baselines are the last run's."
    return Figure(
        f"{task.capitalize() if task != 'ctr' else 'Clicks'}: {metric_name(key)}",
        forest([row for _, row in rows], Axis(unit), about),
        caption,
        legend,
    )


def _bare(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)


def _metric_table(report: Report, task: str) -> Table:
    """A row per metric and segment, a column per run, and the last run's references."""
    keys = dict.fromkeys(key for run in report.runs for key in run.results if key.startswith(f"{task}/"))
    segments: dict[str, list[str]] = {}
    for key in sorted(keys, key=_order):
        segments.setdefault(_segment(key, keys), []).append(key)
    last = report.last
    beside = [prefix for prefix in TITLES if any(f"{prefix}/{key}" in last.results for key in keys)]
    groups = []
    for segment, of_segment in segments.items():
        rows = []
        for key in of_segment:
            cells = [_metric_cell(report, run, key) for run in report.runs]
            cells += [Cell(number(last.results.get(f"{prefix}/{key}"))) for prefix in beside]
            base = key.removesuffix(f"@{segment}") if segment else key
            rows.append((metric_name(base), cells))
        groups.append((SEGMENTS.get(segment, segment), rows))
    name = {"ctr": "Clicks"}.get(task, spoken(task).capitalize())
    measured = any(key in report.of(run) for run in report.runs for key in keys)
    caption = f"{name}, test days"
    if not measured:
        caption += "; no intervals, which need the rows that searches.parquet and predictions.parquet keep"
    elif task == "ctr":
        caption += "; of log loss, NE and ECE less is better, PCOC is best at 1"
    if beside:
        caption += f"; {', '.join(TITLES[prefix] for prefix in beside)}: of {last.label}"
    return Table(caption, ["", *(run.label for run in report.runs), *(TITLES[p] for p in beside)], groups)


def _metric_cell(report: Report, run: Evidence, key: str) -> Cell:
    value = run.results.get(key)
    if value is None:
        return Cell("")
    measured, previous = report.of(run), report.previous(run)
    gain = measured.difference(key, _stage(run, key), _stage(previous, key)) if previous else None
    if gain is None:
        own = measured.interval(key, _stage(run, key))
        return Cell(number(value), ends(own))
    return Cell(number(value), f"{signed(gain.estimate)} {ends(gain, sign=True)}", tone(key, gain))


def _segment(key: str, keys: Iterable[str]) -> str:
    base, _, segment = key.rpartition("@")
    return segment if base in keys else ""


def _order(key: str) -> tuple[int, str]:
    names = list(NAMES)
    base = key.partition("@")[0]
    return (names.index(base) if base in names else len(names), key if base not in names else key.partition("@")[2])


# --- recall against AUC ----------------------------------------------------------------------------------------------


def exchange(report: Report) -> Section | None:
    """Recall against AUC over the runs, and over checkpoints where exchange.json has them."""
    problems: list[str] = []
    file = report.beside / "exchange.json"
    found = read_json(file, problems)
    report.missing += [("Exchange rate", problem) for problem in problems]
    found = found if isinstance(found, dict) else {}
    x_key = next(_headline_keys(report), "")
    y_key = "ctr/auc"
    series = []
    for style, (name, points) in enumerate(_exchange_points(found, x_key, y_key).items()):
        series.append(Series(f"{name}, checkpoints", points, style=style + 1))
    if not found:
        report.missing.append(("Exchange rate", f"no {file}: `{report.command('exchange', *report.runs)}`"))
    by_data: dict[str, list[Evidence]] = {}
    for run in report.runs:
        if x_key in run.results and y_key in run.results:
            by_data.setdefault(run.dataset, []).append(run)
    for i, (dataset, runs) in enumerate(by_data.items()):
        measured = [report.of(run).interval(y_key, run.application) for run in runs]
        series.append(
            Series(
                "runs" if len(by_data) == 1 else f"runs on data {dataset[:6]}",
                [(run.results[x_key], run.results[y_key]) for run in runs],
                [(each.low, each.high) if each else (math.nan, math.nan) for each in measured],
                style=0 if i == 0 else len(series) + 1,
                names=[run.label for run in runs],
            )
        )
    rates = [rate for rate in found.get("rates", []) if isinstance(rate, dict)] if found else []
    if not x_key or sum(len(one.points) for one in series) < 2:
        return None
    rate = next((r for r in rates if r.get("intermediate") == x_key and r.get("downstream") == y_key), None)
    slope = interval(rate)
    axis_x, axis_y = Axis(f"{spoken(x_key.partition('/')[0])} recall@10"), Axis("click AUC")
    if slope:
        series.append(_slope(series, slope))
        words = (
            f"Over all points, .10 of recall@10 goes with {signed(slope.estimate / 10)} of AUC "
            f"{ends(slope, 0.1, sign=True)}, 95 % over runs."
        )
    else:
        words = "The given runs alone; too few for a rate, and none is claimed."
    about = f"Click AUC against {axis_x.label}: " + "; ".join(
        f"{name} {x:.3f}, {y:.4f}" for one in series for (x, y), name in zip(one.points, one.names, strict=False)
    )
    section = Section("exchange", "What recall buys", words)
    section.parts.append(
        [
            Figure(
                "Click AUC against recall",
                xy(series, axis_x, axis_y, about),
                "Bars: 95 % over shoppers.",
                legend(series),
            )
        ]
    )
    if rates:
        section.parts.append(_rates_table(rates))
    steer = found.get("steer_by")
    if isinstance(steer, dict):
        for downstream, choice in steer.items():
            name = choice.get("intermediate") or choice.get("metric") if isinstance(choice, dict) else choice
            if name:
                section.lead += f" To steer {metric_name(str(downstream))} by: {name}."
    return section


def _exchange_points(found: Mapping[str, Any], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """Points of exchange.json by iteration."""
    points: dict[str, list[tuple[float, float]]] = {}
    for point in found.get("points", []):
        values = point.get("metrics", {}) if isinstance(point, dict) else {}
        a, b = (interval(values.get(key)) for key in (x, y)) if isinstance(values, dict) else (None, None)
        if a and b:
            points.setdefault(str(point.get("iteration") or point.get("run")), []).append((a.estimate, b.estimate))
    return points


def _slope(series: Sequence[Series], slope: Interval) -> Series:
    """A line of the rate's slope through the middle of all points."""
    points = np.array([point for one in series for point in one.points])
    middle = points.mean(axis=0)
    line = [
        (float(x), float(middle[1] + slope.estimate * (x - middle[0])))
        for x in (points[:, 0].min(), points[:, 0].max())
    ]
    return Series("exchange rate", line, style=5, line=True, marks=False)


def _rates_table(rates: Sequence[Mapping[str, Any]]) -> Table:
    groups: dict[str, list[tuple[str, list[Cell]]]] = {}
    for rate in rates:
        slope = interval(rate)
        if slope is None:
            continue
        values = [interval(rate.get(name)) for name in ("spearman", "loo_error")]
        cells = [Cell(signed(slope.estimate), ends(slope, sign=True), _sign(slope))]
        cells += [Cell(number(v.estimate, 2 if i == 0 else 4)) if v else Cell("") for i, v in enumerate(values)]
        cells.append(Cell(str(rate.get("points", ""))))
        groups.setdefault(str(rate.get("downstream")), []).append((str(rate.get("intermediate")), cells))
    return Table(
        "Exchange rates: change of the downstream metric per 1 of the intermediate one, with the 95 % interval of a "
        "bootstrap over runs; rank correlation; error on an iteration left out",
        ["intermediate metric", "rate", "Spearman", "error", "points"],
        list(groups.items()),
    )


def _sign(found: Interval) -> str:
    return "better" if found.low > 0 else "worse" if found.high < 0 else ""


# --- scaling ---------------------------------------------------------------------------------------------------------


def scaling(report: Report) -> Section | None:
    """Every scale.json beside the runs."""
    figures: list[Figure] = []
    for file in sorted(report.beside.glob("*/scale.json")):
        problems: list[str] = []
        study = read_json(file, problems)
        report.missing += [("Scaling", problem) for problem in problems]
        if isinstance(study, dict):
            figures += _scaling_figures(study, file.parent.name)
    if not figures:
        report.missing.append(("Scaling curves", f"no {report.beside}/*/scale.json: `moonlib scale --config STUDY`"))
        return None
    return Section(
        "scaling", "Scaling", "How far more of one thing carries; each point is a run of its own.", [figures]
    )


def _scaling_figures(study: Mapping[str, Any], folder: str) -> Iterator[Figure]:
    points = [
        point for point in study.get("points", []) if isinstance(point, dict) and isinstance(point.get("x"), dict)
    ]
    metric = str(study.get("metric", "metric"))
    axes = list(dict.fromkeys(axis for point in points for axis in point["x"]))
    fit = study.get("fit") if isinstance(study.get("fit"), dict) else {}
    assert isinstance(fit, dict)
    for axis in axes:
        series = []
        seeds: dict[Any, list[tuple[float, float]]] = {}
        for point in points:
            x, y = interval(point["x"].get(axis)), interval(point.get("y"))
            if x and y:
                seeds.setdefault(point.get("seed"), []).append((x.estimate, y.estimate))
        for style, (seed, of_seed) in enumerate(seeds.items()):
            series.append(Series(f"seed {seed}", sorted(of_seed), style=style, line=len(axes) == 1))
        if not series:
            continue
        values = [x for one in series for x, _ in one.points]
        log = min(values) > 0 and max(values) / min(values) >= 4
        about = f"{metric} against {axis}: " + "; ".join(
            f"{one.label} from {one.points[0][1]:.4f} at {one.points[0][0]:g} to {one.points[-1][1]:.4f} at "
            f"{one.points[-1][0]:g}"
            for one in series
        )
        caption = str(fit.get("verdict") or "")
        yield Figure(
            f"{study.get('study', folder)}: {metric}",
            xy(series, Axis(str(axis) + (", log scale" if log else ""), log=log), Axis(metric), about),
            caption,
            legend(series),
        )


# --- training --------------------------------------------------------------------------------------------------------


def training(report: Report) -> Section | None:
    """The curves of every stage that trained."""
    by_stage: dict[str, dict[Path, tuple[list[str], dict[str, list[tuple[float, float]]]]]] = {}
    for run in report.runs:
        for name, stage in run.stages.items():
            if curves := curve(stage / "csv" / "metrics.csv"):
                of_stage = by_stage.setdefault(name, {})
                of_stage.setdefault(stage.resolve(), ([], curves))[0].append(run.label)
    figures = []
    for name, stages in by_stage.items():
        for column in dict.fromkeys(column for _, curves in stages.values() for column in curves):
            series = [
                Series(", ".join(labels), curves[column], style=i, line=True, marks=len(curves[column]) < 12)
                for i, (labels, curves) in enumerate(stages.values())
                if column in curves
            ]
            unit = "training loss" if column == "loss" else column
            about = f"{unit} of stage {name}: " + "; ".join(
                f"{one.label} from {one.points[0][1]:.3f} to {one.points[-1][1]:.3f} in {one.points[-1][0]:.0f} steps"
                for one in series
            )
            figures.append(
                Figure(f"{name}: {unit}", xy(series, Axis("optimizer steps"), Axis(unit), about), "", legend(series))
            )
    if not figures:
        report.missing.append(("Training curves", "no stage kept a csv/metrics.csv: give its trainer no other logger"))
        return None
    lead = "Loss of the logged steps, in nats for InfoNCE and for clicks. Runs that share a stage share its curve."
    return Section("training", "Training", lead, [figures])


# --- calibration and categories --------------------------------------------------------------------------------------


def calibration(report: Report) -> Section | None:
    """What was promised and what was clicked, of the last run and of the one before."""
    last, previous = report.last, report.previous(report.last)
    series = []
    for run, style in ((previous, 1), (last, 0)):
        if run is None or run.application is None:
            continue
        rows = predictions(run.application)
        found = resampled_click_rates(
            rows["probability"].to_numpy(), rows["clicked"].to_numpy(), rows["user_id"].to_numpy(), bins=12
        )
        points = [(promised, rate.estimate) for promised, rate in found]
        series.append(Series(run.label, points, [(r.low, r.high) for _, r in found], style=style, line=True))
    if not series:
        return None
    about = "Click rate against predicted probability, in bins of equal mass: " + "; ".join(
        f"{one.label} promises {one.points[-1][0]:.3f} in its last bin, where {one.points[-1][1]:.3f} are clicked"
        for one in series
        if one.points
    )
    axes = Axis("mean predicted probability of a click"), Axis("click rate")
    caption = "12 bins of equal mass with 95 % intervals over shoppers. On the dashed line, promises are kept."
    figure = Figure("Calibration, test days", xy(series, *axes, about, diagonal=True), caption, legend(series))
    lead = "Whether a predicted probability is the share that is clicked, which bidding depends on."
    return Section("calibration", "Calibration", lead, [[figure]])


def categories(report: Report) -> Section | None:
    """Difference of AUC by category, against the run before and against ids alone."""
    last, previous = report.last, report.previous(report.last)
    base = last.reference("application", "baseline")
    others = [(f"against {previous.label}", previous.application)] if previous and previous.application else []
    others += [("against id only", base)] if base else []
    if last.application is None or not others:
        return None
    try:
        products = last.run.dataset().table("products", ("item_id", "category"))
    except (RunError, ValueError, OSError) as error:
        report.missing.append(("Categories", str(error)))
        return None
    table = predictions(last.application).join(products, on="item_id", how="left", maintain_order="left")
    others = [(title, place, predictions(place)) for title, place in others]
    keys = ["search_id", "item_id", "clicked"]
    others = [other for other in others if other[2].select(keys).equals(table.select(keys))]
    if not others:
        return None
    table = table.with_columns(
        *(other[2]["probability"].alias(f"other{i}") for i, other in enumerate(others)), level=_level(table["category"])
    )
    sizes = table.group_by("level").agg(pl.len(), pl.col("clicked").sum()).drop_nulls("level")
    shown = sizes.sort(["len", "level"], descending=[True, False]).head(CATEGORIES)["level"].to_list()
    rows, cells = [], []
    for (level,), part in sorted(table.partition_by("level", as_dict=True).items(), key=lambda item: str(item[0][0])):
        if level not in shown or part["clicked"].n_unique() < 2:
            continue
        names = ["probability", *(f"other{i}" for i in range(len(others)))]
        scores = np.stack([part[name].to_numpy() for name in names])
        found = resampled_auc(scores, part["clicked"].to_numpy(), part["user_id"].to_numpy())
        gains = [found.difference(0, i + 1) for i in range(len(others))]
        rows.append(Row(str(level), gains[0], "", style=0, beside=gains[1] if len(gains) > 1 else None))
        own = found.interval(0)
        cells.append(
            (
                str(level),
                [
                    Cell(f"{len(part):,}"),
                    Cell(number(100 * part["clicked"].mean(), 1)),  # type: ignore[operator,arg-type]
                    Cell(number(own.estimate), ends(own)),
                    *(Cell(signed(gain.estimate), ends(gain, sign=True), tone("auc", gain)) for gain in gains),
                ],
            )
        )
    if not rows:
        return None
    order = sorted(range(len(rows)), key=lambda i: -rows[i].value.estimate)
    rows, cells = [rows[i] for i in order], [cells[i] for i in order]
    about = f"Difference of AUC by category, {others[0][0]}: " + "; ".join(
        f"{row.label} {signed(row.value.estimate, 3)}" for row in rows
    )
    figure = Figure(
        "Click AUC by category",
        forest(rows, Axis("difference of AUC, test days"), about, zero=0.0),
        "95 % intervals over shoppers.",
        [(swatch(0), others[0][0]), *([(swatch(1, hollow=True), others[1][0])] if len(others) > 1 else [])],
    )
    numbers = Table(
        f"{last.label} by category, test days",
        ["category", "impressions", "clicked, %", "AUC", *(title for title, *_ in others)],
        [("", cells)],
    )
    left = len(sizes) - len(rows)
    lead = "Where the gain comes from." + (f" {left} smaller or one-sided categories are left out." if left > 0 else "")
    return Section("categories", "Categories", lead, [[figure], numbers])


def _level(category: pl.Series) -> pl.Series:
    """The deepest level of the category paths that has few enough values for a figure; else the first level."""
    paths = category.unique().drop_nulls().to_list()
    depth = max((path.count("/") + 1 for path in paths), default=1)
    for level in range(depth, 1, -1):
        if len({"/".join(path.split("/")[:level]) for path in paths}) <= CATEGORIES:
            break
    else:
        level = 1
    return category.str.split("/").list.head(level).list.join("/")


# --- A/B -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ABTest:
    """What `moonlib abtest` found: relative lifts of the click rate, 0.2 for 20 %.

    Attributes:
        base: name of the run that it is compared with.
        users: how many shoppers; None if unknown.
        lifts: by segment.
        oracle: the lift of the oracle's ranking, by segment.
        share: share of the oracle's lift, by segment.
    """

    base: str
    users: int | None
    lifts: dict[str, Interval]
    oracle: dict[str, Interval]
    share: dict[str, Interval]


def abtests(run: Evidence) -> list[ABTest]:
    """What RUN/abtest holds, by the name of the base."""
    found = []
    for file in sorted((run.run.directory / "abtest").glob("*.json")):
        test = read_json(file, run.problems)
        if not isinstance(test, dict):
            continue
        parts = [
            {str(key): each for key, value in part.items() if (each := interval(value))}
            if isinstance(part, dict)
            else {}
            for part in (test.get("lifts"), test.get("oracle"), test.get("share_of_oracle"))
        ]
        users = test.get("users")
        base = Path(str(test.get("base", file.stem))).name
        found.append(ABTest(base, users if isinstance(users, int) else None, *parts))
    return found


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
                    f"{signed(100 * lift.estimate, 1)} %",
                    0,
                    _percent(test.oracle.get(segment)),
                )
                for segment, lift in test.lifts.items()
            ]
            who = f", {test.users:,} shoppers" if test.users else ""
            about = f"Lift of {run.label} over {test.base}: " + "; ".join(f"{row.label} {row.text}" for row in rows)
            marks = [(swatch(0), run.label)] + ([(swatch(1, hollow=True), "oracle")] if test.oracle else [])
            figures.append(
                Figure(
                    f"{run.label} against {test.base}",
                    forest(rows, Axis("lift, %"), about, zero=0.0),
                    f"95 % intervals over shoppers{who}.",
                    marks,
                )
            )
            cells = [
                (
                    segment,
                    [
                        Cell(f"{signed(100 * lift.estimate, 2)} %", ends(lift, 100, 2, sign=True), _sign(lift)),
                        *(
                            Cell(f"{form(100 * each.estimate, 1)} %", ends(each, 100, 1)) if each else Cell("")
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
        report.missing.append(("Simulated A/B", f"no {report.last.run.directory}/abtest/*.json: `{words}`"))
        return None
    lead = (
        "Both click models rank the same candidates for the same requests of the test days, and the simulation's "
        "shoppers click. A lift is relative: +1 % is 1.01 times the clicks."
    )
    return Section("abtest", "Simulated A/B", lead, [figures, *tables])


def _percent(found: Interval | None) -> Interval | None:
    return found and Interval(100 * found.estimate, 100 * found.low, 100 * found.high)  # type: ignore[return-value]


# --- retrieval -------------------------------------------------------------------------------------------------------


def retrieval(report: Report) -> Section | None:
    """Contact sheets of the last run, and of every run that can be compared."""
    found: list[Sheet] = []
    for run in report.runs:
        previous = report.previous(run)
        if run.represent is None or (previous is None and run is not report.last):
            continue
        try:
            drawn = sheets(run, previous)
        except (RunError, RecipeError, ValueError, OSError, KeyError) as error:
            report.missing.append((f"Pictures of {run.label}", str(error)))
            continue
        found += drawn if run is report.last else drawn[1:]
    found = [sheet for sheet in found if sheet.searches]
    if not found:
        return None
    lead = (
        "What was searched with, and the ten products that come first; a thick frame and a tick mark what was ordered, "
        "or another variant of it. Which searches are shown follows from their ids alone."
    )
    return Section("retrieval", "Retrieval", lead, list(found))


# --- filters, quarantine, costs --------------------------------------------------------------------------------------


def data(report: Report) -> Section:
    """What filters removed and what could not be read."""
    rows: dict[str, list[tuple[str, list[Cell]]]] = {}
    unread: dict[str, list[tuple[str, list[Cell]]]] = {}
    seen: set[Path] = set()
    for run in report.runs:
        places = {entry.name: entry for entry in sorted(run.run.directory.iterdir()) if entry.is_dir()}
        for name in [*run.stages, *(name for name in places if name not in run.stages)]:
            stage = places.get(name)
            if stage is None or stage.resolve() in seen:
                continue
            seen.add(stage.resolve())
            for each in read_json(stage / "filters.json", run.problems) or []:
                rows.setdefault(run.label, []).extend(_filter_rows(name, each))
            lines = stage / "quarantine.jsonl"
            if lines.is_file() and (count := sum(bool(line.strip()) for line in lines.open(encoding="utf-8"))):
                unread.setdefault(run.label, []).append((name, [Cell(f"{count:,}"), Cell(str(lines))]))
    section = Section("data", "Filters and quarantine")
    words = []
    if rows:
        columns = ["stage: filter", "table", "rows in", "rows out", "removed, %", "why"]
        section.parts.append(Table("What filters removed of the training data", columns, list(rows.items())))
    else:
        words.append("No filter removed anything from the training data of these runs.")
    if unread:
        columns = ["stage", "unreadable", "file"]
        section.parts.append(Table("Samples that could not be read", columns, list(unread.items())))
    else:
        words.append("No sample was unreadable.")
    section.lead = " ".join(words)
    return section


def _filter_rows(stage: str, found: Any) -> Iterator[tuple[str, list[Cell]]]:
    if not isinstance(found, dict):
        return
    name = str(found.get("filter", "filter")).rpartition(".")[2]
    tables = found.get("tables")
    changed = {
        table: counts
        for table, counts in (tables.items() if isinstance(tables, dict) else ())
        if isinstance(counts, dict) and counts.get("in") != counts.get("out")
    }
    if not changed:
        yield f"{stage}: {name}", [Cell("none"), Cell(""), Cell(""), Cell("0.0"), Cell("")]
    for table, counts in changed.items():
        before, after = int(counts.get("in") or 0), int(counts.get("out") or 0)
        why = "; ".join(f"{reason}: {count:,}" for reason, count in (counts.get("removed") or {}).items())
        share = 100 * (before - after) / before if before else 0.0
        cells = [Cell(str(table)), Cell(f"{before:,}"), Cell(f"{after:,}"), Cell(number(share, 1)), Cell(why)]
        yield f"{stage}: {name}", cells


def costs(report: Report) -> Section | None:
    """Seconds and memory of every stage."""
    stages = list(dict.fromkeys(stage for run in report.runs for stage in run.costs))
    if not stages:
        report.missing.append(("Costs", f"no costs.json; {_continue(report.last)}"))
        return None
    rows = []
    for stage in stages:
        cells = []
        for run in report.runs:
            cost = run.costs.get(stage)
            if not isinstance(cost, dict):
                cells.append(Cell(""))
                continue
            seconds, shared = _seconds(cost)
            cells.append(Cell(number(seconds, 1), "taken over" if shared else ""))
        rows.append((stage, cells))
    total = [sum(_seconds(cost)[0] or 0.0 for cost in run.costs.values()) for run in report.runs]
    peak = [[float(cost["peak_gb"]) for cost in run.costs.values() if "peak_gb" in cost] for run in report.runs]
    ends_ = [
        ("total, s", [Cell(number(value, 1)) for value in total]),
        ("peak memory, GB", [Cell(number(max(values), 2) if values else "") for values in peak]),
    ]
    caption = (
        "Seconds of each stage, and the run's peak memory. Of a stage that another run had finished: what it took then"
    )
    table = Table(caption, ["stage", *(run.label for run in report.runs)], [("", rows), ("in all", ends_)])
    return Section("costs", "Costs", "", [table])


def _seconds(cost: Mapping[str, Any]) -> tuple[float | None, bool]:
    """What a stage took when it ran, and whether that was in another run."""
    if not cost.get("reused"):
        return _float(cost.get("seconds")), False
    first = cost.get("first_run")
    return _float(first.get("seconds")) if isinstance(first, dict) else None, True


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def sections(report: Report) -> list[Section]:
    """All sections that there is something to say in, in their order."""
    found = [
        metrics(report),
        lineage(report),
        abtest(report),
        exchange(report),
        scaling(report),
        retrieval(report),
        categories(report),
        calibration(report),
        training(report),
        data(report),
        costs(report),
    ]
    return [section for section in found if section]
