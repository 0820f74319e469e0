"""What runs left behind, read leniently: what is not there is told, and never stops the report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moonlib.data.segments import segment_label
from moonlib.metrics.bootstrap import Interval, Resampled, resampled_auc
from moonlib.run import Run, RunError
from moonlib.studies.paired import predictions, resampled_ctr, resampled_recall, searches

SEARCH_TASKS = ("image_search", "text_search")
TITLES = {
    "baseline": "id only",
    "baseline/shuffled": "shuffled",
    "baseline/chance": "chance",
    "baseline/untrained": "untrained",
    "baseline/thumbnail": "thumbnail",
    "oracle": "oracle",
    "ceiling": "ceiling",
}
"""Prefixes of the references, as in results.json, and how they are called."""


@dataclass
class Evidence:
    """What one run left.

    Attributes:
        run: the run.
        label: how the report calls it.
        results: of results.json; empty if the run has none.
        undefined: why a metric is not among them, by its key.
        costs: of costs.json.
        dataset: hash of its data; empty if unknown.
        represent: directory of the stage whose recall stands in the results.
        application: directory of the stage whose click metrics stand there.
        references: directories of these two stages' references, by stage and prefix.
        problems: what could not be read, and what to do about it.
    """

    run: Run
    label: str
    results: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    dataset: str = ""
    represent: Path | None = None
    application: Path | None = None
    references: dict[tuple[str, str], Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def stages(self) -> dict[str, Path]:
        """Directories of the recipe's stages that have finished, in their order."""
        names = self.run.config["stages"]
        return {name: self.run.directory / name for name in names if (self.run.directory / name).is_dir()}

    def reference(self, stage: str, prefix: str) -> Path | None:
        """Directory of a reference of the ``represent`` or ``application`` stage."""
        return self.references.get((stage, prefix))


def read(directory: str | Path, label: str) -> Evidence:
    """Read what a run left.

    Args:
        directory: a run directory.
        label: how to call it.

    Raises:
        RunError: it is no run directory.
    """
    found = Evidence(Run(directory), label)
    try:
        found.results = {key: float(value) for key, value in found.run.results.items()}
        found.undefined = found.run.undefined
    except (RunError, TypeError, ValueError, AttributeError) as error:
        found.problems.append(str(error))
    found.costs = _json(found.run.directory / "costs.json", found.problems) or {}
    for name, stage in {"preprocessing": found.run.directory / "preprocessing", **found.stages}.items():
        identity = _json(stage / "identity.json", found.problems) or {}
        found.dataset = found.dataset or str(identity.get("dataset") or "")
        metrics = _json(stage / "metrics.json", found.problems) or {}
        if any(key.startswith(SEARCH_TASKS) for key in metrics) and (stage / "searches.parquet").is_file():
            found.represent = stage
        if any(key.startswith("ctr/") for key in metrics) and (stage / "predictions.parquet").is_file():
            found.application = stage
        _references(found, name)
    return found


def _references(found: Evidence, stage: str) -> None:
    kind = {found.represent: "represent", found.application: "application"}.get(found.run.directory / stage)
    for prefix in TITLES:
        place = found.run.directory / f"{stage}.{prefix.replace('/', '.')}"
        if kind and place.is_dir():
            found.references[kind, prefix] = place


def labels(directories: Sequence[str | Path]) -> list[str]:
    """A name for each run: its directory's own, with as much of its parents as tells it from the others.

    Example:
        >>> labels(["a/iter2", "a/iter3", "b/iter3"])
        ['iter2', 'a/iter3', 'b/iter3']
    """
    parts = [Path(directory).resolve().parts for directory in directories]
    found = []
    for mine in parts:
        others = [other for other in parts if other != mine]
        depth = next((d for d in range(1, len(mine)) if all(mine[-d:] != other[-d:] for other in others)), len(mine))
        found.append("/".join(mine[-depth:]))
    return found


