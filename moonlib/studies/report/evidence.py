"""Files of runs, read leniently: a missing one is named and never stops the report."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401  (before torchmetrics)
import numpy as np
import polars as pl
import torch
from torchmetrics import Metric

from moonlib.artifacts import reading
from moonlib.artifacts.checksums import again
from moonlib.artifacts.costs import read_costs
from moonlib.artifacts.directories import links_to_stage
from moonlib.artifacts.layout import (
    COSTS,
    EXPORT,
    IDENTITY,
    METRICS,
    PREDICTIONS,
    PREPROCESSING,
    RECIPE,
    RESULTS,
    SEARCHES,
    is_finished,
    link_name,
    stage_of,
)
from moonlib.artifacts.logs import steps_made
from moonlib.artifacts.reading import Unreadable, is_number, read_json, read_mapping
from moonlib.artifacts.remedies import fit_command
from moonlib.config.earlier import earlier_reference, present_results
from moonlib.data.ids import FAMILIES, codes
from moonlib.data.segments import SEGMENTS, TRAFFIC, segment_label
from moonlib.metrics.auc import AUC
from moonlib.metrics.bootstrap import Interval, Resampled, resampled_auc
from moonlib.metrics.ctr import own_metrics
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import name_of, with_metrics
from moonlib.metrics.recall import Recall
from moonlib.runs.parents import Parent
from moonlib.runs.record import RunRecord
from moonlib.runs.results import REFERENCES, Legend, legend_of_run, named_metrics
from moonlib.runs.run import Run
from moonlib.studies.paired import predictions, resampled_ctr, resampled_metrics, searches
from moonlib.system.disk import is_panic

SEARCH_TASKS = ("image_search", "text_search")

UNKNOWN = 2**62
"""The size of a gallery that is not told."""


@dataclass
class Evidence:
    """Files of one run.

    Attributes:
        run: the run.
        label: how the report calls it.
        results: of results.json; empty if the run has none.
        undefined: why a metric is not among them, by its key.
        legend: what the results mean.
        named: metrics that the recipe names, by the stages ``represent`` and ``application``.
        costs: of costs.json.
        dataset: hash of its data; empty if unknown.
        record: what the run notes of itself; None for nothing.
        parents: the runs that it came from, and other such places.
        represent: directory of the stage whose recall stands in the results.
        application: directory of the stage whose click metrics stand there.
        references: directories of these two stages' references, by stage and prefix.
        problems: what could not be read, and what to do about it.
    """

    run: Run
    label: str
    results: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    legend: Legend = field(default_factory=Legend)
    named: dict[str, list[Metric]] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    dataset: str = ""
    record: RunRecord | None = None
    parents: tuple[Parent, ...] = ()
    represent: Path | None = None
    application: Path | None = None
    references: dict[tuple[str, str], Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def stages(self) -> dict[str, Path]:
        """Directories of the recipe's stages that have finished, in their order."""
        places = {str(name): self.run.directory / str(name) for name in self.run.config["stages"]}
        return {name: place for name, place in places.items() if is_finished(place)}

    def reference(self, stage: str, prefix: str) -> Path | None:
        """Directory of a reference of the ``represent`` or ``application`` stage."""
        return self.references.get((stage, prefix))


