"""Publish a space: compact its record, build a snapshot beside the others, check it, and switch the alias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonlib.center.aliases import Alias, Target, find_alias, read_aliases, write_aliases
from moonlib.center.layout import SPACE, SPACES, snapshot_numbers
from moonlib.center.record import Record
from moonlib.center.snapshot import Description, Probe, build, describe, next_number, remove_snapshots
from moonlib.center.space import Space, spaces
from moonlib.center.writing import writing_to
from moonlib.representations.index import IndexKind
from moonlib.representations.store import Representations


@dataclass(frozen=True)
class Published:
    """Outcome of a publish.

    Attributes:
        alias: that was switched.
        space: name of the space that it leads to now.
        snapshot: number of the snapshot.
        about: what was measured of it.
        removed: numbers of older snapshots that were deleted.
    """

    alias: str
    space: str
    snapshot: int
    about: Description
    removed: list[int]

    @property
    def name(self) -> str:
        """Such as ``3f2ab1c09d77-128-int8@000041``."""
        return str(Target(self.space, self.snapshot))


def publish(
    center: Path,
    space: Space,
    *,
    alias: str = "live",
    kind: IndexKind = "hnsw",
    keep: int = 3,
    nothing: bytes | None = None,
    probes: Sequence[Probe] = (),
    whole: Representations | None = None,
) -> Published:
    """Publish a space under an alias. Others may upsert meanwhile; readers need do nothing.

    Where the newest snapshot has the same products and kind of index, it is published again.

    Args:
        center: its folder.
        space: to publish.
        alias: to switch, or to make.
        kind: of the index.
        keep: how many of the newest snapshots to keep, beside those that aliases lead to.
        nothing: see `moonlib.center.snapshot.build`.
        probes: queries whose answers are known.
        whole: see `moonlib.center.snapshot.build`.

    Raises:
        GateFailed: the snapshot is not good enough; the alias leads where it did.
        ValueError: there is nothing to publish.
        Busy: another process writes, or publishes this space.
    """
    if keep < 1:
        raise ValueError(f"keep {keep}: keep at least 1 snapshot")
    check_alias(alias)
    with writing_to(space.directory, wait=False):  # a publish may take minutes
        record = _compacted(center, space, lambda record: record.differs)
        if record.base is None or not len(record.base):
            raise ValueError(f"{space.name} has no products to publish: upsert some")
        before = read_aliases(center)
        number, about = _newest(record, kind)
        if about is None or probes or whole is not None:
            number = next_number(space, _numbers(before, space))
            about = build(
                space,
                record.base,
                record.number,
                record.base_sequence,
                number,
                kind=kind,
                nothing=nothing,
                probes=probes,
                whole=whole,
            )
        with writing_to(center):
            aliases = read_aliases(center)
            target, old = Target(space.name, number), aliases.get(alias)
            if old is None or old.now != target:
                aliases[alias] = Alias(target, None if old is None else old.now)
                write_aliases(center, aliases)
            removed = remove_snapshots(space, keep, _numbers(aliases, space))
    return Published(alias, space.name, number, about, removed)


def rollback(center: Path, alias: str = "live") -> Alias:
    """Let an alias lead where it did before the last publish. A second rollback takes the first one back.

    Returns:
        The alias as it is now.

    Raises:
        ValueError: there is no such alias, or nothing before.
        Busy: another process writes.
    """
    with writing_to(center):
        found = find_alias(center, alias)
        if found.previous is None or not found.previous.snapshot:
            raise ValueError(f"{center}: alias {alias!r} leads to {found.now}, and led nowhere before")
        space = center / SPACES / found.previous.space
        numbers = [0, *snapshot_numbers(space)]
        if not (space / SPACE).is_file() or found.previous.snapshot not in numbers:
            raise ValueError(f"{center}: alias {alias!r} led to {found.previous} before, which is not there any more")
        aliases = read_aliases(center)
        aliases[alias] = Alias(found.previous, found.now)
        write_aliases(center, aliases)
        return aliases[alias]


def compact(center: Path, space: Space) -> None:
    """Merge the logs of a space's record into a new base.

    Raises:
        Busy: another process writes, or publishes this space.
    """
    with writing_to(space.directory, wait=False):  # a publish may take minutes
        _compacted(center, space, lambda record: record.log_rows > 0)


def _compacted(center: Path, space: Space, is_needed: Callable[[Record], bool]) -> Record:
    """The record, all of whose rows so far are in its base if that is needed."""
    with writing_to(center):
        record = Record(space, write=True)
        if not is_needed(record):
            return record
        record.rotate()
    made = record.compact()
    with writing_to(center):
        record.adopt(made)
    return record


def open_spaces(center: Path) -> list[Space]:
    """The spaces that take upserts: those that an alias leads to, now or before, and those never published.

    So a space that is being filled, the one that answers, and the one to roll back to have the same products.
    """
    aliases = read_aliases(center).values()
    named = {target.space for alias in aliases for target in (alias.now, alias.previous) if target is not None}
    return [space for name, space in spaces(center).items() if name in named or not snapshot_numbers(space.directory)]


def check_alias(alias: str) -> None:
    """Refuse a name that can't be an alias.

    Raises:
        ValueError: naming it.
    """
    if not alias or not all(letter.isalnum() or letter in "-_." for letter in alias):
        raise ValueError(f"alias {alias!r}: use letters, digits, - _ and .")


def _newest(record: Record, kind: IndexKind) -> tuple[int, Description | None]:
    """The newest snapshot, if it has the rows of the record's base and such an index."""
    numbers = snapshot_numbers(record.space.directory)
    about = describe(record.space, numbers[-1]) if numbers else None
    if about is None or (about.sequence, about.kind) != (record.base_sequence, kind):
        return 0, None
    return numbers[-1], about


def _numbers(aliases: dict[str, Alias], space: Space) -> list[int]:
    """Numbers of a space's snapshots that aliases lead to, now or before."""
    targets = [target for alias in aliases.values() for target in (alias.now, alias.previous)]
    return [target.snapshot for target in targets if target is not None and target.space == space.name]
