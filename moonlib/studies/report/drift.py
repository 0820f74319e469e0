"""Drift of runs against earlier ones, as `moonlib drift` found it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moonlib.artifacts.layout import DRIFT, EXPORT, RECIPE
from moonlib.artifacts.reading import is_number
from moonlib.studies.drift import CELLS
from moonlib.studies.report.evidence import Evidence, interval, mapping, typed
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import ends, number


def drift(report: Report) -> Section | None:
    """Drift of every run that has been compared; of one that began from another and has not, how to get it."""
    tables = []
    for run in report.runs:
        found = [_table(run, file) for file in sorted((run.run.directory / DRIFT).glob("*.json"))]
        tables += [table for table in found if table]
        if not found:
            for old in dict.fromkeys(began_from(run.run.config)):
                told = f"no {run.run.directory}/{DRIFT}/*.json: `moonlib drift {old} {run.run.directory}`"
                report.missing.append((f"Drift of {run.label}", told))
    if not tables:
        return None
    lead = (
        "How far the vectors of products moved from those of an earlier run: 1 - cosine, and the share of a product's "
        "nearest neighbours that are the same. Recall of test days, of one run's queries on the other's vectors, tells "
        "whether the two can be used together while a catalogue is embedded anew. 95\u00a0% intervals, over products "
        "and over shoppers."
    )
    return Section("drift", "Drift", lead, list(tables))


def began_from(config: Mapping[str, Any]) -> Iterator[str]:
    """Runs that a recipe names as what it starts from or stays compatible with; an export has no vectors."""
    sections = [config.get("encoder"), *(config.get("stages") or {}).values()]
    for section in (each for each in sections if isinstance(each, Mapping)):
        module = section.get("module")
        arguments = module.get("init_args") if isinstance(module, Mapping) else None
        named = arguments.get("compatible_with") if isinstance(arguments, Mapping) else None
        for value in (named, section.get("from")):
            if isinstance(value, str) and not Path(value, EXPORT).is_file():
                stage = not Path(value, RECIPE).is_file() and Path(value).parent.joinpath(RECIPE).is_file()
                yield str(Path(value).parent) if stage else value  # RUN/STAGE


def _table(run: Evidence, file: Path) -> Table | None:
    """One file as a table; what of it can't be read is a problem of the run."""
    of = {"everything": dict, "segments": dict, "versions": dict, "added": dict}
    found = typed(file, mapping(file, run.problems), of, run.problems)
    if not found.get("everything"):
        return None
    old = found.get("old") or file.stem
    version = (found.get("versions") or {}).get("new")
    if run.represent is not None and version not in (None, run.represent.resolve().name):
        run.problems.append(
            f"{file} is of vectors that the run does not have any more: `moonlib drift {old} {run.run.directory}`"
        )
        return None
    k = found.get("k", 10)
    parts: dict[str, Any] = {"all": found["everything"], **(found.get("segments") or {})}
    if found.get("added"):
        parts["not in the old one"] = found["added"]
    rows = [(name, _cells(part)) for name, part in parts.items() if isinstance(part, Mapping)]
    columns = ["", "products", "moved", f"overlap@{k}", *(f"recall@{k}, {cell}" for cell in CELLS)]
    caption = f"{run.label} against {old}; recall of one run's queries on the vectors of products of one"
    return Table(caption, columns, [("", rows)])


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
