"""How results reach the disk: whole or not at all, and never over somebody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moonlib.artifacts import layout
from moonlib.artifacts.checksums import LOCK, SUMS, seal
from moonlib.artifacts.layout import PRUNE_LOCK, STAGES
from moonlib.system import lock
from moonlib.system.disk import rename, replacing, sync, unfinished


@contextmanager
def attempt(directory: Path, announce: Callable[[str], None], but: Collection[str] = ()) -> Iterator[Path | None]:
    """Work on a directory that takes its real name once everything in it is written.

    What is written goes to ``<name>.partial``; an attempt that is cut off leaves it there for the next. Of several
    processes one works and the others wait for it. When it takes its name, all of it is on the disk, and its checksums
    are noted, see `moonlib.artifacts.checksums`.

    Args:
        directory: the real name.
        announce: called with who works on it already, before waiting for them.
        but: names of files and folders that only an unfinished attempt needs; deleted once the directory has its name.

    Yields:
        Where to write, or None if the directory is finished.

    Raises:
        FileExistsError: ``<name>.partial`` is a link.
    """
    if directory.exists():
        yield None
        return
    partial = layout.partial(directory)
    refuse_links(partial, directory.parent)
    with lock.awaited(partial / LOCK, announce):
        if directory.exists():
            shutil.rmtree(partial, ignore_errors=True)
            yield None
            return
        (partial / SUMS).unlink(missing_ok=True)  # of an attempt that ended just before it took its name
        yield partial
        for left in partial.rglob(".*.partial"):  # of an attempt that was killed while it wrote a file
            left.unlink()
        kept = [partial / name for name in but]  # if all else fails from here on, it is not begun anew
        seal(partial, [path for path in partial.rglob("*") if not any(each in (path, *path.parents) for each in kept)])
        (partial / LOCK).unlink()
        rename(partial, directory)
        for name in but:
            left = directory / name
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def refuse_links(path: Path, below: Path) -> None:
    """Refuse to write where a link leads: whose that place is, its name does not say.

    Args:
        path: where something is to be written.
        below: a directory above it; this one, and what is above it, may be links.

    Raises:
        FileExistsError: a part of the path is a link.
    """
    place = below
    for part in path.relative_to(below).parts:
        place = place / part
        if place.is_symlink():
            raise FileExistsError(f"{place} is a symbolic link, and moonlib writes through none: remove it")


def links_to_stage(path: Path) -> bool:
    """Whether a path is a link of a run to one of its stages."""
    return path.is_symlink() and path.readlink().parent.name == STAGES


@contextmanager
def linking(runs: Path) -> Iterator[None]:
    """Hold the lock of who links stages, and of who deletes those that nobody links; it is held for a moment only.

    Args:
        runs: the folder of all runs. Whoever may write there may hold it.
    """
    file = runs / PRUNE_LOCK
    if not os.path.lexists(file):
        runs.mkdir(parents=True, exist_ok=True)
        file.touch()
        with suppress(OSError):  # somebody else made it in between
            file.chmod(runs.stat().st_mode & 0o666)
    with lock.awaited(file, lambda holder: None):
        yield


def await_prune(runs: Path) -> None:
    """Wait until nobody deletes what no run needs; who begins to later has seen the run that was claimed before.

    Args:
        runs: the folder of all runs.
    """
    with linking(runs):
        return


def link(path: Path, target: Path) -> None:
    """Point a run's relative link at a stage, replacing an older one in one step.

    Raises:
        FileExistsError: what is there is no such link.
    """
    if os.path.lexists(path) and not links_to_stage(path):
        raise FileExistsError(
            f"{path} is in the way of a link to {target}, and not of moonlib's making: move it elsewhere"
        )
    partial = unfinished(path)
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, path.parent))
    partial.replace(path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON has no word for.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
