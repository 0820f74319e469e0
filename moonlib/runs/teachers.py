"""Vectors that a stage learns from: those of a stage before it, of another run, or of a folder or file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moonlib.artifacts.layout import RECIPE
from moonlib.artifacts.reading import Unreadable
from moonlib.config.merge import hint
from moonlib.config.recipe import Recipe
from moonlib.representations.store import Representations
from moonlib.runs.comparable import content_digest
from moonlib.runs.run import Run, RunError
from moonlib.system.remote import is_url, without_credentials

PRODUCTS = "products"
"""The name of products' vectors in a folder."""


@dataclass(frozen=True)
class Teacher:
    """Vectors of products on disk.

    Attributes:
        directory: where they are.
        name: of their files, such as ``products``.
    """

    directory: Path
    name: str = PRODUCTS

    @property
    def exists(self) -> bool:
        """Whether both of their files are there."""
        return all((self.directory / f"{self.name}{end}").is_file() for end in (".npy", ".ids.npy"))

    @property
    def digest(self) -> str:
        """Hash of the vectors and of their ids: 16 hexadecimal digits."""
        return content_digest(self.directory, self.name)

    def open(self) -> Representations:
        """Map the vectors from disk.

        Raises:
            Damaged: a file is not what was written.
            Unreadable: a file holds no vectors, or not as many as ids.
        """
        return Representations.open(self.directory, self.name)


def teacher_at(given: str) -> Teacher:
    """Find vectors outside of the run.

    Args:
        given: a run, a folder with ``products.npy`` and ``products.ids.npy``, or a file ``NAME.npy`` beside its
            ``NAME.ids.npy``, as ``Loss.teacher`` names it.

    Raises:
        RunError: there are none.
    """
    if is_url(given):
        shown = without_credentials(given)
        raise RunError(f"teacher: {shown} is a URL: copy the run or the folder of vectors to this machine first")
    place = Path(given).expanduser()
    if place.suffix == ".npy" and (found := Teacher(place.parent, place.stem)).exists:
        return found
    if (found := Teacher(place)).exists:
        return found
    if (place / RECIPE).is_file():
        try:
            return Teacher(Run(place).represented)
        except RunError as error:
            raise RunError(f"teacher: {error}") from error
    raise RunError(
        f"teacher: {given} is no stage of this recipe, and no run or folder of vectors: expected the name of a stage "
        f"before this one, a run, a folder with {PRODUCTS}.npy and {PRODUCTS}.ids.npy (`moonlib embed` writes one), or "
        "a file NAME.npy beside its NAME.ids.npy"
    )


def require_teachers(recipe: Recipe) -> None:
    """Refuse a recipe whose stages learn from vectors that are not there, before hours are spent on the stages ahead.

    Raises:
        RunError: naming the stage and the teacher.
    """
    before: list[str] = []
    for name, stage in recipe.stages.items():
        for given in stage.module().teachers:
            key = f"stages.{name}: teacher"
            if given not in recipe.stages:
                try:
                    teacher_at(given)
                except RunError as error:
                    near = "" if "/" in given else f"; {hint(given, before)}"
                    raise RunError(f"stages.{name}: {error}{near}") from error
            elif given not in before:
                raise RunError(f"{key}: {given} is no stage before this one: move it with `after`")
            elif recipe.provides[given] not in ("vectors", "representations"):
                raise RunError(f"{key}: the stage {given} leaves no vectors; name one that does, such as represent")
        before.append(name)


def open_teachers(teachers: Mapping[str, Teacher]) -> dict[str, Representations]:
    """Map the vectors of all teachers of a stage.

    Raises:
        RunError: some can't be read.
    """
    try:
        return {given: teacher.open() for given, teacher in teachers.items()}
    except (OSError, Unreadable) as error:
        raise RunError(f"teacher: {error}") from error
