"""`moonlib runs prune`: deletes what no run in a folder needs: stages, datasets, attempts, and evaluated checkpoints.

A stage stays as long as a run links it. Whoever makes a run links a stage before it is reused or made, see
`moonlib.runs.runner.Runner.claim_stage`; that, and what is deleted here, happens under one lock.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from moonlib.artifacts.checksums import LOCK
from moonlib.artifacts.directories import linking
from moonlib.artifacts.layout import (
    CHECKPOINT_EVALUATIONS,
    DATASETS,
    DEBUG,
    IDENTITY,
    STAGES,
    WEIGHTS,
    RunLayout,
    is_pruned,
    made_as,
    pruned,
    snapshot,
    snapshot_steps,
)
from moonlib.artifacts.reading import read_mapping
from moonlib.data.dataset import Dataset
from moonlib.runs.listing import in_bytes, linked_stages, run_directories, runs_folder
from moonlib.runs.record import read_record
from moonlib.runs.run import RunError
from moonlib.system import lock
from moonlib.system.disk import sync
from moonlib.system.fitted_table import FittedTable

DAY = 86400.0
"""Seconds for which an attempt at a stage or a dataset is left alone after it was last written to."""

Kind = Literal["stage", "dataset", "half-finished", "checkpoint", "half-deleted"]


@dataclass(frozen=True)
class Prunable:
    """Something that no run needs.

    Attributes:
        place: a directory, or the file of a checkpoint's weights.
        kind: a finished ``stage`` or ``dataset``; what is ``half-finished`` of one; the weights of a ``checkpoint``
            whose evaluations have finished; and what an earlier deletion has left ``half-deleted``.
        bytes: of its files; one that has another name elsewhere (a hard link) frees nothing, and does not count.
    """

    place: Path
    kind: Kind
    bytes: int = 0


@dataclass(frozen=True)
class Pruning:
    """What was found that no run needs.

    Attributes:
        folder: of all runs.
        found: what can be deleted, or was.
        kept: what was left alone although no run seems to need it, and why: a sentence each.
        deleted: whether it was deleted.
    """

    folder: Path
    found: tuple[Prunable, ...]
    kept: tuple[str, ...] = ()
    deleted: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of all that was found."""
        return sum(each.bytes for each in self.found)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        found = [{"place": str(each.place), "kind": each.kind, "bytes": each.bytes} for each in self.found]
        return {"deleted": self.deleted, "found": found, "bytes": self.bytes, "kept": list(self.kept)}


def prune(folder: str | Path = "runs", *, delete: bool = False, older_than: float = DAY) -> Pruning:
    """Find, and delete if that is wanted, what no run in a folder needs.

    - Stages that no run links. To delete a run, remove its directory first.
    - Datasets in ``.data`` that no run has read, unless a run is being made: it may be about to read one.
    - Attempts that were cut off, that no run links, nobody works on, and that are older than a day.
    - Weights of checkpoints whose evaluations have finished in every run that links their stage; the last weights stay.

    What can't be read is left alone, and so is what it might need. A kill leaves what is to be deleted either whole or
    out of every run's sight.

    Args:
        folder: the folder of all runs.
        delete: delete it; by default it is only listed.
        older_than: age, in seconds, from which an attempt counts as cut off.

    Returns:
        What was found, and what was left alone.

    Raises:
        RunError: the folder is none of runs.

    Example: ``prune("runs").bytes`` is what ``prune("runs", delete=True)`` would free.
    """
    folder = runs_folder(folder)
    if not any(os.path.lexists(folder / name) for name in (STAGES, DATASETS)):
        above = next((each for each in folder.resolve().parents if (each / STAGES).is_dir()), None)
        hint = f"; the runs in it keep theirs in {above}: give that" if above else "; give the one that holds the runs"
        raise RunError(f"{folder} has no {STAGES} and no {DATASETS}{hint}")
    if not delete:
        found, kept = _find(folder, older_than)
        return Pruning(folder, tuple(_sized(found)), tuple(kept))
    away: dict[Path, Prunable] = {}
    with linking(folder):
        found, kept = _find(folder, older_than)
        for each in found:
            try:
                away[_put_away(each)] = each
            except (OSError, lock.InUse) as error:
                kept.append(f"{each.place}: {_reason(error)}")
    sizes = {each.place: each.bytes for each in _sized(replace(each, place=place) for place, each in away.items())}
    done = []
    for place, each in away.items():
        try:
            _remove(place)
            done.append(replace(each, bytes=sizes[place]))
        except OSError as error:
            kept.append(f"{place}: {_reason(error)}; remove it by hand")
    return Pruning(folder, tuple(done), tuple(kept), deleted=True)


