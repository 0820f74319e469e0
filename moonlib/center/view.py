"""A view: what a reader of a center holds. One space at one snapshot, and the rows after it, up to a sequence.

CENTER/
  center.json             format number; made first
  .lock                   the one writer's; readers take none
  aliases.json            {"live": {"space": ..., "snapshot": 41, "previous": {...}}}; replaced in one rename
  spaces/<fingerprint[:12]>-<dim>-<dtype>/
    space.json            see `moonlib.center.space`
    encoder/              what `moonlib export` writes: queries are encoded with this, never with another
    record/               the truth about every product of this space, see `moonlib.center.record`
    snapshots/000041/     see `moonlib.center.snapshot`
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.center.aliases import find_alias
from moonlib.center.delta import Delta
from moonlib.center.layout import ALIASES, SPACES
from moonlib.center.neighbours import Chosen
from moonlib.center.record import Record, stamp
from moonlib.center.rows import id_dtype
from moonlib.center.snapshot import Snapshot
from moonlib.center.snapshot_reader import SnapshotReader
from moonlib.center.space import Space
from moonlib.center.where import Where
from moonlib.center.writing import require_center

Ids = pl.Series | NDArray[np.int64] | Sequence[Any]

_TRIES = 100
"""How often an alias that moves meanwhile is followed again."""
_FILTERS = 16
"""Filters whose products are kept by a view."""


class Found:
    """Products that were found for q queries.

    Attributes:
        scores: cosines, float32 [q, k], falling; -inf where there are fewer.
        rows: numbers of the rows within the view, int64 [q, k]; -1 where there are fewer.
    """

    def __init__(self, view: View, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        self._view, self.scores, self.rows = view, scores, rows

    @cached_property
    def ids(self) -> pl.Series:
        """The shop's ids, q * k; null where there are fewer than k."""
        return self._view.ids_of(self.rows.reshape(-1))


class _Source:
    """Where views of one alias come from. One thread at a time makes a newer one."""

    def __init__(self, center: Path, alias: str) -> None:
        self.center, self.alias = center, alias
        self.lock = threading.Lock()
        self.newest = self._open(None)

    def _open(self, before: View | None) -> View:
        """Open what the alias leads to.

        Args:
            before: the view that was the newest.
        """
        for left in reversed(range(_TRIES)):
            aliases = stamp(self.center / ALIASES)
            try:
                target = find_alias(self.center, self.alias).now
                record = Record(Space.open(self.center / SPACES / target.space))
                number = target.snapshot
                snapshot = SnapshotReader(Snapshot.open(record.space, number)) if number else None
                break
            except (OSError, ValueError):  # published meanwhile, and what the alias led to was removed
                if not left or stamp(self.center / ALIASES) == aliases:
                    raise
        same = before is not None and before.space.directory == record.space.directory
        arrived = _arrived(record, before.sequence) if before is not None and same else None
        delta = _all_after(snapshot, record)
        self._aliases, self._target, self._record = aliases, target, record
        return View(self, record, number, snapshot, delta, arrived)

    def refreshed(self) -> View:
        """The newest view."""
        with self.lock:
            self.newest = self._refreshed(self.newest)
            return self.newest

    def _refreshed(self, view: View) -> View:
        aliases = stamp(self.center / ALIASES)
        if aliases != self._aliases:
            if find_alias(self.center, self.alias).now != self._target:
                return self._open(view)
            self._aliases = aliases
        record, opened = self._record, self._record.opened
        if not record.refresh():
            return view
        changes = record.changes(view.sequence)
        if record.opened != opened or record.space.ids != view.space.ids or changes is None:
            delta = _all_after(view._snapshot, record)
        else:
            delta = view._delta.extended(changes, _superseded(view._snapshot, changes.ids))
        arrived = _arrived(record, view.sequence) if changes is None else changes.received_at
        return View(self, record, view.snapshot, view._snapshot, delta, arrived)


