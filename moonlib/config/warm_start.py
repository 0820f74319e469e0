"""Warm start: what the keys ``encoder.from`` and ``stages.NAME.from`` of a recipe name, a run or an export.

Only recipes are read here, so that a mistake is told when the recipe is typed; `moonlib.runs.warm_start` finds the
files. Nothing of what is named needs to be installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moonlib.artifacts.checksums import Damaged
from moonlib.artifacts.layout import EXPORT, EXPORT_HERE, RECIPE, is_read
from moonlib.config.earlier import present
from moonlib.config.merge import Key, RecipeError, hint
from moonlib.system.remote import is_url, local_copy, without_credentials

FROM = "from"
"""The key, of the encoder and of a stage."""


def parted(encoder: Any) -> tuple[str | None, Any]:
    """Part a recipe's section ``encoder`` into its key ``from`` and the component.

    Returns:
        What ``from`` says, None without it; and the rest, None where there is none.

    Raises:
        RecipeError: ``from`` is no text.

    Example:
        >>> parted({"from": "runs/week1"}), parted({"class_path": "dual"})
        (('runs/week1', None), (None, {'class_path': 'dual'}))
    """
    if not isinstance(encoder, Mapping) or FROM not in encoder:
        return None, encoder
    return named(encoder[FROM], ("encoder", FROM)), {key: each for key, each in encoder.items() if key != FROM} or None


def component(encoder: Any) -> dict[str, Any]:
    """The class and arguments of a run's section ``encoder``, without what it started from."""
    return {key: value for key, value in encoder.items() if key != FROM}


def named(source: Any, key: Key) -> str:
    """Refuse what names no run, such as a number or nothing.

    Raises:
        RecipeError: naming the key.
    """
    if not isinstance(source, str) or not source.strip():
        raise RecipeError(f"expected a run directory such as runs/last_week, got {source!r}", key)
    return source


def directory_of(source: str, key: Key) -> Path:
    """The directory that a recipe starts from; of a URL, the copy in the cache.

    Args:
        source: a run directory, an export, or the URL of one; a relative path is one from here.
        key: for errors.

    Raises:
        RecipeError: it is neither.
        RemoteError: the URL can't be read.
    """
    directory, shown = local_copy(source, is_read), without_credentials(source)
    if not directory.is_dir():
        raise RecipeError(f"{shown}: there is no such run directory, seen from {Path.cwd()}", key)
    if not any((directory / name).is_file() for name in (EXPORT, RECIPE)):
        raise RecipeError(
            f"{shown} is neither a run directory, it has no {RECIPE}, nor an export, it has no {EXPORT}; give what "
            "`moonlib fit` or `moonlib export` printed",
            key,
        )
    return directory


def encoder_at(directory: Path, key: Key = ("encoder", FROM)) -> dict[str, Any]:
    """The encoder of a run or of an export, as a recipe writes a component in full.

    Args:
        directory: see `directory_of`. The arguments of an export may name its own folder as ``${export}``.
        key: for errors.

    Raises:
        RecipeError: it has none, or is no run's or export's.
    """
    if (directory / EXPORT).is_file():
        from moonlib.artifacts.reading import Unreadable, read_json  # with polars: a wrong letter is told without it

        try:
            config = read_json(directory / EXPORT)
        except (Unreadable, Damaged) as error:
            raise RecipeError(str(error), key) from None
        if not isinstance(config, dict) or "moonlib_export" not in config:
            raise RecipeError(
                f"{directory / EXPORT} was not written by `moonlib export` (without --to): it holds no encoder that "
                "can be trained on; give a run directory",
                key,
            )
    else:
        config = recipe_at(directory, key)
    encoder = config.get("encoder")
    if not isinstance(encoder, dict) or "class_path" not in encoder:
        raise RecipeError(f"{directory} declares no encoder; give a run whose recipe has one", key)
    return component(encoder)


def opened(encoder: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The encoder that `encoder_at` returned, with the place of an export's folder in its arguments."""
    here = json.dumps(str(directory.resolve()))[1:-1]
    found: dict[str, Any] = json.loads(json.dumps(encoder).replace(EXPORT_HERE, here))
    return found


def stage_at(source: str, stage: str, key: Key) -> tuple[Path, str]:
    """The run directory, and the name of the stage there, that a stage starts from.

    Args:
        source: ``RUN``, for its stage of the same name, or ``RUN/STAGE``.
        stage: the name of the stage that starts from it.
        key: for errors.

    Raises:
        RecipeError: it is no run, or has no such stage.
        RemoteError: the URL can't be read.
    """
    above, _, name = source.rstrip("/").rpartition("/")
    of_stage = not is_url(source) and not (Path(source) / RECIPE).is_file() and (Path(above) / RECIPE).is_file()
    directory, name = directory_of(above if of_stage and above else source, key), name if of_stage else stage
    if (directory / EXPORT).is_file():
        raise RecipeError(
            f"{without_credentials(source)} is an export, which holds no stages: give a run directory, or start the "
            "encoder from it (encoder.from)",
            key,
        )
    stages = recipe_at(directory, key).get("stages")
    if not isinstance(stages, dict) or name not in stages:
        raise RecipeError(f"{directory} has no stage '{name}': give RUN/STAGE of one; {hint(name, stages or ())}", key)
    return directory, name


def recipe_at(directory: Path, key: Key) -> dict[str, Any]:
    """The recipe of a run, with today's keys.

    Raises:
        RecipeError: there is none, or it can't be read.
    """
    file = directory / RECIPE
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{file} can't be read: {' '.join(str(error).split())}", key) from None
    if not isinstance(config, dict):
        raise RecipeError(f"{file} is not the recipe of a run", key)
    return present(config)
