"""Which of several runs came from which, and an order in which parents stand before their children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moonlib.artifacts.layout import EXPORT
from moonlib.artifacts.reading import read_mapping
from moonlib.runs.parents import DATA
from moonlib.runs.run import Run


@dataclass(frozen=True)
class Descent:
    """Which of several runs came from which.

    Attributes:
        parents: of each run, those among the runs; the first is the one that it continues.
        order: of the runs, parents before their children; otherwise as they were given.
        circles: runs of which every one came from the next, and the last from the first; only a hand can make them.
    """

    parents: Mapping[Path, Sequence[Path]]
    order: Sequence[Path]
    circles: Sequence[Sequence[Path]] = ()

    def parent(self, run: Path) -> Path | None:
        """The run that a run continues; None for the first, and for one whose parent stands behind it in a circle."""
        found = next(iter(self.parents.get(run, ())), None)
        return found if found is not None and self.order.index(found) < self.order.index(run) else None

    def depth(self, run: Path) -> int:
        """How many runs stand before it, one the parent of the next."""
        parent = self.parent(run)
        return 0 if parent is None else self.depth(parent) + 1


def descent_of(runs: Sequence[Run]) -> Descent:
    """Find which of several runs came from which.

    A run continues the run that its encoder starts from, or else a stage of it. An export counts as the run of the same
    encoder. A run of an appended dataset that starts from no run continues one of the dataset before it: that of the
    same recipe where there are several.

    Args:
        runs: whose records can be read or not: what can't be read names no parents.
    """
    places = {run.directory.resolve(): run.directory for run in runs}
    data: dict[Path, list[Run]] = {}
    for run in runs:
        with suppress(ValueError, OSError):
            if (place := run.data_place) is not None:
                data.setdefault(place.resolve(), []).append(run)
    encoders: dict[str, Path] | None = None
    found: dict[Path, list[Path]] = {}
    for run in runs:
        mine: list[Path] = []
        with suppress(ValueError, OSError):
            for parent in run.parents:
                if parent.place is None:
                    continue
                if parent.how == DATA:
                    there = data.get(parent.place.resolve(), [])
                    same = [other for other in there if other.recipe_name == run.recipe_name]
                    alike = same if len(there) > 1 else there
                    mine += [other.directory for other in alike[:1] if not mine]
                elif (parent.place / EXPORT).is_file():
                    encoders = _encoders(runs) if encoders is None else encoders
                    made_by = encoders.get(str(read_mapping(parent.place / EXPORT).get("fingerprint")))
                    mine += [made_by] if made_by is not None else []
                elif (other := places.get(parent.place.resolve())) is not None:
                    mine.append(other)
        found[run.directory] = [place for place in dict.fromkeys(mine) if place != run.directory]
    directories = [run.directory for run in runs]
    return Descent(found, in_order(directories, found), circles(found))


def _encoders(runs: Iterable[Run]) -> dict[str, Path]:
    """Runs by the fingerprint of their encoder; runs without one, and unfinished ones, are left out."""
    found: dict[str, Path] = {}
    for run in runs:
        with suppress(ValueError, OSError):
            found.setdefault(run.fingerprint, run.directory)
    return found


def in_order(runs: Iterable[Path], parents: Mapping[Path, Sequence[Path]]) -> list[Path]:
    """Runs in an order in which parents stand before their children; otherwise it is the given one.

    A circle, which only a hand can make, is entered at the run that was given first.

    Example:
        >>> [p.name for p in in_order([Path("w2"), Path("w1")], {Path("w2"): [Path("w1")], Path("w1"): []})]
        ['w1', 'w2']
    """
    done: dict[Path, bool] = {}  # False while its parents are being placed
    order: list[Path] = []
    for first in runs:
        waiting = [first]
        while waiting:
            run = waiting[-1]
            if run not in done:
                done[run] = False
                waiting += [parent for parent in reversed(parents.get(run, ())) if parent not in done]
                continue
            waiting.pop()
            if not done[run]:
                done[run] = True
                order.append(run)
    return order


def circles(parents: Mapping[Path, Sequence[Path]]) -> list[list[Path]]:
    """Circles of parents, each once: runs of which every one came from the next, and the last from the first."""
    found: dict[frozenset[Path], list[Path]] = {}
    left: set[Path] = set()  # those from which every way has been followed
    for first in parents:
        way: list[Path] = []
        ways = [iter([first])]
        while ways:
            run = next(ways[-1], None)
            if run is None:
                ways.pop()
                if way:
                    left.add(way.pop())
            elif run in way:
                circle = way[way.index(run) :]
                found.setdefault(frozenset(circle), circle)
            elif run not in left:
                way.append(run)
                ways.append(iter(parents.get(run, ())))
    return list(found.values())