def _all_after(snapshot: SnapshotReader | None, record: Record) -> Delta:
    """All that a record has after a snapshot."""
    space = record.space
    ids = pl.Series("id", [], dtype=id_dtype(space.ids))
    covered, rows = (0, 0) if snapshot is None else (snapshot.sequence, len(snapshot))
    empty = Delta.empty(ids, space.dim, space.dtype, record.no_columns, rows)
    changes = record.changes(covered)
    if changes is not None:
        return empty.extended(changes, _superseded(snapshot, changes.ids))
    # The base is newer than the snapshot: what it no longer has was deleted or superseded meanwhile.
    ids, numbers = record.live()
    newer = record.sequences(numbers) > covered
    if snapshot is not None:
        empty.hidden[:] = True
        empty.hidden[snapshot.rows(ids.filter(pl.Series(~newer)))] = False
    newest = record.changes_of(ids.filter(pl.Series(newer)), numbers[newer])
    return empty.extended(newest, np.empty(0, np.int64))


def _arrived(record: Record, sequence: int) -> NDArray[np.int64]:
    """When the rows after a sequence were received, int64 [n]; without deletions where they are in the base already."""
    changes = record.changes(sequence)
    if changes is not None:
        return changes.received_at
    _, rows = record.live()
    return record.received_at(rows[record.sequences(rows) > sequence])


def _superseded(snapshot: SnapshotReader | None, ids: pl.Series) -> NDArray[np.int64]:
    """Rows of a snapshot that have one of these ids."""
    rows = np.empty(0, np.int64) if snapshot is None or ids.is_empty() else snapshot.rows(ids)
    return rows[rows >= 0]


