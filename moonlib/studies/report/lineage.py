"""Which run came from which, and the changes of each iteration, in words and in its recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import yaml

from moonlib.config.recipe import diff
from moonlib.studies.report.drift import read_drift
from moonlib.studies.report.evidence import Evidence, interval
from moonlib.studies.report.figures import Figure, PlotAxis, PlotSeries, xy
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Card, Section, Table, TableCell
from moonlib.studies.report.stages import seconds_of
from moonlib.studies.report.words import brief, number, spoken


def lineage(report: Report) -> Section:
    """Runs that came from one another, and the changes of each iteration."""
    cards = []
    for run in report.runs:
        before = report.before(run)
        config = run.run.config
        changes = config.get("changes")
        table = None
        if before is not None:
            found = [change for change in diff(before.run.config, config) if not change[0].startswith("changes")]
            table = _differences(found, before, run)
        facts = f"data {run.dataset[:12] or 'unknown'}, {brief(config.get('data'))}; seed {config.get('seed', 0)}"
        if before is not None and report.previous(run) is None:
            facts += f". Other data than {before.label}: not compared with it"
        relaxed = [str(name) for name, stage in config["stages"].items() if _reads_train_days(stage)]
        if relaxed:
            facts += f". {', '.join(relaxed)}: reads searches of the days that the click model trains on (until: train)"
        if run.parents:
            facts += f". Came from {'; '.join(f'{parent} ({parent.how})' for parent in run.parents)}"
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
    for circle in report.descent.circles:
        names = [run.label for place in circle for run in report.runs if run.run.directory == place]
        problem = f"{' came from '.join([*names, names[0]])}: a circle, and so their order is the given one"
        report.missing.append(("Lineage", problem))
    parts: list[Any] = []
    if any(report.parent(run) for run in report.runs):
        lead = (
            "A line joins a run with the one that it continues, and parts where two continue the same. Below, what "
            "each changed, in words and in its recipe, against that run."
        )
        figures = [figure for figure in (*_metric_figures(report), _seconds_figure(report)) if figure]
        parts = [*([figures] if figures else []), _generations(report)]
    return Section("lineage", "Lineage", lead, [*parts, *cards])


def _lines(report: Report, values: Mapping[str, float]) -> list[PlotSeries]:
    """Lines through values of runs, from each run to those that continue it.

    Args:
        report: knows which run continues which.
        values: by the label of the run.

    Returns:
        A line along the first child of each run; a further child begins a line of its own, at its parent.
    """
    lines: list[list[Evidence]] = []
    for run in report.runs:
        if run.label not in values:
            continue
        parent = report.parent(run)
        line = next((line for line in lines if parent is not None and line[-1] is parent), None)
        if line is not None:
            line.append(run)
        else:
            lines.append([parent, run] if parent is not None and parent.label in values else [run])
    series = []
    for i, line in enumerate(lines):
        own = line[1:] if any(line[0] in other for other in lines[:i]) else line
        points = [(float(report.descent.depth(run.run.directory)), values[run.label]) for run in line]
        names = [run.label if run in own else "" for run in line]
        series.append(PlotSeries(line[-1].label, points, style=i, line=True, names=names))
    return series


def _generation_figure(
    report: Report, title: str, unit: str, values: Mapping[str, float], digits: int
) -> Figure | None:
    if len(values) < 2:
        return None
    about = f"{unit} of runs in the order of their descent: " + "; ".join(
        f"{label} {number(value, digits)}" for label, value in values.items()
    )
    return Figure(title, xy(_lines(report, values), PlotAxis("runs after the first"), PlotAxis(unit), about))


def _metric_figures(report: Report) -> list[Figure | None]:
    keys = dict.fromkeys(key for run in report.runs for key in run.legend.main(run.results))
    figures = []
    for key in keys:
        values = {run.label: run.results[key] for run in report.runs if key in run.results}
        task = spoken(report.legend.key(key).task)
        title = f"{task.capitalize() if task != 'ctr' else 'Clicks'}: {report.metric_name(key)}, run by run"
        figures.append(_generation_figure(report, title, f"{report.metric_name(key)}, test days", values, 3))
    return figures


def _seconds_figure(report: Report) -> Figure | None:
    return _generation_figure(report, "Time, run by run", "seconds", _seconds_spent(report), 1)


def _seconds_spent(report: Report) -> dict[str, float]:
    """Seconds that each run took, by its label; those of stages that a run before it had made are not counted."""
    found: dict[str, float] = {}
    seen: set[str] = set()
    for run in report.runs:
        places = {stage: os.path.realpath(run.run.directory / stage) for stage in run.costs}
        own = [run.costs[stage] for stage, place in places.items() if place not in seen]
        seen |= set(places.values())
        if run.costs:
            found[run.label] = sum(seconds_of(cost)[0] or 0.0 for cost in own)
    return found


def _generations(report: Report) -> Table:
    """A row per run: what it came from, its data, main results, time, and how far its vectors moved."""
    keys = list(dict.fromkeys(key for run in report.runs for key in run.legend.main(run.results)))
    spent = _seconds_spent(report)
    drifts = {run.label: _drift(report, run) for run in report.runs}
    rows = []
    for run in report.runs:
        parent, record = report.parent(run), run.record
        until = datetime.fromisoformat(record.data.until) if record and record.data.until else None
        moved = drifts[run.label]
        cells = [
            TableCell(parent.label if parent else "–"),
            TableCell(record.data.name if record else run.dataset[:12]),
            TableCell(f"{until - timedelta(microseconds=1):%Y-%m-%d}" if until else ""),
            *(TableCell(number(run.results.get(key)) or "–") for key in keys),
            TableCell(number(spent.get(run.label), 1)),
            *([TableCell(number(value, 3) or "–") for value in moved] if any(map(any, drifts.values())) else []),
        ]
        rows.append((run.label, cells))
    titles = [f"{spoken(report.legend.key(key).task)} {report.metric_name(key)}".strip() for key in keys]
    columns = ["run", "continues", "data", "last day", *titles, "seconds"]
    caption = "Runs in the order of their descent. Seconds: without stages that a run above had made"
    if any(map(any, drifts.values())):
        columns += ["same neighbours", "recall of new queries on old vectors, of that on new"]
        caption += ". Drift against the run that it continues, of products that both have (moonlib drift)"
    return Table(caption, columns, [("", rows)], texts=True)


def _drift(report: Report, run: Evidence) -> tuple[float | None, float | None]:
    """Overlap of neighbours with the run that a run continues, and the share of recall on its vectors, if measured."""
    parent = report.parent(run)
    file = None if parent is None else run.run.layout.drift(parent.run.name)
    if file is None or not os.path.lexists(file):
        return None, None
    found = read_drift(report, run, file)
    both = interval((found.get("everything") or {}).get("overlap")), interval(found.get("ratio"))
    overlap, ratio = (each.estimate if each else None for each in both)
    return overlap, ratio


def _reads_train_days(stage: Any) -> bool:
    data = stage.get("data") if isinstance(stage, dict) else None
    return isinstance(data, dict) and data.get("until") == "train"


def _differences(found: list[tuple[str, Any, Any]], before: Evidence, run: Evidence) -> Table:
    groups: dict[str, list[tuple[str, list[TableCell]]]] = {}
    for key, old, new in found:
        parts = key.split(".")
        group, rest = "", key
        if parts[0] == "stages" and len(parts) > 2:
            group, rest = parts[1], ".".join(parts[2:])
            if group not in before.run.config["stages"]:
                group += " (new stage)"
            elif group not in run.run.config["stages"]:
                group += " (no more)"
        short = rest.replace(".init_args", "").removesuffix(".class_path")
        groups.setdefault(group, []).append((short, [TableCell(brief(old)), TableCell(brief(new))]))
    return Table(
        f"Keys of the recipe that differ from {before.label}'s; init_args and class_path are left out",
        ["key", before.label, run.label],
        list(groups.items()),
        texts=True,
    )