def _json(file: Path, problems: list[str]) -> Any:
    """The content of a JSON file; None if there is none, and a problem if it is broken."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{file} cannot be read: {error}")
        return None


read_json = _json


def interval(value: Any) -> Interval | None:
    """An interval as the studies write it: a mapping, three numbers, or one number without an interval.

    Example:
        >>> interval({"estimate": 0.5, "low": 0.4, "high": 0.6})
        Interval(estimate=0.5, low=0.4, high=0.6)
    """
    try:
        if isinstance(value, Mapping):
            low, high = (math.nan if value.get(end) is None else float(value[end]) for end in ("low", "high"))
            return Interval(float(value["estimate"]), low, high)
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
            return Interval(*(float(each) for each in value))
        return None if value is None or isinstance(value, bool) else Interval(float(value), math.nan, math.nan)
    except (KeyError, TypeError, ValueError):
        return None


def mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; none of what is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


class Measured:
    """Metrics of several stages on one dataset, on the same resamples: intervals of each and between any two.

    Keys are those of results.json, such as ``ctr/auc@new``; stages are directories.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[dict[Path, int], Resampled]] = {}

    def add(self, key: str, stages: Sequence[Path], resampled: Resampled) -> None:
        """Keep a metric of stages, in the order of ``resampled``."""
        self._found[key] = ({stage.resolve(): i for i, stage in enumerate(stages)}, resampled)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def interval(self, key: str, stage: Path | None) -> Interval | None:
        """Of one stage; None if it was not measured."""
        return self._ask(key, (stage,), Resampled.interval)

    def difference(self, key: str, stage: Path | None, other: Path | None) -> Interval | None:
        """One stage minus another, paired; None if they were not measured on the same rows."""
        return self._ask(key, (stage, other), Resampled.difference)

    def share(self, key: str, stage: Path | None, base: Path | None, top: Path | None) -> Interval | None:
        """See `Resampled.share`."""
        return self._ask(key, (stage, base, top), Resampled.share)

    def _ask(self, key: str, stages: Iterable[Path | None], what: Callable[..., Interval]) -> Interval | None:
        rows, resampled = self._found.get(key, ({}, None))
        places = [rows.get(stage.resolve()) if stage else None for stage in stages]
        return None if resampled is None or None in places else what(resampled, *places)


def measure(runs: Sequence[Evidence]) -> Measured:
    """Resample what the given runs of one dataset measured, and their references.

    Runs that were measured on other rows than the first of them (other searches, other impressions) are left out, and
    say so among their problems.
    """
    measured = Measured()
    _measure_searches(runs, measured)
    _measure_clicks(runs, measured)
    return measured


def _measure_searches(runs: Sequence[Evidence], measured: Measured) -> None:
    with_searches = [run for run in runs if run.represent]
    stages = [run.represent for run in with_searches if run.represent]
    stages += [place for run in with_searches for (kind, _), place in run.references.items() if kind == "represent"]
    for task in SEARCH_TASKS:
        tables = _same_rows(stages, lambda stage, task=task: searches(stage, task), ("search_id", "item_id"))  # type: ignore[misc]
        for run in with_searches:
            if any(key.startswith(f"{task}/") for key in run.results):
                _tell_lost(run, run.represent, tables, task.replace("search", "searches").replace("_", " "))
        if not tables:
            continue
        first = next(iter(tables.values()))
        users = first["user_id"].to_numpy()
        ks: dict[str, list[int]] = {}
        for key in dict.fromkeys(
            key for run in with_searches for key in run.results if key.startswith(f"{task}/recall@")
        ):
            digits, _, segment = key.removeprefix(f"{task}/recall@").partition("@")
            if digits.isdigit():
                ks.setdefault(segment, []).append(int(digits))
        for segment, of_segment in ks.items():
            shortened = any(f"rank@{segment}" in table.columns for table in tables.values())
            rank = f"rank@{segment}" if shortened else "rank"
            there = {place: table for place, table in tables.items() if rank in table.columns}
            whole = not segment or shortened
            inside = np.ones(len(first), dtype=bool) if whole else _segment(first, segment)
            if inside.any():
                ranks = np.stack([table[rank].to_numpy()[inside] for table in there.values()])
                for k, resampled in resampled_recall(ranks, users[inside], of_segment).items():
                    measured.add(f"{task}/recall@{k}{'@' if segment else ''}{segment}", list(there), resampled)