class WithoutRecipe(Run):
    """Files of a run whose recipe can't be read; its stages are those that it links to."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        links = [path.name for path in sorted(self.directory.iterdir()) if links_to_stage(path) and is_finished(path)]
        self.config = {"stages": {name: {} for name in links if name == stage_of(name) != PREPROCESSING}}


@contextmanager
def telling(tell: Callable[[str], object]) -> Iterator[None]:
    """Tell of an error instead of raising it: what is wrong with one file, or one section, takes nothing else away.

    Args:
        tell: called with the problem, and what to do where that is known.

    Example: ``with telling(run.problems.append): table = searches(stage)``
    """
    try:
        yield
    except (ValueError, OSError) as error:
        tell(" ".join(str(error).split()))
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        tell(f"{told}; copy the run's files again, and if that is no help, report it as a fault of moonlib")


def read(directory: str | Path, label: str) -> Evidence:
    """Read what a run left.

    Args:
        directory: a run directory.
        label: how to call it.

    Raises:
        RunError: it is no run directory.
    """
    problems: list[str] = []
    found = Evidence(_opened(directory, problems), label, problems=problems)
    place = found.run.directory
    with telling(problems.append):
        file = place / RESULTS
        results = present_results(read_mapping(file)) if file.is_file() else found.run.results
        found.results = {
            key: float(value) for key, value in results.items() if is_number(value) and math.isfinite(value)
        }
        for key in results.keys() - found.results.keys():
            problems.append(f"{file}: {key!r} is {str(results[key])[:40]!r}, and no finite number")
    with telling(problems.append):
        found.undefined = found.run.undefined
    found.legend = Legend(REFERENCES)
    with telling(problems.append):
        found.legend = legend_of_run(place, map(str, found.run.config["stages"]))
    if os.path.lexists(place / COSTS):
        with telling(problems.append):
            found.costs = read_costs(place / COSTS)
    with telling(problems.append):
        found.record = found.run.record
        found.parents = found.run.parents
        # A stage that is reused may have been made from other data, of which it reads the same.
        found.dataset = found.record.data.hash if found.record else ""
    for name in found.run.config["stages"]:
        if str(name) not in found.stages:
            again_by = fit_command(found.run.directory)
            problems.append(f"{place / str(name)} is no directory of a stage; `{again_by}` makes it")
    with telling(problems.append):
        found.dataset = found.run.record.data.hash if found.run.record else ""
    for name, stage in {PREPROCESSING: place / PREPROCESSING, **found.stages}.items():
        identity = mapping(stage / IDENTITY, problems)
        found.dataset = found.dataset or str(identity.get("dataset") or "")
        metrics = mapping(stage / METRICS, problems)
        tasks = {MetricKey.parse(key).task for key in metrics}
        if tasks.intersection(SEARCH_TASKS) and _there(stage / SEARCHES, problems):
            found.represent = stage
            _named(found, "represent", name)
        if "ctr" in tasks and _there(stage / PREDICTIONS, problems):
            found.application = stage
            _named(found, "application", name)
        _references(found, name)
    return found


def _opened(directory: str | Path, problems: list[str]) -> Run:
    """A run, if need be without its recipe; raises `RunError` for what is no run directory."""
    try:
        return Run(directory)
    except Exception:
        place = Path(directory)
        if not any((place / name).exists() for name in (RECIPE, RESULTS, COSTS)):
            raise
        if (place / EXPORT).exists():  # an export has a recipe too
            raise
        told: list[str] = []
        with telling(told.append):
            raise
        file = place / RECIPE
        problems.append(f"{file}: {told[0].removeprefix(f'{file} ')}; the run's stages are told without it")
        return WithoutRecipe(place)


def _there(file: Path, problems: list[str]) -> bool:
    """Whether a file that belongs there is; a problem if not."""
    with suppress(PermissionError):  # whoever may not look into a folder is told that nothing is there
        if file.exists():
            return True
    problems.append(f"{file} is missing, and so what was measured on it has no intervals; {again(file)}")
    return False


def _named(found: Evidence, kind: str, stage: str) -> None:
    """Make the metrics that the recipe names, whose intervals are wanted."""
    with telling(found.problems.append):
        found.named[kind] = named_metrics(found.run.config["stages"].get(stage) or {})


def _references(found: Evidence, stage: str) -> None:
    kind = {found.represent: "represent", found.application: "application"}.get(found.run.directory / stage)
    for prefix in found.legend.references:
        names = (link_name(stage, name) for name in (prefix, earlier_reference(prefix)))
        place = next((found.run.directory / name for name in names if is_finished(found.run.directory / name)), None)
        if kind and place:
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


def mapping(file: Path, problems: list[str]) -> dict[str, Any]:
    """The object that a JSON file holds; empty if there is no file, and with a problem if it holds something else."""
    found = content(file, problems)
    with telling(problems.append):
        return {} if found is None else reading.mapping(found, file)
    return {}


def content(file: Path, problems: list[str]) -> Any:
    """The content of a JSON file; None if there is none, and a problem if it can't be read."""
    with telling(problems.append):
        try:
            return read_json(file)
        except FileNotFoundError:
            if file.is_symlink():
                raise
    return None


def typed(file: Path, found: dict[str, Any], types: Mapping[str, type], problems: list[str]) -> dict[str, Any]:
    """A mapping without the values that are of another type than they should; each of them is a problem."""
    kept = dict(found)
    for key, expected in types.items():
        if kept.get(key) is not None and not isinstance(kept[key], expected):
            wanted = "a list" if expected is list else "an object"
            problems.append(f"{file}: {key!r} is {str(kept.pop(key))[:40]!r}, and should be {wanted}; {again(file)}")
    return kept


