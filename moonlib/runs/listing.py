"""`moonlib runs`: the runs in a folder, with what they read, came from and found, and what they take on the disk."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from moonlib.artifacts.checksums import LOCK
from moonlib.artifacts.directories import links_to_stage
from moonlib.artifacts.layout import (
    DATASETS,
    EXPORT,
    PREPROCESSING,
    RECIPE,
    RESULTS,
    STAGES,
    is_finished,
    made_as,
)
from moonlib.artifacts.remedies import fit_command
from moonlib.metrics.metric import Meaning
from moonlib.runs.descent import descent_of
from moonlib.runs.parents import CENTER_OF, DATA, Parent
from moonlib.runs.results import legend_of_run
from moonlib.runs.run import Run, RunError
from moonlib.system import lock
from moonlib.system.fitted_table import FittedTable

State = Literal["finished", "cut off", "running", "damaged"]


@dataclass(frozen=True)
class MainResult:
    """The result of a task that a run is first judged by.

    Attributes:
        key: in ``results.json``.
        value: of test days.
        meaning: title and direction of the metric.
    """

    key: str
    value: float
    meaning: Meaning


@dataclass(frozen=True)
class RunSummary:
    """A run as a list shows it.

    Attributes:
        directory: of the run.
        name: the directory's path below the folder of all runs.
        state: whether it has finished, is being made, was cut off, or can't be read in part.
        problem: why it is not finished, and what to do; empty if it is.
        finished: when it finished, in UTC; None if it has not.
        recipe: name of its recipe's file, or ``""``.
        data: name of its data, or ``""``.
        data_hash: SHA-256 over the data's content, or ``""``.
        data_until: when the test days of the data end, in UTC; None where it is not noted.
        parents: what it came from.
        centers: ``space@snapshot`` of the representation center that a stage reads, by the stage's name.
        figures: the main metric of each task, see `moonlib.runs.results.Legend.main`.
        own_bytes: size of its files, and of the stages that no other run in the folder links.
        shared_bytes: size of the stages that another one links too.
    """

    directory: Path
    name: str
    state: State
    problem: str = ""
    finished: datetime | None = None
    recipe: str = ""
    data: str = ""
    data_hash: str = ""
    data_until: datetime | None = None
    parents: tuple[Parent, ...] = ()
    centers: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[MainResult, ...] = ()
    own_bytes: int = 0
    shared_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.name,
            "directory": str(self.directory),
            "state": self.state,
            "problem": self.problem,
            "finished": self.finished.isoformat() if self.finished else None,
            "recipe": self.recipe,
            "data": {
                "name": self.data,
                "hash": self.data_hash,
                "until": self.data_until.isoformat() if self.data_until else None,
            },
            "parents": [
                {"how": each.how, "path": each.given, "place": str(each.place) if each.place else None}
                for each in self.parents
            ],
            "centers": dict(self.centers),
            "figures": {figure.key: figure.value for figure in self.figures},
            "own_bytes": self.own_bytes,
            "shared_bytes": self.shared_bytes,
        }


def list_runs(folder: str | Path = "runs") -> list[RunSummary]:
    """List the runs in a folder, also those of studies that lie deeper, parents before the runs that came from them.

    A run that can't be read is listed with the reason. Nothing is written.

    Args:
        folder: the folder of all runs.

    Returns:
        One summary per run; runs that did not come from one another go by when they finished, unfinished ones last.

    Raises:
        RunError: there is no such folder, or it is a run itself.
        OSError: the folder can't be read.

    Example: ``[run.name for run in list_runs("runs") if run.state == "finished"]``
    """
    folder = runs_folder(folder)
    found = list(run_directories(folder))
    linked = {run: linked_stages(run) for run in found}
    counts = Counter(stage for stages in linked.values() for stage in stages)
    sizes = {stage: size_of(stage) for stage in counts}
    summaries: dict[Path, RunSummary] = {}
    opened: list[Run] = []
    for directory in found:
        own = size_of(directory) + sum(sizes[stage] for stage in linked[directory] if counts[stage] == 1)
        shared = sum(sizes[stage] for stage in linked[directory] if counts[stage] > 1)
        summaries[directory], run = _summary(directory, folder, own, shared)
        opened += [run] if run is not None else []
    last = datetime.max.replace(tzinfo=UTC)
    by_time = sorted(opened, key=lambda run: (summaries[run.directory].finished or last, run.directory))
    descent = descent_of(by_time)
    for circle in descent.circles:
        names = " came from ".join(summaries[place].name for place in (*circle, circle[0]))
        for place in circle:
            told = [summaries[place].problem, f"{names}, by its recipe: a circle, which only an edit of one can make"]
            summaries[place] = replace(summaries[place], problem="; ".join(filter(None, told)))
    order = dict.fromkeys([*descent.order, *found])  # those that can't be opened come last
    return [summaries[place] for place in order]


def runs_folder(folder: str | Path) -> Path:
    """The folder of all runs, if it is one.

    Raises:
        RunError: there is no such folder, or it is a run itself.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "there is no such folder"
        raise RunError(f"{folder}: {what}; give the one that holds the runs, which `moonlib fit` calls runs by default")
    if (folder / RECIPE).is_file():
        what = "an export" if (folder / EXPORT).is_file() else "a run itself"
        raise RunError(f"{folder} is {what}; give the folder that holds the runs, such as {folder.resolve().parent}")
    return folder


