"""Files of stages beside their results: training curves, filters, quarantine, costs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonlib.artifacts.checksums import again
from moonlib.artifacts.layout import FILTERS, LOG, QUARANTINE, is_finished
from moonlib.artifacts.reading import Unreadable, reading
from moonlib.data.quarantine import Quarantine
from moonlib.studies.report.evidence import content, curve, telling
from moonlib.studies.report.figures import Figure, PlotAxis, PlotSeries, legend, xy
from moonlib.studies.report.inputs import Report, continued
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import (
    number,
)


def training(report: Report) -> Section | None:
    """The curves of every stage that trained."""
    by_stage: dict[str, dict[Path, tuple[list[str], dict[str, list[tuple[float, float]]]]]] = {}
    for run in report.runs:
        for name, stage in run.stages.items():
            curves: dict[str, list[tuple[float, float]]] = {}
            if os.path.lexists(log := stage / LOG):
                with telling(run.problems.append):
                    curves = curve(log)
            if curves:
                of_stage = by_stage.setdefault(name, {})
                of_stage.setdefault(stage.resolve(), ([], curves))[0].append(run.label)
    styles = {run.label: i for i, run in enumerate(report.runs[::-1])}
    figures = []
    for name, stages in by_stage.items():
        for column in dict.fromkeys(column for _, curves in stages.values() for column in curves):
            series = [
                PlotSeries(
                    ", ".join(names), curves[column], style=styles[names[-1]], line=True, marks=len(curves[column]) < 9
                )
                for names, curves in stages.values()
                if column in curves
            ]
            unit = "training loss" if column == "loss" else column
            about = f"{unit} of stage {name}: " + "; ".join(
                f"{one.label} from {one.points[0][1]:.3f} to {one.points[-1][1]:.3f} in {one.points[-1][0]:.0f} steps"
                for one in series
            )
            figures.append(
                Figure(
                    f"{name}: {unit}",
                    xy(series, PlotAxis("optimizer steps"), PlotAxis(unit), about),
                    "",
                    legend(series),
                )
            )
    if not figures:
        problem = f"no stage kept a {LOG} that can be read: none of them trains, or has logged anything yet"
        report.missing.append(("Training curves", problem))
        return None
    lead = (
        "Loss of the logged steps, in nats for InfoNCE and for clicks, and what else was logged. Runs that share a "
        "stage share its curve."
    )
    return Section("training", "Training", lead, [figures])


def data(report: Report) -> Section:
    """Rows that filters removed, and samples that could not be read."""
    rows: dict[str, list[tuple[str, list[TableCell]]]] = {}
    unread: dict[str, list[tuple[str, list[TableCell]]]] = {}
    seen: set[Path] = set()
    for run in report.runs:
        places = {entry.name: entry for entry in sorted(run.run.directory.iterdir()) if is_finished(entry)}
        for name in [*run.stages, *(name for name in places if name not in run.stages)]:
            stage = places.get(name)
            if stage is None or stage.resolve() in seen:
                continue
            seen.add(stage.resolve())
            filters = content(file := stage / FILTERS, run.problems)
            with telling(run.problems.append):
                if of_stage := _filter_rows(name, filters, file):
                    rows.setdefault(run.label, []).extend(of_stage)
            file = stage / QUARANTINE
            count = 0
            if os.path.lexists(file):
                with telling(run.problems.append), reading(file, "list of unreadable samples"):
                    count = len(Quarantine(file, total=0).entries())
            if count:
                unread.setdefault(run.label, []).append((name, [TableCell(f"{count:,}"), TableCell(str(file))]))
    section = Section("data", "Filters and quarantine")
    words = []
    if rows:
        columns = ["stage: filter", "table", "rows in", "rows out", "removed, %", "why"]
        section.parts.append(Table("What filters removed of the training data", columns, list(rows.items())))
    else:
        words.append("No filter was applied to the training data of these runs.")
    if unread:
        columns = ["stage", "unreadable", "file"]
        section.parts.append(Table("Samples that could not be read", columns, list(unread.items())))
    else:
        words.append("No sample was unreadable.")
    section.lead = " ".join(words)
    return section


def _filter_rows(stage: str, filters: Any, file: Path) -> list[tuple[str, list[TableCell]]]:
    """Content of filters.json, a row per filter and table that it changed; none for no file."""
    rows: list[tuple[str, list[TableCell]]] = []
    try:
        for found in filters or ():
            name = str(found["filter"]).rpartition(".")[2]
            changed = {table: counts for table, counts in found["tables"].items() if counts["in"] != counts["out"]}
            if not changed:
                rows.append(
                    (
                        f"{stage}: {name}",
                        [TableCell("none"), TableCell(""), TableCell(""), TableCell("0.0"), TableCell("")],
                    )
                )
            for table, counts in changed.items():
                before, after = int(counts["in"]), int(counts["out"])
                why = "; ".join(f"{reason}: {count:,}" for reason, count in (counts.get("removed") or {}).items())
                share = 100 * (before - after) / before if before else 0.0
                cells = [
                    TableCell(str(table)),
                    TableCell(f"{before:,}"),
                    TableCell(f"{after:,}"),
                    TableCell(number(share, 1)),
                    TableCell(why),
                ]
                rows.append((f"{stage}: {name}", cells))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise Unreadable(f"{file} is not what filters leave, a list of what each removed; {again(file)}") from None
    return rows


def costs(report: Report) -> Section | None:
    """Seconds and memory of every stage."""
    stages = list(dict.fromkeys(stage for run in report.runs for stage in run.costs))
    if not stages:
        report.missing.append(("Costs", f"no costs.json that can be read; {continued(report.last)}"))
        return None
    rows, newest_first = [], report.runs[::-1]
    for stage in stages:
        cells = []
        for run in newest_first:
            cost = run.costs.get(stage)
            if cost is None:
                cells.append(TableCell(""))
                continue
            seconds, shared = seconds_of(cost)
            cells.append(TableCell(number(seconds, 1), "reused" if shared else ""))
        rows.append((stage, cells))
    total = [sum(seconds_of(cost)[0] or 0.0 for cost in run.costs.values()) for run in newest_first]
    peak = [[float(cost["peak_gb"]) for cost in run.costs.values() if "peak_gb" in cost] for run in newest_first]
    ends_ = [
        ("total, s", [TableCell(number(value, 1)) for value in total]),
        ("peak memory, GB", [TableCell(number(max(values), 2) if values else "") for values in peak]),
    ]
    caption = (
        "Seconds of each stage, and the run's peak memory. Of a stage that another run had finished: what it took then"
    )
    table = Table(caption, ["stage", *(run.label for run in newest_first)], [("", rows), ("in all", ends_)])
    return Section("costs", "Costs", "", [table])


def seconds_of(cost: Mapping[str, Any]) -> tuple[float | None, bool]:
    """Seconds of a stage when it ran, and whether that was in another run."""
    if not cost.get("reused"):
        return cost.get("seconds"), False
    return cost.get("first_run", {}).get("seconds"), True
