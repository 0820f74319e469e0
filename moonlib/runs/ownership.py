"""A run directory belongs to one recipe, and at any time to one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from moonlib.artifacts.directories import LOCK, await_prune, links_to_stage, refuse_links, write_text
from moonlib.artifacts.layout import (
    CENTER_LINKS,
    CHECKPOINT_EVALUATIONS,
    CHECKPOINT_LINKS,
    COSTS,
    DAY_LINKS,
    DAYS,
    EXPORT,
    LEGEND,
    PREPROCESSING,
    RECIPE,
    RECORD,
    RESULTS,
)
from moonlib.config import recipe as recipes
from moonlib.config.earlier import present
from moonlib.config.fingerprint import material_recipe
from moonlib.config.recipe import Recipe
from moonlib.system import lock, processes


class RunExistsError(ValueError):
    """A run directory that holds another recipe's run, or is being worked on."""


@contextmanager
def claimed(run: Path, recipe: Recipe, replace: bool, *, runs: Path) -> Iterator[None]:
    """Hold a run directory for this recipe, or refuse it.

    Args:
        run: the run directory.
        recipe: what is to run in it.
        replace: use a directory of another recipe's run.
        runs: the folder of all runs that it lies in.

    Raises:
        RunExistsError: where it holds another recipe's run and ``replace`` is False (the message shows the difference),
            where it is no run directory or lies in one, or where another process works on it.
        FileExistsError: where it is reached through a link.
    """
    if not processes.is_first():
        yield
        return
    refuse_links(run, runs)
    for above in run.relative_to(runs).parents[:-1]:
        if os.path.lexists(runs / above / RECIPE):
            raise RunExistsError(
                f"{runs / above} is a run or an export, and holds no run: give this one another --name"
            )
    # What begins with a dot may be ours, of a run that was cut off before its first file.
    foreign = run.exists() and (not run.is_dir() or any(not entry.name.startswith(".") for entry in run.iterdir()))
    if foreign and not is_run(run):
        raise RunExistsError(f"{run} is not a run directory and not empty: give the run another --name")
    for name in (PREPROCESSING, *recipe.stages):
        if os.path.lexists(run / name) and not links_to_stage(run / name):
            raise RunExistsError(f"{run / name} is in the way of stage {name}: move it elsewhere")
    run.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(run / LOCK):
            claim(run, recipe, replace)
            await_prune(runs)
            yield
    except lock.InUse as holder:
        raise RunExistsError(
            f"{run} is in use by {holder}: wait for it to end, or give this run another --name"
        ) from None


def claim(run: Path, recipe: Recipe, replace: bool) -> None:
    """Write the recipe into the run directory unless another one is there."""
    file = run / RECIPE
    if file.exists():
        try:
            before = present(yaml.safe_load(file.read_text(encoding="utf-8")))
            changed = recipes.diff(material_recipe(before), material_recipe(recipe.config))
            lines = "\n".join(f"  {key}: {old} -> {new}" for key, old, new in changed)
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, RecursionError):
            changed, lines = [("", "", "")], "  (its recipe.yaml cannot be read)"
        if changed and not replace:
            raise RunExistsError(
                f"{run} holds the run of a recipe that differs:\n{lines}\n"
                "Give this run another --name, or pass --replace to replace that run (finished stages are kept)"
            )
        if changed:
            clear(run)
    write_text(file, yaml.safe_dump(recipe.config, sort_keys=False, allow_unicode=True))


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's: it has the recipe, and what nobody but `claimed` leaves beside it.

    A folder with a recipe alone may be somebody's own, and an export has one too.
    """
    file = directory / RECIPE
    if file.is_symlink() or not file.is_file() or (directory / EXPORT).exists():
        return False
    return (directory / LOCK).is_file() or any(links_to_stage(entry) for entry in directory.iterdir())


def clear(run: Path) -> None:
    """Delete what a run has found, and its links to stages; what else is in its directory is left alone."""
    for name in (RESULTS, LEGEND, COSTS, RECORD, CHECKPOINT_EVALUATIONS, DAYS):
        (run / name).unlink(missing_ok=True)
    folders = [run / name for name in (CHECKPOINT_LINKS, DAY_LINKS, CENTER_LINKS) if not (run / name).is_symlink()]
    below = [path for folder in folders for path in sorted(folder.rglob("*"), reverse=True)]  # the deepest first
    for entry in [*run.iterdir(), *below]:
        if links_to_stage(entry):
            entry.unlink()
    for folder in (*below, *folders):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