def run_directories(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Runs in a folder, also those deeper in it, sorted by name; links to folders are not followed.

    A directory counts that has a recipe, or a link to a stage where the recipe was lost. So does one that may not be
    looked into.

    Args:
        folder: the folder of all runs.
        hidden: those in folders whose name begins with a dot too, such as debug runs.
    """
    closed: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=lambda error: closed.append(Path(str(error.filename)))):
        yield from closed
        closed.clear()
        here = Path(place)
        apart = (STAGES, DATASETS)
        folders[:] = sorted(name for name in folders if name not in apart and (hidden or not name.startswith(".")))
        links = any(links_to_stage(here / name) for name in (*folders, *files))
        if here != folder and (RECIPE in files or links) and EXPORT not in files:
            folders.clear()  # no run lies in another
            yield here
    yield from closed


def linked_stages(run: Path) -> list[Path]:
    """Directories of the stages, finished or not, that a run links and that are there."""
    found: dict[Path, None] = {}
    for entry in _entries(run):
        if links_to_stage(entry):
            target = Path(os.path.realpath(entry))
            for place in (target, target.with_name(made_as(target.name))):
                if place.is_dir():
                    found[place] = None
    return list(found)


def _entries(run: Path) -> Iterator[Path]:
    """Everything in a run, at any depth; links are not followed."""
    for place, folders, files in os.walk(run):
        for name in (*folders, *files):
            yield Path(place, name)


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory, at any depth; what can't be looked at counts nothing."""
    total = 0
    for place, _, files in os.walk(directory):
        for name in files:
            try:
                total += Path(place, name).lstat().st_size
            except OSError:
                continue
    return total


def _summary(directory: Path, folder: Path, own: int, shared: int) -> tuple[RunSummary, Run | None]:
    """A run's row, and the run if it can be opened."""
    name = directory.relative_to(folder).as_posix()
    problems: list[str] = []
    try:
        next(directory.iterdir(), None)  # whoever may not look into it is told so
        run = Run(directory)
    except (ValueError, OSError) as error:
        return RunSummary(directory, name, "damaged", _told(error), own_bytes=own, shared_bytes=shared), None
    known: dict[str, Any] = {"own_bytes": own, "shared_bytes": shared}
    try:
        if (record := run.record) is not None:
            known |= {"recipe": record.recipe, "data": record.data.name, "data_hash": record.data.hash}
            known["centers"] = record.centers
            known |= {"data_until": _moment(record.data.until), "finished": _moment(record.finished)}
        else:
            known |= {"data": _name_of(run.config.get("data")), "data_hash": _data_hash(run)}
        known["parents"] = run.parents
    except (ValueError, OSError) as error:
        problems.append(_told(error))
    try:
        if run.layout.results.exists():
            results, legend = run.results, legend_of_run(directory, map(str, run.config["stages"]))
            known["figures"] = tuple(MainResult(key, results[key], legend.meaning(key)) for key in legend.main(results))
    except (ValueError, OSError) as error:
        problems.append(_told(error))
    state, problem = _state(run, problems)
    if state != "finished":
        known.pop("finished", None)
    elif known.get("finished") is None:  # of an earlier version
        known["finished"] = datetime.fromtimestamp(run.layout.results.stat().st_mtime, UTC).replace(microsecond=0)
    return RunSummary(directory, name, state, problem, **known), run


def _state(run: Run, problems: list[str]) -> tuple[State, str]:
    """The state of a run that can be opened, and why it is not finished."""
    try:
        holder = lock.holder(run.directory / LOCK)
    except OSError as error:
        holder, problems = None, [*problems, _told(error)]
    if holder:
        return "running", holder
    missing = []
    encoder = [PREPROCESSING] if run.config.get("encoder") is not None else []
    for stage in (*encoder, *map(str, run.config["stages"])):
        link = run.layout.link(stage)
        if not is_finished(link):
            missing.append(stage)
            target = link.readlink() if link.is_symlink() else None
            if target is not None and target.name == made_as(target.name):
                again = f"`{fit_command(run.directory)}` makes it again"
                problems.append(f"{link} leads to {target}, which is not there; {again}")
    if problems:
        return "damaged", "; ".join(problems)
    if missing or not run.layout.results.exists():
        what = f"{', '.join(missing)} missing" if missing else f"no {RESULTS}"
        return "cut off", f"{what}; `{fit_command(run.directory)}` resumes it"
    return "finished", ""


def _data_hash(run: Run) -> str:
    return next((str(each["dataset"]) for each in run.identities() if each.get("dataset")), "")


def _name_of(data: Any) -> str:
    """How a recipe calls its data: the last part of its path, or the source's name."""
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    path = arguments.get("path") if isinstance(arguments, Mapping) else None
    name = data.get("class_path") if isinstance(data, Mapping) else data
    return re.split(r"[/.]", str(name or ""))[-1] if path is None else Path(str(path)).name


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def runs_table(folder: Path, runs: Sequence[RunSummary]) -> FittedTable:
    """A row per run, and below a sentence for each that is not finished, or has lost a parent.

    Args:
        folder: of the runs.
        runs: see `list_runs`.
    """
    names = {run.directory.resolve(): run.name for run in runs}
    titles: dict[str, str] = {}
    for run in runs:
        for figure in run.figures:
            task = figure.key.rpartition("/")[0].replace("_", " ")
            titles.setdefault(figure.key, f"{task} {figure.meaning.title}".strip())
    rows, notes = [], []
    for run in runs:
        given = [_parent_name(parent, names) for parent in run.parents if not parent.how.startswith(CENTER_OF)]
        given += run.centers.values()
        figures = {figure.key: figure.value for figure in run.figures}
        cells = [
            f"{run.finished:%Y-%m-%d %H:%M}" if run.finished else "",
            run.state,
            run.data or run.data_hash[:12],
            f"{run.data_until - timedelta(microseconds=1):%Y-%m-%d}" if run.data_until else "",
            run.recipe,
            ", ".join(dict.fromkeys(given)),
            *(f"{figures[key]:.4f}" if key in figures else "" for key in titles),
            in_bytes(run.own_bytes),
            in_bytes(run.shared_bytes),
        ]
        rows.append((run.name, cells))
        notes += [f"{run.name}: {run.state}: {run.problem}"] if run.problem else []
        notes += [f"{run.name} came from {each} ({each.how})" for each in run.parents if each.is_lost]
    headings = ["finished", "state", "data", "last day", "recipe", "came from", *titles.values(), "own", "shared"]
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    return FittedTable(f"{count} in {folder}", "run", headings, rows, notes=notes)


def _parent_name(parent: Parent, names: Mapping[Path, str]) -> str:
    """A parent in the table: the name of a run that is listed; a dataset, which may have the same, is told as one."""
    name = names.get(parent.place.resolve(), "") if parent.place else ""
    name = name or Path(parent.given).name
    return f"data {name}" if parent.how == DATA else name


def in_bytes(count: int) -> str:
    """A size for people to read, in decimal units.

    Example:
        >>> in_bytes(999), in_bytes(12_345), in_bytes(1_200_000_000)
        ('999 B', '12.3 kB', '1.2 GB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
