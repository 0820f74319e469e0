"""Drift of runs against earlier ones, as `moonlib drift` found it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moonlib.artifacts.layout import DRIFT, EXPORT
from moonlib.artifacts.reading import is_number
from moonlib.runs.parents import DATA
from moonlib.studies.drift import CELLS
from moonlib.studies.report.evidence import Evidence, interval, mapping, typed
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import ends, number
from moonlib.system.remote import is_url


def drift(report: Report) -> Section | None:
    """Drift of every run that has been compared; of one that began from another and has not, how to get it."""
    tables = []
    for run in report.runs:
        files = sorted((run.run.directory / DRIFT).glob("*.json"))
        tables += [_table(run, file, found) for file in files if (found := read_drift(report, run, file))]
        for old in dict.fromkeys(_began_from(run)) if not files else ():
            command = f"`moonlib drift {old} {run.run.directory}`"
            report.missing.append((f"Drift of {run.label}", f"no {run.run.directory}/{DRIFT}/*.json: {command}"))
    if not tables:
        return None
    lead = (
        "How far the vectors of products moved from those of an earlier run: 1 - cosine, and the share of a product's "
        "nearest neighbours that are the same. Recall of test days, of one run's queries on the other's vectors, tells "
        "whether the two can be used together while a catalogue is embedded anew. 95\u00a0% intervals, over products "
        "and over shoppers."
    )
    return Section("drift", "Drift", lead, list(tables))


def read_drift(report: Report, run: Evidence, file: Path) -> dict[str, Any]:
    """The drift of a run in a file; empty, with a problem of the run, where it can't be read or is out of date.

    Args:
        report: knows the run that the run continues, which may have been made anew since, too.
        run: whose vectors are the new ones.
        file: that `moonlib drift` wrote, named after the other run.
    """
    of = {"everything": dict, "segments": dict, "versions": dict, "added": dict}
    found = typed(file, mapping(file, run.problems), of, run.problems)
    if not found.get("everything"):
        return {}
    parent = report.parent(run)
    sides = [("new", run)]
    if parent is not None and _is_of(file, found, parent):
        sides.append(("old", parent))
    for side, evidence in sides:
        version = (found.get("versions") or {}).get(side)
        if evidence.represent is not None and version not in (None, evidence.represent.resolve().name):
            whose = "the run" if evidence is run else evidence.label
            command = f"`moonlib drift {found.get('old') or file.stem} {run.run.directory}`"
            run.problems.append(f"{file} is of vectors that {whose} does not have any more: {command}")
            return {}
    return found


def _is_of(file: Path, found: Mapping[str, Any], old: Evidence) -> bool:
    """Whether a drift is one against this run: by where its old run is, or by its name once nothing is there."""
    place = Path(str(found.get("old") or file.stem))
    if place.is_dir():
        return place.resolve() == old.run.directory.resolve()
    return place.name == old.run.name


def _began_from(run: Evidence) -> Iterator[Path | str]:
    """The runs that a run started from or stays compatible with and that can be compared; an export has no vectors."""
    for parent in run.parents:
        place = parent.given if is_url(parent.given) else parent.place
        if parent.how != DATA and place is not None and not Path(place, EXPORT).is_file():
            yield place


def _table(run: Evidence, file: Path, found: Mapping[str, Any]) -> Table:
    """One file as a table."""
    k = found.get("k", 10)
    parts: dict[str, Any] = {"all": found["everything"], **(found.get("segments") or {})}
    if found.get("added"):
        parts["not in the old one"] = found["added"]
    rows = [(name, _cells(part)) for name, part in parts.items() if isinstance(part, Mapping)]
    columns = ["", "products", "moved", f"overlap@{k}", *(f"recall@{k}, {cell}" for cell in CELLS)]
    caption = f"{run.label} against {found.get('old') or file.stem}"
    return Table(f"{caption}; recall of one run's queries on the vectors of products of one", columns, [("", rows)])


def _cells(part: Mapping[str, Any]) -> list[TableCell]:
    """Numbers of some products; empty for what is not there, or is none."""
    products, moved = part.get("products"), part.get("moved")
    cells = [TableCell(f"{products:,}" if isinstance(products, int) else "")]
    mean, p99 = (moved.get(name) if isinstance(moved, Mapping) else None for name in ("mean", "p99"))
    known = isinstance(mean, float | int) and is_number(mean)
    note = f"99 %: {p99:.3f}" if isinstance(p99, float) and math.isfinite(p99) else ""
    cells.append(TableCell(number(mean) if known else "", note if known else ""))
    recall = part.get("recall")
    shares = [part.get("overlap"), *((recall.get(c) if isinstance(recall, Mapping) else None) for c in CELLS)]
    for each in map(interval, shares):
        cells.append(TableCell("") if each is None else TableCell(number(each.estimate, 3), ends(each, 1, 3)))
    return cells