@dataclass
class _Needs:
    """What the runs in a folder need.

    Attributes:
        stages: names of directories in the folder of all stages.
        runs: the runs.
        busy: runs that are being made.
        data: directories, and hashes, of datasets that runs have read.
        unread: folders and files that can't be read, and why.
        unknown: why it is not known what data a run has read, a sentence each.
    """

    stages: set[str] = field(default_factory=set)
    runs: list[Path] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)
    data: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _needs(folder: Path) -> _Needs:
    needs = _Needs()
    stages, datasets = ((Path(os.path.realpath(folder / name))) for name in (STAGES, DATASETS))
    for link in _links(folder, {stages, datasets}, needs.unread):
        target = Path(os.path.realpath(link))
        if stages in target.parents:
            needs.stages.add(made_as(target.relative_to(stages).parts[0]))
        elif datasets in target.parents:
            needs.data.add(str(datasets / target.relative_to(datasets).parts[0]))
    for root in (folder / DEBUG).glob("*/*"):
        with suppress(OSError):
            needs.busy += [root] if lock.holder(root / LOCK) else []
    for run in run_directories(folder, hidden=True):
        needs.runs.append(run)
        try:
            if lock.holder(run / LOCK):
                needs.busy.append(run)
            _note_data(run, needs)
        except (ValueError, OSError) as error:
            needs.unknown.append(f"{run}: {_reason(error)}")
    return needs


def _note_data(run: Path, needs: _Needs) -> None:
    """Note what data a run has read, by its record and by what its stages say."""
    known = False
    if (record := read_record(RunLayout.of(run))) is not None and record.data.hash:
        needs.data |= {record.data.hash, os.path.realpath(run / record.data.place)}
        known = True
    for stage in linked_stages(run):
        if (stage / IDENTITY).is_file():
            needs.data.add(str(read_mapping(stage / IDENTITY).get("dataset")))
            known = True
    if not known:
        needs.unknown.append(f"{run} does not say what it has read")


def _links(folder: Path, apart: set[Path], unread: list[str]) -> Iterator[Path]:
    """Symbolic links at any depth of a folder, those in folders that a link leads to as well.

    Args:
        folder: to look through.
        apart: folders, with all links followed, that are not looked into.
        unread: gets what can't be looked into.
    """
    seen = set(apart)
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        real = Path(os.path.realpath(here))
        if real in seen or any(place in real.parents for place in apart):
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            unread.append(f"{here}: {_reason(error)}")
            continue
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            with suppress(OSError):
                if entry.is_dir():
                    waiting.append(Path(entry.path))


def _find(folder: Path, older_than: float) -> tuple[list[Prunable], list[str]]:
    """What can be deleted, without sizes, and what is left alone, and why."""
    needs = _needs(folder)
    found: list[Prunable] = []
    kept: list[str] = []
    for name in (STAGES, DATASETS):
        place = folder / name
        if place.is_symlink():
            kept.append(f"{place} leads to {os.path.realpath(place)}, which other folders of runs may share")
            continue
        try:
            entries = sorted(place.iterdir()) if place.is_dir() else []
        except OSError as error:
            kept.append(f"{place}: {_reason(error)}")
            continue
        whole = [each for each in entries if each.is_dir() and not each.is_symlink() and not each.name.startswith(".")]
        found += [Prunable(each, "half-deleted") for each in entries if is_pruned(each) and not each.is_symlink()]
        if name == STAGES:
            unneeded = [each for each in whole if made_as(each.name) not in needs.stages]
            if needs.unread and unneeded:
                kept.append(f"{place}: what can't be read may link its stages: {'; '.join(needs.unread)}")
                continue
            found += [Prunable(each, "stage") for each in unneeded if each.name == made_as(each.name)]
            found += _checkpoints(folder, needs, kept)
        else:
            unneeded = [each for each in whole if _is_unread(each, needs, kept)]
            doubts = [*needs.unknown, *needs.unread, *(f"{run} is being made" for run in needs.busy)]
            if doubts and unneeded:
                kept.append(f"{place}: its datasets may be needed: {'; '.join(doubts)}")
                continue
            found += [Prunable(each, "dataset") for each in unneeded if each.name == made_as(each.name)]
        for attempt in (each for each in unneeded if each.name != made_as(each.name)):
            if why := _is_alive(attempt, older_than):
                kept.append(f"{attempt}: {why}")
            else:
                found.append(Prunable(attempt, "half-finished"))
    return found, kept


