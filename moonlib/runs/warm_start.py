"""Warm start: the files of a run or an export that an encoder or a stage starts from, checked, and their digests.

A fingerprint holds the digests and no path: a run that is moved or copied starts the same training.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from moonlib.artifacts.checksums import LOCK, SUMS, Damaged, sums, verified
from moonlib.artifacts.layout import (
    CODEBOOKS,
    CODES,
    COST,
    EXPORT,
    EXPORT_HERE,
    EXPORT_WEIGHTS,
    IDENTITY,
    INITIAL_WEIGHTS,
    LOG,
    LOGGERS,
    PREPROCESSING,
    RECIPE,
    SNAPSHOTS,
    WEIGHTS,
    candidate,
    candidate_of,
    link_name,
)
from moonlib.config.merge import Key, RecipeError
from moonlib.config.recipe import Recipe, StageRecipe, fingerprint
from moonlib.config.warm_start import FROM, directory_of, encoder_at, stage_at
from moonlib.runs.lineage import lineage_of, needs_encoder
from moonlib.runs.run import Run, RunError
from moonlib.runs.step import StageOrigin

CARD = "README.md"
"""Of an export, for people to edit."""
NEEDS_ENCODER = "needs an encoder: declare one, or start from that of a run or an export (--encoder.from RUN)"


@dataclass(frozen=True)
class EncoderOrigin:
    """A trained encoder that another one starts from.

    Attributes:
        encoder: its class and arguments, without a path of this machine; part of the fingerprint.
        preprocessing: files of the fitted preprocessing, by their name relative to its directory.
        weights: file of them.
        digest: of all these files' content.
    """

    encoder: dict[str, Any]
    preprocessing: dict[str, Path]
    weights: Path
    digest: str

    def copy_preprocessing(self, directory: Path) -> None:
        """Copy the preprocessing's files into a directory, over what an interrupted attempt left there."""
        for name, file in self.preprocessing.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, directory / name)


def encoder_origin(source: str) -> EncoderOrigin:
    """Find and verify what an encoder starts from.

    Args:
        source: what the recipe's key ``encoder.from`` says.

    Raises:
        RecipeError: it is no run and no export, has no trained encoder, is not finished, or a file is missing or
            damaged.
    """
    key: Key = ("encoder", FROM)
    directory = directory_of(source, key)
    encoder = encoder_at(directory, key)
    if (directory / EXPORT).is_file():
        ours = {EXPORT, EXPORT_WEIGHTS, CARD, RECIPE, CODES, CODEBOOKS, *_named_inside(encoder)}
        preprocessing, weights = _files(directory, ours), directory / EXPORT_WEIGHTS
        if not weights.is_file():
            raise RecipeError(f"{weights} is missing; export the run again", key)
    else:
        try:
            run = Run(directory)
            fitted = run.finished(PREPROCESSING)
            weights = run.weights or fitted / INITIAL_WEIGHTS
        except RunError as error:
            raise RecipeError(f"{error}; or start from another", key) from error
        if not weights.is_file():
            problem = f"no stage of {directory} trains the encoder" if run.weights is None else f"{weights} is missing"
            raise RecipeError(f"{problem}: give a finished run that trained it, or leave encoder.from out", key)
        preprocessing = _files(fitted, {IDENTITY, INITIAL_WEIGHTS})
    digests = _digests([*preprocessing.values(), weights], key)
    content = {PREPROCESSING: dict(zip(preprocessing, digests, strict=False)), "weights": digests[-1]}
    return EncoderOrigin(encoder, preprocessing, weights, fingerprint(content))


def require_origins(recipe: Recipe) -> None:
    """Refuse a recipe that starts from what is not there or can't be started from, before any data is built.

    Args:
        recipe: about to run.

    Raises:
        RecipeError: see `encoder_origin` and `stage_origin`; or a stage needs an encoder and there is none.
    """
    if recipe.encoder_source is not None:
        encoder_origin(recipe.encoder_source)
    for name, stage in recipe.stages.items():
        if needs_encoder(stage.module().needs) and not recipe.has_encoder:
            raise RecipeError(f"{recipe.path}: stages.{name} {NEEDS_ENCODER}")
        if stage.module().requires_codes and lineage_of(recipe.provides, until=name).codes is None:
            problem = "reads codes of representations: put a stage quantise between the representations and it"
            raise RecipeError(f"{recipe.path}: stages.{name} {problem}")
        stage_origin(stage)