class View:
    """One space at one snapshot, and the rows after it. It never changes; `refreshed` makes a newer one.

    Any number of threads may use it.

    Attributes:
        center: its folder.
        alias: that it was opened by.
        space: the space.
        snapshot: number of the snapshot; 0 before the first.
        sequence: of the last row that it knows.
        arrived: when the rows were received that the view before it did not know, int64 [n], microseconds since 1970
            UTC; none of a view that was opened.
    """

    def __init__(
        self,
        source: _Source,
        record: Record,
        number: int,
        snapshot: SnapshotReader | None,
        delta: Delta,
        arrived: NDArray[np.int64] | None = None,
    ) -> None:
        self._source, self._snapshot, self._delta = source, snapshot, delta
        self.center, self.alias = source.center, source.alias
        self.space: Space = record.space
        self.snapshot, self.sequence = number, record.sequence
        self.arrived = np.empty(0, np.int64) if arrived is None else arrived
        self._first = len(delta.hidden)
        """Number of the delta's first row; smaller ones are the snapshot's."""
        self._hidden = delta.hidden if delta.hidden.any() else None
        self._len = self._first - int(delta.hidden.sum()) + int(delta.live.sum())
        self._chosen: dict[str | None, Chosen | None] = {}

    @classmethod
    def open(cls, center: Path, alias: str = "live") -> View:
        """Open what an alias leads to.

        Raises:
            FileNotFoundError: there is no center.
            ValueError: there is no such alias, or it leads to what is not there any more.
        """
        require_center(center)
        return _Source(center, alias).newest

    def refreshed(self) -> View:
        """The same view if nothing is new, or a newer one: of what the alias leads to now, with all rows."""
        return self._source.refreshed()

    @property
    def name(self) -> str:
        """Of the space and the snapshot, such as ``3f2ab1c09d77-128-int8@000041``."""
        return f"{self.space.name}@{self.snapshot:06d}"

    def __len__(self) -> int:
        return self._len

    @property
    def delta_rows(self) -> int:
        """Rows and deletions that are newer than the snapshot."""
        return len(self._delta)

    @cached_property
    def _ordered(self) -> tuple[pl.Series, NDArray[np.int64]]:
        """Ids of all products, ascending, and their rows."""
        newer = np.flatnonzero(self._delta.live)
        older = np.arange(self._first) if self._hidden is None else np.flatnonzero(~self._hidden)
        rows = np.concatenate([older, self._first + newer])
        ids = self.ids_of(rows)
        if len(newer):
            order = ids.arg_sort()
            ids, rows = ids.gather(order), rows[order.to_numpy()]
        return ids, rows

    @property
    def ids(self) -> pl.Series:
        """Ids of all products [n], ascending."""
        return self._ordered[0]

    @property
    def received_at(self) -> NDArray[np.int64]:
        """When each product was received, int64 [n], microseconds since 1970 UTC, in the order of `ids`."""
        return self._taken(self._ordered[1], "received_at")

    def ids_of(self, rows: NDArray[np.int64]) -> pl.Series:
        """The shop's ids of rows within the view [m]; null for -1."""
        missing = rows < 0
        if self.space.ids == "text":
            numbers = pl.Series(rows)
            if missing.any():
                numbers = numbers.set(pl.Series(missing), None)
            parts = [self._delta.ids]
            if self._snapshot is not None:
                parts = [self._snapshot.base.ids, *(parts if len(self._delta) else ())]
            return pl.concat(parts).gather(numbers).alias("item_id")
        # Of numbers this takes a tenth of the time of a gather.
        ids = pl.Series("item_id", self._taken(np.maximum(rows, 0), "numbers"))
        return ids.set(pl.Series(missing), None) if missing.any() else ids

    def _taken(self, rows: NDArray[np.int64], name: str) -> NDArray[Any]:
        """A value of each row within the view, of the arrays that the snapshot and the delta have of it."""
        newer = getattr(self._delta, name)
        if self._snapshot is None:
            return np.take(newer, rows) if len(newer) else np.zeros(len(rows), newer.dtype)
        older: NDArray[Any] = np.take(getattr(self._snapshot, name), rows, mode="clip")
        if len(newer):
            older = np.where(rows < self._first, older, np.take(newer, rows - self._first, mode="clip"))
        return older

    def search(
        self, vectors: NDArray[np.floating[Any]], k: int, where: Where | None = None, exact: bool = False
    ) -> Found:
        """Find the nearest products.

        Args:
            vectors: float [q, D], of any length but 0.
            k: products wanted.
            where: which of the products to choose from.
            exact: whether to look at every product, and not through the index.

        Returns:
            The products, by falling cosine.

        Raises:
            ValueError: the vectors are of another width, or one is zeros or not finite; ``k`` is below 1.
            BadFilter: the filter does not fit the kept columns.
        """
        queries = self._queries(vectors)
        if k < 1:
            raise ValueError(f"k {k}: ask for at least 1 product")
        if where is not None:
            where.check(self._delta.columns.schema)
        wanted = min(k, self._first + len(self._delta))  # before faiss makes room for more than there can be
        parts = []
        if self._snapshot is not None:
            parts.append(self._snapshot.search(queries, wanted, self._choose(self._snapshot, where), exact))
        if len(self._delta):
            scores, rows = self._delta.search(queries, wanted, where)
            parts.append((scores, np.where(rows >= 0, rows + self._first, -1)))
        if wanted < k:
            left = len(queries), k - wanted
            parts.append((np.zeros(left, np.float32), np.full(left, -1)))
        scores, rows = parts[0]
        if len(parts) > 1:
            scores, rows = (np.concatenate(both, axis=1) for both in zip(*parts, strict=True))
            scores[rows < 0] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        elif rows[:, -1].min(initial=0) < 0:
            scores[rows < 0] = -np.inf
        return Found(self, scores, rows)

    def _queries(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        queries: NDArray[np.float32] = np.array(vectors, dtype=np.float32, order="C")
        if queries.ndim != 2 or queries.shape[1] != self.space.dim:
            raise ValueError(f"vectors are {list(queries.shape)}; those of {self.space.name} are [q, {self.space.dim}]")
        length = np.sqrt(np.einsum("ij,ij->i", queries, queries))
        if not (length.min(initial=1) > 0 and length.max(initial=1) < np.inf):  # so that NaN is refused
            bad = np.flatnonzero(~((length > 0) & (length < np.inf)))
            raise ValueError(f"vector {bad[0]} is all zeros, or has values that are not finite: it has no direction")
        queries /= length[:, None]
        return queries

    def _choose(self, snapshot: SnapshotReader, where: Where | None) -> Chosen | None:
        """Vectors of the snapshot that a search may find; None for all."""
        if where is None and self._hidden is None:
            return None
        key = None if where is None else where.key
        try:
            return self._chosen[key]
        except KeyError:
            pass
        chosen = snapshot.chosen(self._hidden, where)
        for oldest in list(self._chosen)[: len(self._chosen) - _FILTERS + 1]:
            self._chosen.pop(oldest, None)
        self._chosen[key] = chosen
        return chosen

    def _places(self, ids: pl.Series) -> NDArray[np.int64]:
        """Row of each id within the view, int64 [n]; -1 where there is none."""
        if ids.null_count():
            found = np.full(len(ids), -1)
            there = ids.is_not_null()
            found[there.to_numpy()] = self._places(ids.filter(there))
            return found
        found = np.full(len(ids), -1) if self._snapshot is None else self._snapshot.rows(ids)
        if self._hidden is not None:
            found[(found >= 0) & self._hidden.take(found, mode="clip")] = -1
        if len(self._delta):
            newer = self._delta.rows(ids)
            found = np.where(newer >= 0, newer + self._first, found)
        return found

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """Whether there is a product of each id, bool [n]."""
        found: NDArray[np.bool_] = self._places(as_series(ids, self.space)) >= 0
        return found

    def lookup(self, ids: Ids) -> NDArray[np.float32]:
        """Vectors of products as they are kept, float32 [n, D]; zeros where there is none."""
        rows = self._places(as_series(ids, self.space))
        if self._snapshot is not None and not (rows >= self._first).any():
            return self._snapshot.base.store.at(rows)
        scale = np.float32(1 / 127 if self.space.dtype == "int8" else 1)
        vectors = np.zeros((len(rows), self.space.dim), np.float32)
        newer = rows >= self._first
        vectors[newer] = self._delta.kept[rows[newer] - self._first]
        vectors[newer] *= scale
        if self._snapshot is not None:
            vectors[~newer] = self._snapshot.base.store.at(rows[~newer])
        return vectors

    def rows(self, ids: Ids) -> pl.DataFrame:
        """The kept columns of products, ``item_id`` first, n rows; nulls where there is no product."""
        wanted = as_series(ids, self.space)
        rows = self._places(wanted)
        columns = [wanted.alias("item_id")]
        if self._delta.columns.width:
            both = self._delta.columns
            if self._snapshot is not None:
                both = pl.concat([self._snapshot.base.columns, both])
            numbers = pl.Series(rows)
            if (rows < 0).any():
                numbers = numbers.set(pl.Series(rows < 0), None)
            columns += [column.gather(numbers) for column in both]
        return pl.DataFrame(columns)

    def pictured(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows within the view have a picture, bool [m]."""
        return self._taken(rows, "pictured")

    @cached_property
    def filled(self) -> list[str]:
        """The kept columns in which some product has a value."""
        parts = [self._delta.columns]
        if self._snapshot is not None:
            parts.append(self._snapshot.base.columns)
        return [name for name in parts[0].columns if any(part[name].null_count() < part.height for part in parts)]

    def picture(self, id: int | str) -> bytes | None:
        """The small JPEG of a product; None if there is none."""
        row = int(self._places(as_series([id], self.space))[0])
        if row < 0:
            return None
        if row >= self._first:
            return self._delta.picture(row - self._first)
        assert self._snapshot is not None
        return self._snapshot.base.picture(row)


def as_series(ids: Ids, space: Space) -> pl.Series:
    """Ids as a series of the type that the space's ids have.

    Raises:
        ValueError: they are of another type.
    """
    wanted = id_dtype(space.ids)
    kind = "text" if wanted == pl.String else "int64"
    try:
        series = ids if isinstance(ids, pl.Series) else pl.Series(ids, dtype=None if len(ids) else wanted, strict=True)
    except TypeError as error:
        raise ValueError(
            f"ids are of several types ({str(error).splitlines()[0]}); those of {space.name} are {kind}"
        ) from None
    if space.ids is None and series.dtype == pl.String:  # no product has said yet what ids are
        return series
    if wanted == pl.Int64 and series.dtype.is_integer():
        numbers = series.cast(pl.Int64, strict=False)
        if numbers.null_count() > series.null_count():
            large = series.filter(numbers.is_null() & series.is_not_null())[0]
            raise ValueError(f"id {large} is no int64; those of {space.name} are")
        return numbers
    if series.dtype not in (wanted, pl.Null) and not series.is_empty():
        raise ValueError(f"ids are {series.dtype}, such as {series[0]!r}; those of {space.name} are {kind}")
    return series.cast(wanted)