def interval(value: Any) -> Interval | None:
    """An interval as the studies write it: a mapping, three numbers, or one number without an interval.

    Example:
        >>> interval({"estimate": 0.5, "low": 0.4, "high": 0.6})
        Interval(estimate=0.5, low=0.4, high=0.6)
    """
    try:
        if isinstance(value, Mapping):
            low, high = (math.nan if value.get(end) is None else float(value[end]) for end in ("low", "high"))
            found = Interval(float(value["estimate"]), low, high)
        elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
            found = Interval(*(float(each) for each in value))
        elif is_number(value):
            found = Interval(float(value), math.nan, math.nan)
        else:
            return None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found.estimate) else None


def mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; none of what is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


class Measurements:
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


def measure(runs: Sequence[Evidence]) -> Measurements:
    """Resample what the given runs of one dataset measured, and their references.

    Runs that were measured on other rows than the first of them (other searches, other impressions) are left out, and
    say so among their problems.
    """
    measured = Measurements()
    for part in (_measure_searches, _measure_clicks):
        with telling(runs[-1].problems.append):
            part(runs, measured)
    return measured


def _measure_searches(runs: Sequence[Evidence], measured: Measurements) -> None:
    with_searches = [run for run in runs if run.represent]
    stages = [(run, run.represent) for run in with_searches if run.represent]
    stages += [
        (run, place) for run in with_searches for (kind, _), place in run.references.items() if kind == "represent"
    ]
    for task in SEARCH_TASKS:
        tables, unread = _same_rows(stages, partial(searches, task=task), ("search_id", "item_id"))
        for run in with_searches:
            if any(key.task == task for key in run.legend.own(run.results).values()):
                what = task.replace("search", "searches").replace("_", " ")
                _tell_lost(run, run.represent, {**tables, **unread}, what)
        if not tables:
            continue
        first = next(iter(tables.values()))
        users = codes(first["user_id"])
        named = {name_of(metric): metric for run in with_searches for metric in run.named.get("represent", ())}
        of_segments: dict[str, dict[str, Metric]] = {}
        for key in (key for run in with_searches for key in run.legend.own(run.results).values()):
            recall = re.fullmatch(r"recall@([1-9]\d*)", key.name)
            metric = named.get(key.name) or (Recall(int(recall[1])) if recall else None)
            if key.task == task and metric:
                of_segments.setdefault(key.segment, {})[key.name] = metric
        for segment, metrics in of_segments.items():
            shortened = any(f"rank@{segment}" in table.columns for table in tables.values())
            rank = f"rank@{segment}" if shortened else "rank"
            there = {place: table for place, table in tables.items() if _whole_numbers(table, rank)}
            whole = not segment or shortened
            inside = np.ones(len(first), dtype=bool) if whole else _segment(first, segment)
            if inside.any() and there:
                models = [_ranked(table, rank, inside) for table in there.values()]
                for name, resampled in resampled_metrics(metrics.values(), models, users[inside]).items():
                    measured.add(str(MetricKey("test", "", task, name, segment)), list(there), resampled)


