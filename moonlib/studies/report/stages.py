"""What the stages left beside their results: training curves, filters, quarantine, costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moonlib.data.quarantine import Quarantine
from moonlib.studies.report.evidence import curve, mappings, read_json
from moonlib.studies.report.figures import Axis, Figure, Series, legend, xy
from moonlib.studies.report.parts import Cell, Section, Table
from moonlib.studies.report.told import Report, continued
from moonlib.studies.report.words import (
    number,
)


def training(report: Report) -> Section | None:
    """The curves of every stage that trained."""
    by_stage: dict[str, dict[Path, tuple[list[str], dict[str, list[tuple[float, float]]]]]] = {}
    for run in report.runs:
        for name, stage in run.stages.items():
            if curves := curve(stage / "csv" / "metrics.csv"):
                of_stage = by_stage.setdefault(name, {})
                of_stage.setdefault(stage.resolve(), ([], curves))[0].append(run.label)
    styles = {run.label: i for i, run in enumerate(report.runs[::-1])}
    figures = []
    for name, stages in by_stage.items():
        for column in dict.fromkeys(column for _, curves in stages.values() for column in curves):
            series = [
                Series(
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
                Figure(f"{name}: {unit}", xy(series, Axis("optimizer steps"), Axis(unit), about), "", legend(series))
            )
    if not figures:
        report.missing.append(("Training curves", "no stage kept a csv/metrics.csv: give its trainer no other logger"))
        return None
    lead = "Loss of the logged steps, in nats for InfoNCE and for clicks. Runs that share a stage share its curve."
    return Section("training", "Training", lead, [figures])


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
            for each in mappings(read_json(stage / "filters.json", run.problems)):
                rows.setdefault(run.label, []).extend(_filter_rows(name, each))
            file = stage / "quarantine.jsonl"
            if count := len(Quarantine(file, total=0).entries()):
                unread.setdefault(run.label, []).append((name, [Cell(f"{count:,}"), Cell(str(file))]))
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


def _filter_rows(stage: str, found: Mapping[str, Any]) -> Iterator[tuple[str, list[Cell]]]:
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
        report.missing.append(("Costs", f"no costs.json; {continued(report.last)}"))
        return None
    rows, newest_first = [], report.runs[::-1]
    for stage in stages:
        cells = []
        for run in newest_first:
            cost = run.costs.get(stage)
            if not isinstance(cost, dict):
                cells.append(Cell(""))
                continue
            seconds, shared = _seconds(cost)
            cells.append(Cell(number(seconds, 1), "taken over" if shared else ""))
        rows.append((stage, cells))
    total = [sum(_seconds(cost)[0] or 0.0 for cost in run.costs.values()) for run in newest_first]
    peak = [[float(cost["peak_gb"]) for cost in run.costs.values() if "peak_gb" in cost] for run in newest_first]
    ends_ = [
        ("total, s", [Cell(number(value, 1)) for value in total]),
        ("peak memory, GB", [Cell(number(max(values), 2) if values else "") for values in peak]),
    ]
    caption = (
        "Seconds of each stage, and the run's peak memory. Of a stage that another run had finished: what it took then"
    )
    table = Table(caption, ["stage", *(run.label for run in newest_first)], [("", rows), ("in all", ends_)])
    return Section("costs", "Costs", "", [table])


def _seconds(cost: Mapping[str, Any]) -> tuple[float | None, bool]:
    """What a stage took when it ran, and whether that was in another run."""
    if not cost.get("reused"):
        return _float(cost.get("seconds")), False
    first = cost.get("first_run")
    return _float(first.get("seconds")) if isinstance(first, dict) else None, True


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
