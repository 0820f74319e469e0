"""Remedies for a damaged or missing file: the command that makes it again, by where the file lies."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from moonlib.artifacts.layout import DATASETS, EXPORT, RECIPE, STAGES, runs_of
from moonlib.system.download_cache import cache_directory, origin


def made_again(directory: Path) -> str:
    """Say how to have the content of a directory made again: a clause for the end of an error.

    Args:
        directory: a stage's, a run's, a dataset's, an export's, or one that another command wrote.

    Example: ``remove runs/.stages/0b1c…, and `moonlib fit --config runs/iter3/recipe.yaml …` makes it again``
    """
    directory = directory.resolve()
    if url := origin(directory):
        return (
            f"it is a copy of {url}: remove {cache_directory()}, and it is downloaded again; if it is damaged then, "
            "too, have the original written again"
        )
    directory = next((place for place in (directory, *directory.parents) if place.parent.name == STAGES), directory)
    above = directory.parent
    if above.name == STAGES:
        run = _run_of(directory, above.parent)
        command = f"`{fit_command(run)}`" if run else "the next `moonlib fit` that needs it"
        return f"remove {_shown(directory)}, and {command} makes it again"
    if above.name == DATASETS:
        return f"remove {_shown(directory)}, and the next `moonlib fit` builds it again"
    if (directory / "dataset.json").exists():
        return "copy the dataset again, or remove it and build it again"
    if (directory / RECIPE).exists():
        if (directory / EXPORT).exists():
            return "copy the export again, or remove it and export the run again"
        return f"remove it, and `{fit_command(directory)}` writes it again"
    if (directory / "snapshot.json").exists():
        return "`moonlib publish` makes a new snapshot, and `moonlib publish --rollback` goes back to the one before"
    if (directory / "sequence.npy").exists():
        return "restore it from a backup, or upsert the products into a new center"
    if (directory / "embedding.json").exists():
        return f"remove {_shown(directory)}, and the `moonlib embed` that wrote it makes it again"
    return f"copy {_shown(directory)} again, or remove it and run the command that wrote it once more"


def fit_command(run: Path) -> str:
    """The command that resumes a run, or makes anew what is missing of it.

    Args:
        run: its directory.
    """
    run = run.resolve()
    runs = runs_of(run)
    words = ["moonlib", "fit", "--config", _shown(run / RECIPE), "--runs", _shown(runs)]
    return shlex.join([*words, "--name", str(run.relative_to(runs))])


def _run_of(stage: Path, runs: Path) -> Path | None:
    """A run that links to a stage."""
    for folder, folders, files in os.walk(runs):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [Path(folder, name) for name in (*folders, *files)] if RECIPE in files else []
        if any(path.is_symlink() and os.path.realpath(path) == str(stage) for path in links):
            return Path(folder)
    return None


def _shown(path: Path) -> str:
    """A path as one would type it: relative where it is below the current directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
