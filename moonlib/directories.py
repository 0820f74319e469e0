"""How results reach the disk: whole or not at all, and never over somebody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moonlib import lock
from moonlib.disk import writing

LOCK = ".lock"


@contextmanager
def attempt(directory: Path, announce: Callable[[str], None]) -> Iterator[Path | None]:
    """Work on a directory that takes its real name once everything in it is written.

    What is written goes to ``<name>.partial``; an attempt that is cut off leaves it there for the next. Of several
    processes one works and the others wait for it.

    Args:
        directory: the real name.
        announce: called with who works on it already, before waiting for them.

    Yields:
        Where to write, or None if the directory is finished.
    """
    if directory.exists():
        yield None
        return
    partial = directory.with_name(f"{directory.name}.partial")
    with lock.awaited(partial / LOCK, announce):
        if directory.exists():
            shutil.rmtree(partial, ignore_errors=True)
            yield None
            return
        yield partial
        (partial / LOCK).unlink()
        partial.replace(directory)


def link(path: Path, target: Path) -> None:
    """Point a relative link at ``target``, replacing an older one in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, path.parent))
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON under a temporary name and rename it."""
    write_text(path, json.dumps(value, indent=1) + "\n")
