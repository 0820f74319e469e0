"""``run.json`` of a run: its recipe's name, when it finished, the data that it read, and the runs it came from.

A recipe names the runs that it starts from by paths as they were typed where `moonlib fit` ran. The record has them
relative to the run, so that a folder of runs can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from moonlib.artifacts.checksums import again
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import RunLayout
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.config.recipe import Recipe
from moonlib.data.dataset import Dataset
from moonlib.runs.lineage import DATA
from moonlib.runs.parents import parents_record, relative_to_run


@dataclass(frozen=True)
class DataRecord:
    """The data of a run.

    Attributes:
        name: what its maker calls it.
        hash: SHA-256 over its content.
        until: the moment, ISO 8601, at which its test days end.
        place: its directory, relative to the run's.
    """

    name: str = ""
    hash: str = ""
    until: str = ""
    place: str = ""


@dataclass(frozen=True)
class RunRecord:
    """Notes of a run about itself.

    Attributes:
        recipe: the name of its recipe's file, without the ending.
        data: what it read.
        parents: directory of each run, export or dataset that it came from, relative to the run's, by how it is named:
            see `moonlib.runs.parents.Parent`.
        centers: ``space@snapshot`` of the representation center that a stage reads, by the stage's name.
        finished: the moment, ISO 8601, at which it finished; empty until then.
    """

    recipe: str = ""
    data: DataRecord = field(default_factory=DataRecord)
    parents: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    centers: Mapping[str, str] = field(default_factory=dict)


def write_record(run: RunLayout, record: RunRecord) -> None:
    """Write ``run.json``."""
    write_json(run.record, asdict(record))


def read_record(run: RunLayout) -> RunRecord | None:
    """Read ``run.json``; None for a run that has none, such as one of an earlier version.

    Raises:
        ValueError: the file is damaged, see `moonlib.artifacts.reading.reading`, or holds something else.
    """
    if not os.path.lexists(run.record):
        return None
    found = read_mapping(run.record)
    data, parents, centers = (found.get(name, {}) for name in ("data", "parents", "centers"))
    texts = [found.get("recipe", ""), found.get("finished", "")]
    if isinstance(data, Mapping) and isinstance(parents, Mapping) and isinstance(centers, Mapping):
        texts += [data.get(name, "") for name in DataRecord.__dataclass_fields__]
        texts += [*parents, *parents.values(), *centers, *centers.values()]
        if all(isinstance(text, str) for text in texts) and _is_moment(texts[1]) and _is_moment(data.get("until", "")):
            known = DataRecord(**{name: data.get(name, "") for name in DataRecord.__dataclass_fields__})
            return RunRecord(texts[0], known, dict(parents), texts[1], dict(centers))
    raise Unreadable(f"{run.record} is not what a run notes of itself; {again(run.record)}")


def begin_record(run: RunLayout, recipe: Recipe, dataset: Dataset, centers: Mapping[str, str] = {}) -> None:
    """Note what is known of a run when its data is there.

    A run that has finished before, with the same data, stays finished.

    Args:
        run: its places.
        recipe: its recipe; the paths in it are seen from the current directory.
        dataset: its data.
        centers: see `RunRecord`.
    """
    place = relative_to_run(dataset.directory, run.directory)
    data = DataRecord(dataset.name, dataset.hash, dataset.splits.test_until.isoformat(), place)
    before = None
    with suppress(ValueError):  # one that can't be read is made anew
        before = read_record(run)
    finished = before.finished if before is not None and before.data.hash == data.hash else ""
    parents = parents_record(recipe.config, run.directory, dataset)
    write_record(run, RunRecord(recipe.name, data, parents, finished, centers))


def end_record(run: RunLayout, costs: Mapping[str, Mapping[str, Any]]) -> None:
    """Note when a run finished; one that has made nothing since it last did keeps that moment.

    Args:
        run: its places.
        costs: as in ``costs.json``.
    """
    record = read_record(run)
    assert record is not None
    anew = any(not cost.get("reused") for stage, cost in costs.items() if stage != DATA)
    if anew or not record.finished:
        write_record(run, replace(record, finished=datetime.now(UTC).replace(microsecond=0).isoformat()))


def _is_moment(text: Any) -> bool:
    try:
        return not text or datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