def stage_origin(stage: StageRecipe, reference: str = "", preprocessing: Path | None = None) -> StageOrigin | None:
    """Find and verify what a stage starts from.

    Args:
        stage: its part of the recipe.
        reference: prefix of the reference that is to run, which starts from the same reference there.
        preprocessing: of the encoder that it trains; None where there is none, or it is not fitted yet.

    Returns:
        None for a stage without the key ``from``.

    Raises:
        RecipeError: there is no such stage, it is another kind of stage, has not finished or was deleted, its encoder
            has another preprocessing, or a file is damaged.
    """
    if stage.source is None:
        return None
    key: Key = ("stages", stage.name, FROM)
    directory, name = stage_at(stage.source, stage.name, key)
    try:
        run = Run(directory)
        cls = run.class_of(name)
        made = run.finished(_link_there(directory, name, reference))
        fitted = run.finished(PREPROCESSING) if stage.provides == "weights" else None
    except RunError as error:
        raise RecipeError(f"{error}; or start from another", key) from error
    if fitted is None:
        if cls is not stage.cls:
            problem = f"{directory}/{name} is of class {cls.__name__}, and this stage of {stage.cls.__name__}"
            raise RecipeError(f"{problem}: give RUN/STAGE of one", key)
        return StageOrigin(made, fingerprint(_content(made, key)))
    if cls.provides != "weights":
        problem = f"{directory}/{name} is of class {cls.__name__}, which trains no encoder"
        raise RecipeError(f"{problem}: give RUN/STAGE of one that does", key)
    if not (made / WEIGHTS).is_file():
        raise RecipeError(f"{made / WEIGHTS} is missing: give another run", key)
    there = _preprocessing(fitted, key)
    here = there if preprocessing is None else _preprocessing(preprocessing, key)
    for file in sorted({*here, *there}):
        if here.get(file) != there.get(file):
            raise RecipeError(
                f"the {file} of {directory} is not this run's, so that its weights would mean something else here: "
                f"start the encoder from that run (encoder.from: {directory}) and leave {'.'.join(key)} out",
                key,
            )
    return StageOrigin(made, _digests([made / WEIGHTS], key)[0])


def _link_there(directory: Path, name: str, reference: str) -> str:
    """Link of what a reference starts from; of several candidates, the first stands where others have only one."""
    prefixes = [reference]
    if alone := candidate_of(reference):
        prefixes += [alone] if reference == candidate(alone, 0) else []
    elif reference:
        prefixes.insert(0, candidate(reference, 0))
    links = [link_name(name, prefix) for prefix in prefixes]
    return next((link for link in links if (directory / link).exists()), link_name(name, reference))


def _preprocessing(directory: Path, key: Key) -> dict[str, str]:
    """Digests of the files of fitted preprocessing."""
    files = _files(directory, {IDENTITY, INITIAL_WEIGHTS})
    return dict(zip(files, _digests(files.values(), key), strict=True))


def _content(directory: Path, key: Key) -> dict[str, str]:
    """Digests of the files of a stage, without those that differ between two that computed the same."""
    files = _files(directory, {COST, LOGGERS, PurePosixPath(LOG).parts[0], SNAPSHOTS})
    return dict(zip(files, _digests(files.values(), key), strict=True))


def _files(directory: Path, but: Iterable[str]) -> dict[str, Path]:
    """Files in a directory by their relative name, without hidden ones and files or folders of these names in it."""
    left_out = {SUMS, LOCK, *but}
    return {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and (top := path.relative_to(directory).parts[0]) not in left_out and not top.startswith(".")
    }


def _digests(files: Iterable[Path], key: Key) -> list[str]:
    """SHA-256 of the content of files, after comparing them with their checksums.

    Raises:
        RecipeError: one is damaged or missing.
    """
    found = []
    for file in files:
        try:
            verified(file)
            noted = sums(file.resolve().parent).get(file.name)
            if noted is None:
                with file.open("rb") as stream:
                    noted = hashlib.file_digest(stream, "sha256").hexdigest()
        except (Damaged, FileNotFoundError) as error:
            raise RecipeError(str(error), key) from error
        found.append(noted)
    return found


def _named_inside(encoder: Mapping[str, Any]) -> set[str]:
    """Names of the files and folders of an export that its encoder's arguments name: of its parts, not fitted."""
    found: set[str] = set()
    waiting: list[Any] = [encoder]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and value.startswith(f"{EXPORT_HERE}/"):
            found.add(PurePosixPath(value.removeprefix(f"{EXPORT_HERE}/")).parts[0])
    return found
