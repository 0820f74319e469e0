"""Reuse of a run whose parents are gone: what it needs of them stands in the identities of its own stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moonlib.artifacts.checksums import Damaged
from moonlib.artifacts.layout import IDENTITY, PREPROCESSING, RunLayout
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.config.merge import RecipeError
from moonlib.config.recipe import Recipe, load
from moonlib.config.warm_start import component
from moonlib.runs.parents import named_parents
from moonlib.runs.step import StageOrigin
from moonlib.runs.warm_start import EncoderOrigin
from moonlib.system.remote import is_url


@dataclass(frozen=True)
class LostParents:
    """Parents that are gone, as a run has noted them.

    Attributes:
        run: where it is.
        named: the parents that are gone, as the recipe names them.
        error: what is wrong without them; raised where work is left to do that needs them.
    """

    run: RunLayout
    named: tuple[str, ...]
    error: Exception

    def encoder(self) -> EncoderOrigin:
        """Origin of the encoder, without its files."""
        noted = self._identity(PREPROCESSING)
        return EncoderOrigin(self._of(noted, "encoder"), {}, self.run.preprocessing, self._of(noted, "from"))

    def stage(self, link: str) -> StageOrigin:
        """Origin of a stage, without its files.

        Args:
            link: name of the stage, or of a reference of it, in the run directory.
        """
        return StageOrigin(self.run.directory / link, self._of(self._identity(link), "from"))

    def comparable(self, link: str) -> str:
        """Hash of the vectors that a stage was to stay comparable with."""
        found: str = self._of(self._identity(link), "config", "module", "init_args", "compatible_with")
        return found

    def teacher(self, link: str, number: int) -> str:
        """Hash of the vectors that a stage has learned from.

        Args:
            link: see `stage`.
            number: among its teachers.
        """
        found: list[str] = self._of(self._identity(link), "teachers")
        if not number < len(found):
            raise self.error
        return found[number]

    def _identity(self, link: str) -> dict[str, Any]:
        try:
            return read_mapping(self.run.directory / link / IDENTITY)
        except (FileNotFoundError, Unreadable, Damaged):
            raise self.error from None

    def _of(self, noted: Any, *keys: str) -> Any:
        for key in keys:
            if not isinstance(noted, dict) or key not in noted:
                raise self.error
            noted = noted[key]
        return noted


def load_without(
    config: str | Path, overrides: Sequence[str], run: RunLayout, error: Exception
) -> tuple[Recipe, LostParents]:
    """Read the recipe of a run that was made already, and of whose parents some are gone.

    Args:
        config: as in `moonlib.runs.iteration.fit`.
        overrides: the same.
        run: where the run is.
        error: why it can't be read with them.

    Raises:
        Exception: ``error``, where there is no such run or its parents are there: something else is wrong.
    """
    try:
        before = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
        parents = dict.fromkeys(given for _, given in named_parents(before))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        raise error from None
    gone = tuple(given for given in parents if not is_url(given) and not Path(given).exists())
    if not gone:
        raise error
    try:
        try:
            return load(config, overrides, started=True), LostParents(run, gone, error)
        except RecipeError as problem:
            if problem.key != ("encoder", "from"):
                raise
        # The recipe takes the encoder from where it starts; the run has it.
        encoder = component(before["encoder"])
        words = [f"--encoder.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in encoder.items()]
        return load(config, [*overrides, *words], started=True), LostParents(run, gone, error)
    except (RecipeError, KeyError):
        raise error from None