def _is_unread(dataset: Path, needs: _Needs, kept: list[str]) -> bool:
    """Whether a directory is a dataset, or an attempt at one, that no run has read."""
    if dataset.name != made_as(dataset.name):
        return True
    if os.path.realpath(dataset) in needs.data:
        return False
    try:
        return Dataset(dataset).hash not in needs.data
    except (ValueError, OSError) as error:
        kept.append(f"{dataset}: {_reason(error)}")
        return False


def _is_alive(attempt: Path, older_than: float) -> str:
    """Why an attempt may not be deleted; empty if it may."""
    try:
        if holder := lock.holder(attempt / LOCK):
            return f"{holder} works on it"
        times = [attempt.stat().st_mtime]
        times += [Path(place, name).lstat().st_mtime for place, _, files in os.walk(attempt) for name in files]
    except OSError as error:
        return _reason(error)
    return "" if time.time() - max(times) > older_than else "it was written to less than a day ago"


def _checkpoints(folder: Path, needs: _Needs, kept: list[str]) -> list[Prunable]:
    """Weights of checkpoints whose evaluations have finished in every run that links their stage."""
    evaluated: dict[Path, list[set[str]]] = {}
    for run in needs.runs:
        keys: set[str] = set()
        try:
            if (file := run / CHECKPOINT_EVALUATIONS).is_file() and run not in needs.busy:
                keys = {str(point["key"]) for point in read_mapping(file)["points"]}
        except (ValueError, KeyError, TypeError, OSError) as error:
            kept.append(f"{run / CHECKPOINT_EVALUATIONS}: {_reason(error)}")
        for stage in linked_stages(run):
            evaluated.setdefault(stage, []).append(keys)
    stages = Path(os.path.realpath(folder / STAGES))
    found = []
    for stage, of_runs in sorted(evaluated.items()):
        for step in snapshot_steps(stage) if stage.parent == stages else ():
            file = folder / STAGES / snapshot(stage.name, step) / WEIGHTS
            if file.is_file() and all(snapshot(stage.name, step).as_posix() in keys for keys in of_runs):
                found.append(Prunable(file, "checkpoint"))
    return found


def _put_away(each: Prunable) -> Path:
    """Take something out of every run's sight in one step; where it is then.

    Raises:
        OSError: it can't be moved, or somebody works on it.
    """
    if each.kind == "half-deleted":
        return each.place
    away = pruned(each.place)
    if os.path.lexists(away):
        _remove(away)
    if not os.access(each.place, os.W_OK):
        raise PermissionError(13, "it belongs to somebody else", str(each.place))
    if each.kind == "half-finished":
        with lock.held(each.place / LOCK):
            each.place.rename(away)
    else:
        each.place.rename(away)
    sync(away.parent)
    return away


def _remove(place: Path) -> None:
    """Remove a file or a directory; another process may be at it too."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, onerror=_unless_gone)
    else:
        place.unlink(missing_ok=True)


def _unless_gone(function: object, path: str, raised: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def _sized(found: Iterable[Prunable]) -> list[Prunable]:
    """The same with their sizes: files that have a name beside those here free nothing."""
    found = list(found)
    files: dict[tuple[int, int], list[int]] = {}  # names here, names anywhere, bytes, and whose it is
    for i, each in enumerate(found):
        paths = [each.place] if not each.place.is_dir() else []
        paths += [Path(place, name) for place, _, names in os.walk(each.place) for name in names]
        for path in paths:
            with suppress(OSError):
                about = path.lstat()
                entry = files.setdefault((about.st_dev, about.st_ino), [0, about.st_nlink, about.st_size, i])
                entry[0] += 1
    sizes = [0] * len(found)
    for here, anywhere, size, i in files.values():
        if here >= anywhere:
            sizes[i] += size
    return [replace(each, bytes=size) for each, size in zip(found, sizes, strict=True)]


def _reason(error: BaseException) -> str:
    if isinstance(error, lock.InUse):
        return f"{error} works on it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def prune_table(pruning: Pruning) -> FittedTable:
    """A row per thing that can be deleted or was, the largest first, the total, and below what was left alone."""
    found = sorted(pruning.found, key=lambda each: (-each.bytes, each.place))
    rows = [(str(each.place.relative_to(pruning.folder)), [each.kind, in_bytes(each.bytes)]) for each in found]
    rows.append(("total", [f"{len(found)}", in_bytes(pruning.bytes)]))
    title = f"{'deleted from' if pruning.deleted else 'not needed by any run in'} {pruning.folder}"
    return FittedTable(title, "", ["what", "size"], rows, notes=[f"left alone: {each}" for each in pruning.kept])
