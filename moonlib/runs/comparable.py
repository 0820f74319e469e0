"""An earlier run whose vectors a stage is to stay comparable with, and hashes of what it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

from moonlib.artifacts.checksums import sums
from moonlib.runs.run import Run, RunError
from moonlib.stages.comparable import OldRun


def old_run(place: str) -> OldRun:
    """Find the representations of an earlier run.

    Args:
        place: its directory or its URL, as a stage's ``compatible_with`` names it.

    Raises:
        RunError: it is no run, or holds no representations.
        RemoteError: the URL can't be read.
    """
    try:
        run = Run(place)
        return OldRun(place, run.represented, run.modalities("product"))
    except RunError as error:
        raise RunError(f"compatible_with: {error}") from error


def content_of(run: OldRun) -> str:
    """Hash of the products' vectors and ids, and of what they read: 16 hexadecimal digits."""
    return content_digest(run.directory, "products", str(run.product))


def content_digest(directory: Path, name: str, *about: str) -> str:
    """Hash of vectors and their ids: 16 hexadecimal digits.

    Args:
        directory: where they are.
        name: of their files.
        about: what else is hashed.
    """
    noted = sums(directory)
    lines = [*about]
    for file in (directory / f"{name}{end}" for end in (".npy", ".ids.npy", ".ids.parquet")):
        if not file.is_file():
            continue
        digest = noted.get(file.name)
        if digest is None:  # of a run that is older than checksums
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        lines.append(f"{file.name}={digest}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