def _ranked(table: pl.DataFrame, rank: str, inside: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """Inputs of metrics of searches."""
    ranks, users = (torch.from_numpy(of[inside]) for of in (table[rank].to_numpy(), codes(table["user_id"])))
    gallery = int(table["gallery"].to_numpy().min()) if _whole_numbers(table, "gallery") else UNKNOWN
    return {"ranks": ranks, "users": users, "gallery": gallery}


def _whole_numbers(table: pl.DataFrame, column: str) -> bool:
    return column in table.columns and table[column].dtype.is_integer() and not table[column].null_count()


def _segment(table: pl.DataFrame, segment: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The rows of a segment: a flag, or the value of a column of texts."""
    if segment in table.columns and table[segment].dtype == pl.Boolean:
        return table[segment].fill_null(False).to_numpy()
    for column in table.columns:
        if table[column].dtype == pl.String and column not in ("task", "split", *FAMILIES):
            label = table[column].str.replace_all("@", "%40", literal=True)
            named = pl.Series([f"{segment_label(column)}="]) + label
            inside = ((label == segment) | (named == segment)).fill_null(False).to_numpy()
            if inside.any():
                return inside
    return np.zeros(len(table), dtype=bool)


def _measure_clicks(runs: Sequence[Evidence], measured: Measurements) -> None:
    with_clicks = [run for run in runs if run.application]
    own = [(run, run.application) for run in with_clicks if run.application]
    beside = [
        (run, place)
        for run in with_clicks
        for (kind, prefix), place in run.references.items()
        if kind == "application" and (prefix in ("baseline", "oracle") or run is with_clicks[-1])
    ]
    tables, unread = _same_rows([*own, *beside], predictions, ("search_id", "item_id", "clicked"))
    for run in with_clicks:
        _tell_lost(run, run.application, {**tables, **unread}, "impressions")
    if not tables:
        return
    first = next(iter(tables.values()))
    clicked, users, searched = first["clicked"].to_numpy(), codes(first["user_id"]), codes(first["search_id"])
    named = {name_of(metric): metric for run in with_clicks for metric in run.named.get("application", ())}
    metrics = with_metrics(own_metrics(), named.values(), "ctr")
    area = any(type(metric) is AUC for metric in metrics)  # a recipe may have put another in its place
    probability = {place: table["probability"].to_numpy() for place, table in tables.items()}
    ours = [place for place in dict.fromkeys(stage.resolve() for _, stage in own) if place in probability]
    for segment in ("", *SEGMENTS, *TRAFFIC):
        if segment and segment not in first.columns:
            continue
        inside = _segment(first, segment) if segment else np.ones(len(first), dtype=bool)
        if len(np.unique(clicked[inside])) < 2 or not ours:
            continue
        suffix = f"@{segment}" if segment else ""
        rows = np.stack([probability[place][inside] for place in ours])
        more = {"metrics": metrics, "searches": searched[inside]}
        for metric, resampled in resampled_ctr(rows, clicked[inside], users[inside], **more).items():
            measured.add(f"ctr/{metric}{suffix}", ours, resampled)
        if segment and area:
            measured.add(f"ctr/auc{suffix}", ours, resampled_auc(rows, clicked[inside], users[inside]))
    if len(np.unique(clicked)) < 2 or not area:
        return
    # AUC of all, which takes the time, once for runs and references.
    measured.add("ctr/auc", list(tables), resampled_auc(np.stack(list(probability.values())), clicked, users))


def _same_rows(
    stages: Sequence[tuple[Evidence, Path]], load: Callable[[Path], pl.DataFrame], keys: Sequence[str]
) -> tuple[dict[Path, pl.DataFrame], dict[Path, str]]:
    """The tables of runs' stages, each directory once, that have the same rows as the first that has any.

    Returns:
        The tables; and why others can't be read, which their runs say among their problems.
    """
    found: dict[Path, pl.DataFrame] = {}
    unread: dict[Path, str] = {}
    reference: pl.DataFrame | None = None
    for stage in dict.fromkeys(stage.resolve() for _, stage in stages):
        table = pl.DataFrame()
        with telling(partial(unread.__setitem__, stage)):
            table = load(stage)
        if not len(table):
            continue
        rows = table.select(keys)
        if reference is None:
            reference = rows
        if rows.equals(reference):
            found[stage] = table
    for run, stage in stages:
        if (problem := unread.get(stage.resolve())) and problem not in run.problems:
            run.problems.append(problem)
    return found, unread


def _tell_lost(run: Evidence, stage: Path | None, told: Mapping[Path, object], what: str) -> None:
    """Note that a run's rows are others than those of the runs that it stands beside, if nothing is told of it yet."""
    if stage is not None and told and stage.resolve() not in told:
        run.problems.append(
            f"{run.label}: its {what} are not those of the first run on the same data; what was measured on them "
            "stands without intervals"
        )


def curve(file: Path) -> dict[str, list[tuple[float, float]]]:
    """Training curves: for each column of a Lightning CSV log but epoch and step, its (step, value) pairs.

    What is not finite is left out, and so is a last row that was cut off.

    Raises:
        FileNotFoundError: there is no such log.
        Damaged, Unreadable: it can't be read; see `moonlib.artifacts.reading.reading`.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    with reading.reading(file, "CSV log"), file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if "step" not in (rows.fieldnames or ()):
            raise Unreadable(f"{file} is no CSV log, it has no column 'step'; {again(file)}")
        for row in rows:
            for column, value in row.items():
                if column is None or column in ("epoch", "step") or not value or not row["step"]:
                    continue
                point = (float(row["step"]) + steps_made(column), float(value))
                if all(map(math.isfinite, point)):
                    found.setdefault(column, []).append(point)
    return found
