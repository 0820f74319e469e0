"""Status of a center: its spaces, snapshots and aliases, their sizes, and what nobody can reach any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moonlib.center.aliases import Alias, read_aliases
from moonlib.center.layout import SNAPSHOT, SNAPSHOTS, SPACES, base_of, snapshot_numbers, snapshot_of
from moonlib.center.record import Record
from moonlib.center.snapshot import describe
from moonlib.center.space import Space, spaces
from moonlib.center.writing import require_center


@dataclass(frozen=True)
class SnapshotStatus:
    """A snapshot.

    Attributes:
        number: its number.
        products: that it holds.
        kind: of its index.
        recall_at_10: of its index, against the exact search, when it was published; None where nothing was compared.
        made: when it was built, in UTC.
        aliases: names of the aliases that lead to it.
        previous: names of those that led to it before, and that a rollback would lead there again.
    """

    number: int
    products: int
    kind: str
    recall_at_10: float | None
    made: datetime
    aliases: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpaceStatus:
    """A space.

    Attributes:
        name: its folder's name.
        products: that are there, whether they are in a snapshot or not.
        delta: rows and deletions that are newer than the newest snapshot.
        tombstones: deletions that no compaction has removed yet.
        sequence: of the last row.
        written: when its record was last written, in UTC.
        bytes: of all its files; what snapshots and the record share counts once.
        snapshots: ascending.
    """

    name: str
    products: int
    delta: int
    tombstones: int
    sequence: int
    written: datetime
    bytes: int
    snapshots: tuple[SnapshotStatus, ...]


@dataclass(frozen=True)
class Unreachable:
    """Something that no reader needs any more.

    Attributes:
        place: a folder.
        why: nobody needs it, and what removes it.
        bytes: that would be free without it.
    """

    place: Path
    why: str
    bytes: int


@dataclass(frozen=True)
class Status:
    """A center.

    Attributes:
        center: its folder.
        spaces: by name.
        aliases: where each leads, and led before.
        unreachable: what nobody can reach any more.
    """

    center: Path
    spaces: tuple[SpaceStatus, ...]
    aliases: dict[str, Alias]
    unreachable: tuple[Unreachable, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def read_status(center: Path, keep: int = 3) -> Status:
    """Read the status of a center. Nothing is written, and no lock is taken.

    Args:
        center: its folder.
        keep: how many of a space's newest snapshots a publish keeps.

    Raises:
        FileNotFoundError: there is no center.
        Damaged: a file is not what was written.
    """
    require_center(center)
    aliases = read_aliases(center)
    known = spaces(center)
    found = tuple(_space(space, aliases) for space in known.values())
    return Status(center, found, aliases, tuple(_unreachable(center, known, found, aliases, keep)))


def _space(space: Space, aliases: dict[str, Alias]) -> SpaceStatus:
    record = Record(space)
    ids, _ = record.live()
    snapshots = []
    for number in snapshot_numbers(space.directory):
        about = describe(space, number)
        made = (snapshot_of(space.directory, number) / SNAPSHOT).stat().st_mtime
        snapshots.append(
            SnapshotStatus(
                number,
                about.products,
                about.kind,
                about.recall_at_10,
                _moment(made),
                tuple(name for name, alias in aliases.items() if _leads(alias.now, space, number)),
                tuple(name for name, alias in aliases.items() if _leads(alias.previous, space, number)),
            )
        )
    covered = describe(space, snapshots[-1].number).sequence if snapshots else 0
    files = [*space.record.iterdir()]
    return SpaceStatus(
        space.name,
        len(ids),
        record.sequence - covered,
        record.tombstones,
        record.sequence,
        _moment(max(file.stat().st_mtime for file in files)),
        size_of([space.directory]),
        tuple(snapshots),
    )


def _unreachable(
    center: Path, known: dict[str, Space], found: tuple[SpaceStatus, ...], aliases: dict[str, Alias], keep: int
) -> Iterator[Unreachable]:
    targets = [target for alias in aliases.values() for target in (alias.now, alias.previous) if target is not None]
    named = {target.space for target in targets}
    for space, status in zip(known.values(), found, strict=True):
        if space.name not in named and status.snapshots:
            why = "no alias leads to it, now or before: remove the folder"
            yield Unreachable(space.directory, why, status.bytes)
            continue
        for snapshot in status.snapshots[:-keep]:
            if not snapshot.aliases and not snapshot.previous:
                place = snapshot_of(space.directory, snapshot.number)
                yield Unreachable(place, "no alias leads to it: the next publish removes it", freed_by(place))
        current = base_of(space.record, Record(space).number).name
        folders = [
            *space.record.glob("base-*"),
            *space.record.glob(".base-*"),
            *(space.directory / SNAPSHOTS).glob(".*"),
        ]
        folders += (space.directory / SNAPSHOTS).glob("*.partial")
        for place in folders:
            if place.name != current:
                yield Unreachable(place, "a writer that was killed left it: the next one removes it", freed_by(place))
    for place in (center / SPACES).glob(".*"):
        yield Unreachable(
            place, "a writer that was killed left it: the next upsert with --run removes it", freed_by(place)
        )


def _leads(target: Any, space: Space, number: int) -> bool:
    return target is not None and (target.space, target.snapshot) == (space.name, number)


def size_of(places: list[Path]) -> int:
    """Bytes of the files in folders, at any depth; a file that has several names counts once."""
    return sum({(found.st_dev, found.st_ino): found.st_size for found in _files(places)}.values())


def freed_by(place: Path) -> int:
    """Bytes of the files in a folder that have no other name elsewhere."""
    return sum(found.st_size for found in _files([place]) if found.st_nlink == 1)


def _files(places: list[Path]) -> Iterator[os.stat_result]:
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                try:
                    yield Path(folder, name).lstat()
                except OSError:  # removed meanwhile
                    continue


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