def _segment(table: pl.DataFrame, segment: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The rows of a segment: a flag, or the value of a column of texts."""
    if segment in table.columns and table[segment].dtype == pl.Boolean:
        return table[segment].fill_null(False).to_numpy()
    for column in table.columns:
        if table[column].dtype == pl.String and column not in ("task", "split"):
            label = table[column].str.replace_all("@", "%40", literal=True)
            named = pl.Series([f"{segment_label(column)}="]) + label
            inside = ((label == segment) | (named == segment)).fill_null(False).to_numpy()
            if inside.any():
                return inside
    return np.zeros(len(table), dtype=bool)


def _measure_clicks(runs: Sequence[Evidence], measured: Measured) -> None:
    with_clicks = [run for run in runs if run.application]
    own = [run.application for run in with_clicks if run.application]
    beside = [
        place
        for run in with_clicks
        for (kind, prefix), place in run.references.items()
        if kind == "application" and (prefix in ("baseline", "oracle") or run is with_clicks[-1])
    ]
    tables = _same_rows([*own, *beside], predictions, ("search_id", "item_id", "clicked"))
    for run in with_clicks:
        _tell_lost(run, run.application, tables, "impressions")
    if not tables:
        return
    first = next(iter(tables.values()))
    clicked, users = first["clicked"].to_numpy(), first["user_id"].to_numpy()
    probability = {place: table["probability"].to_numpy() for place, table in tables.items()}
    ours = [place for place in dict.fromkeys(stage.resolve() for stage in own) if place in probability]
    for segment in ("", "new", "tail"):
        if segment and segment not in first.columns:
            continue
        inside = first[segment].to_numpy() if segment else np.ones(len(first), dtype=bool)
        if len(np.unique(clicked[inside])) < 2 or not ours:
            continue
        suffix = f"@{segment}" if segment else ""
        rows = np.stack([probability[place][inside] for place in ours])
        for metric, resampled in resampled_ctr(rows, clicked[inside], users[inside]).items():
            measured.add(f"ctr/{metric}{suffix}", ours, resampled)
        if segment:
            measured.add(f"ctr/auc{suffix}", ours, resampled_auc(rows, clicked[inside], users[inside]))
    if len(np.unique(clicked)) < 2:
        return
    # AUC of all, which takes the time, once for runs and references.
    measured.add("ctr/auc", list(tables), resampled_auc(np.stack(list(probability.values())), clicked, users))


def _same_rows(
    stages: Sequence[Path], load: Callable[[Path], pl.DataFrame], keys: Sequence[str]
) -> dict[Path, pl.DataFrame]:
    """The tables of stages, each directory once, that have the same rows as the first that has any."""
    found: dict[Path, pl.DataFrame] = {}
    reference: pl.DataFrame | None = None
    for stage in dict.fromkeys(stage.resolve() for stage in stages):
        try:
            table = load(stage)
        except (OSError, pl.exceptions.PolarsError):
            continue
        if not len(table):
            continue
        rows = table.select(keys)
        if reference is None:
            reference = rows
        if rows.equals(reference):
            found[stage] = table
    return found


def _tell_lost(run: Evidence, stage: Path | None, tables: Mapping[Path, pl.DataFrame], what: str) -> None:
    """Note that a run's rows are others than those of the runs that it stands beside."""
    if stage is not None and tables and stage.resolve() not in tables:
        run.problems.append(
            f"{run.label}: its {what} are not those of the first run on the same data, or cannot be read; what was "
            "measured on them stands without intervals"
        )


def curve(file: Path) -> dict[str, list[tuple[float, float]]]:
    """Training curves: for each column of a Lightning CSV log but epoch and step, its (step, value) pairs."""
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for column, value in row.items():
                    if column in ("epoch", "step") or not value or not row.get("step"):
                        continue
                    point = (float(row["step"]) + 1, float(value))
                    if math.isfinite(point[1]):
                        found.setdefault(str(column), []).append(point)
    except (OSError, ValueError, csv.Error):
        return {}
    return found
