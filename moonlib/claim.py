"""A run directory belongs to one recipe, and at any time to one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from moonlib import lock, processes
from moonlib import recipe as recipes
from moonlib.directories import LOCK, write_text
from moonlib.fingerprint import material_recipe
from moonlib.recipe import Recipe


class RunExistsError(ValueError):
    """A run directory that holds another recipe's run, or is being worked on."""


@contextmanager
def claimed(run: Path, recipe: Recipe, replace: bool) -> Iterator[None]:
    """Hold a run directory for this recipe, or refuse it.

    Raises:
        RunExistsError: where it holds another recipe's run and ``replace`` is False (the message shows the difference),
            where it is no run directory, or where another process works on it.
    """
    if not processes.is_first():
        yield
        return
    # What begins with a dot may be ours, of a run that was cut off before its first file.
    foreign = run.exists() and (not run.is_dir() or any(not entry.name.startswith(".") for entry in run.iterdir()))
    if foreign and not (run / "recipe.yaml").exists():
        raise RunExistsError(f"{run} is not a run directory and not empty: give the run another --name")
    run.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(run / LOCK):
            claim(run, recipe, replace)
            yield
    except lock.InUse as holder:
        raise RunExistsError(
            f"{run} is in use by {holder}: wait for it to end, or give this run another --name"
        ) from None


def claim(run: Path, recipe: Recipe, replace: bool) -> None:
    """Write the recipe into the run directory unless another one is there."""
    file = run / "recipe.yaml"
    if file.exists():
        try:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
            changed = recipes.diff(material_recipe(before), material_recipe(recipe.config))
            lines = "\n".join(f"  {key}: {old} -> {new}" for key, old, new in changed)
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError):
            changed, lines = [("", "", "")], "  (its recipe.yaml cannot be read)"
        if changed and not replace:
            raise RunExistsError(
                f"{run} holds the run of a recipe that differs:\n{lines}\n"
                "Give this run another --name, or pass --replace to take the directory over (finished stages are kept)"
            )
        if changed:
            for entry in run.iterdir():
                if entry.is_symlink() or entry.name in ("results.json", "costs.json", "points.json"):
                    entry.unlink()
            shutil.rmtree(run / "points", ignore_errors=True)
    write_text(file, yaml.safe_dump(recipe.config, sort_keys=False, allow_unicode=True))
