"""The runs that a run came from: those that its recipe starts from, and the dataset that its own was appended to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonlib.artifacts.layout import EXPORT, RECIPE
from moonlib.artifacts.reading import read_mapping
from moonlib.center.layout import CENTER
from moonlib.config.recipe import REPRESENTATIONS
from moonlib.data.dataset import Dataset
from moonlib.system.remote import is_url, without_credentials

DATA = "data"
"""How a run comes from the dataset that its own was appended to."""

CENTER_OF = "center of "
"""How a run comes from the center that a stage reads, before the stage's name."""


@dataclass(frozen=True)
class Parent:
    """A run, an export, a center or a dataset that a run came from.

    Attributes:
        how: ``encoder``, ``stage posttrain``, ``posttrain compatible with``, ``posttrain taught distill by``,
            ``center of application`` or ``data``.
        given: its path, as the recipe has it or as the dataset notes it.
        place: its directory; None where it is not any more, or is a URL.
    """

    how: str
    given: str
    place: Path | None

    @property
    def is_lost(self) -> bool:
        """Whether it was moved, deleted or pruned."""
        return self.place is None and not is_url(self.given)

    def __str__(self) -> str:
        given = without_credentials(self.given)
        return f"{given}: no longer there" if self.is_lost else given


def named_parents(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths of runs, exports and centers that a recipe starts from, each with how; see `Parent`.

    Args:
        config: the recipe, merged and expanded.

    Example:
        >>> list(named_parents({"encoder": {"from": "runs/week1"}, "stages": {"posttrain": {"from": "runs/week1"}}}))
        [('encoder', 'runs/week1'), ('stage posttrain', 'runs/week1')]
    """
    for how, section in _sections(config):
        if isinstance(given := section.get("from"), str) and given:
            yield how, given
    for how, section in _sections(config):
        module = section.get("module")
        arguments = module.get("init_args") if isinstance(module, Mapping) else None
        given = arguments.get("compatible_with") if isinstance(arguments, Mapping) else None
        if isinstance(given, str) and given:
            yield f"{how.removeprefix('stage ')} compatible with", given
    stages = config.get("stages")
    for how, section in _sections(config):
        for name, given in _teachers(section):
            if not (isinstance(stages, Mapping) and given in stages):
                yield f"{how.removeprefix('stage ')} taught {name} by", given
    for how, section in _sections(config):
        center = section.get(REPRESENTATIONS)
        given = center.get("center") if isinstance(center, Mapping) else None
        if isinstance(given, str) and given:
            yield f"{CENTER_OF}{how.removeprefix('stage ')}", given


def _teachers(section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The teachers of a stage's losses, by the name of the loss."""
    module = section.get("module")
    arguments = module.get("init_args") if isinstance(module, Mapping) else None
    if not isinstance(arguments, Mapping):
        return
    several = arguments.get("losses")
    entries = several if isinstance(several, Mapping) else {}
    losses = {"loss": arguments.get("loss")}
    losses |= {str(name): entry.get("loss") for name, entry in entries.items() if isinstance(entry, Mapping)}
    for name, loss in losses.items():
        given = loss.get("init_args") if isinstance(loss, Mapping) else None
        teacher = given.get("teacher") if isinstance(given, Mapping) else None
        if isinstance(teacher, str) and teacher:
            yield name, teacher


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(encoder := config.get("encoder"), Mapping):
        yield "encoder", encoder
    stages = config.get("stages")
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        if isinstance(stage, Mapping):
            yield f"stage {name}", stage


def appended_to(dataset: Path) -> str | None:
    """The directory that a dataset was appended to, as its ``dataset.json`` has it; None for one that was not.

    Raises:
        ValueError, OSError: the file can't be read.
    """
    found = read_mapping(dataset / "dataset.json").get("appended_to")
    found = found.get("path") if isinstance(found, Mapping) else found
    return found if isinstance(found, str) and found else None


def parents_of(config: Mapping[str, Any], run: Path, noted: Mapping[str, str]) -> tuple[Parent, ...]:
    """The parents of a run, where they are now.

    A parent is where the run has noted it, relative to the run; else its path is looked for from here and from every
    folder above the run, as the data is.

    Args:
        config: the run's recipe.
        run: its directory.
        noted: what `parents_record` returned when it ran; empty for a run of an earlier version.
    """
    named = dict(named_parents(config))
    if DATA in noted:
        named[DATA] = os.path.normpath(run / noted[DATA])
    return tuple(Parent(how, given, _place(given, run, noted.get(how))) for how, given in named.items())


def parents_record(config: Mapping[str, Any], run: Path, dataset: Dataset) -> dict[str, str]:
    """Notes of a run about its parents, by how; those that are nowhere are left out.

    Args:
        config: its recipe, with paths as they are seen from here.
        run: its directory.
        dataset: its data.
    """
    places = {how: _place(given, run, None) for how, given in named_parents(config)}
    if given := appended_to(dataset.directory):
        before = Path(given) if Path(given).is_absolute() else dataset.directory / given
        places[DATA] = before
    return {how: relative_to_run(place, run) for how, place in places.items() if place is not None}


def relative_to_run(place: Path, run: Path) -> str:
    """A place as it is seen from a run, with all links followed."""
    return Path(os.path.relpath(os.path.realpath(place), os.path.realpath(run))).as_posix()


def _place(given: str, run: Path, noted: str | None) -> Path | None:
    """Where a parent is; None if nowhere, or if it is a URL."""
    if is_url(given):
        return None
    path = Path(given).expanduser()
    seen = [path] if path.is_absolute() else [path, *(above / path for above in run.resolve().parents)]
    for place in [*([Path(os.path.normpath(run.resolve() / noted))] if noted else []), *seen]:
        if (whole := _whole(place)) is not None:
            return whole
    return None


def _whole(place: Path) -> Path | None:
    """The run, export, center, dataset or folder of vectors at a place, which may also be a stage (``RUN/STAGE``)."""
    names = (RECIPE, EXPORT, "dataset.json", CENTER, "products.npy")
    try:
        return next((each for each in (place, place.parent) if any((each / name).is_file() for name in names)), None)
    except OSError:  # a name too long, a loop of links, a folder that may not be looked into
        return None
