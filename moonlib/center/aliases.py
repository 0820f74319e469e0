"""Aliases: names that lead to a snapshot of a space, and are switched in one rename."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.layout import ALIASES, SPACE, SPACES


@dataclass(frozen=True)
class Target:
    """Where an alias leads.

    Attributes:
        space: name of the space.
        snapshot: number of the snapshot; 0 before the first.
    """

    space: str
    snapshot: int

    def __str__(self) -> str:
        return f"{self.space}@{self.snapshot:06d}"


@dataclass(frozen=True)
class Alias:
    """An alias.

    Attributes:
        now: where it leads.
        previous: where it led before the last publish; None for nowhere.
    """

    now: Target
    previous: Target | None = None


def read_aliases(center: Path) -> dict[str, Alias]:
    """The aliases of a center, by name; none where nothing was upserted yet.

    Raises:
        Unreadable: the file is broken.
    """
    try:
        found = read_mapping(center / ALIASES)
    except FileNotFoundError:
        return {}
    try:
        return {name: Alias(_target(each), _target(each["previous"])) for name, each in found.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{center / ALIASES} is broken ({type(error).__name__}: {error}); publish again") from None


def find_alias(center: Path, name: str) -> Alias:
    """Find an alias.

    Raises:
        ValueError: there is none of this name, or its space is gone.
    """
    known = read_aliases(center)
    if name not in known:
        raise ValueError(
            f"{center} has no alias {name!r}; it has {', '.join(known) or 'none yet: upsert products, then publish'}"
        )
    space = center / SPACES / known[name].now.space
    if not (space / SPACE).is_file():
        raise ValueError(f"{center}: alias {name!r} leads to {known[name].now}, which is not there any more")
    return known[name]


def write_aliases(center: Path, aliases: dict[str, Alias]) -> None:
    """Replace the aliases of a center, in one rename. The caller holds the center's lock."""
    described: dict[str, Any] = {}
    for name, alias in aliases.items():
        previous = None if alias.previous is None else asdict(alias.previous)
        described[name] = {**asdict(alias.now), "previous": previous}
    write_json(center / ALIASES, described)


def _target(found: Any) -> Any:
    return None if found is None else Target(str(found["space"]), int(found["snapshot"]))
