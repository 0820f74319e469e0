"""The delta: what a record has after a snapshot, in memory, so that it is found at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.center.growing import Growing
from moonlib.center.neighbours import Chosen, Rows, Scores, among
from moonlib.center.pictures import Pictures
from moonlib.center.record import Changes
from moonlib.center.where import Where
from moonlib.representations.lookup import IdLookup, TextLookup
from moonlib.representations.store import unit

_CHUNKS = 64
"""Appended pieces of a column up to which they are not joined."""
_RECENT = 256
"""Rows that are looked up by themselves, before all are put in order again."""
_COMPARED = 4096
"""Comparisons that take less time than to put rows in order."""


@dataclass(frozen=True)
class Delta:
    """Rows that are newer than a snapshot. It never changes; `extended` makes a longer one, without a copy of all.

    Attributes:
        ids: the shop's [n], in the order of the sequence; one of an earlier row may stand again.
        live: bool [n], whether a row is its id's newest and was not deleted.
        hidden: bool [N], which of the snapshot's rows were superseded or deleted.
        columns: the kept columns [n].
    """

    ids: pl.Series
    live: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    columns: pl.DataFrame
    _numbers: Growing
    _unit: Growing
    _kept: Growing
    _represented: Growing
    _received_at: Growing
    _pictured: Growing
    _places: Growing
    _pictures: Pictures
    _older: _Lookup

    @classmethod
    def empty(cls, ids: pl.Series, dim: int, dtype: str, columns: pl.DataFrame, snapshot: int) -> Delta:
        """A delta without rows.

        Args:
            ids: of the type of the shop's.
            dim: width of the vectors.
            dtype: of the vectors at rest.
            columns: the kept columns; only their types are used.
            snapshot: how many rows the snapshot has.
        """
        return cls(
            ids.clear(),
            np.empty(0, np.bool_),
            np.zeros(snapshot, np.bool_),
            columns.clear(),
            Growing(np.int64),
            Growing(np.float32, dim),
            Growing(dtype, dim),
            Growing(np.bool_),
            Growing(np.int64),
            Growing(np.bool_),
            Growing(np.int64, 3),
            Pictures(None, (), np.empty((0, 3), np.int64)),
            _Lookup(ids.clear(), np.empty(0, np.int64)),
        )

    def __len__(self) -> int:
        return len(self.live)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Float32 [n, D], of unit length, or zeros."""
        return self._unit.values[: len(self)]

    @property
    def kept(self) -> NDArray[np.generic]:
        """The vectors as they are at rest, [n, D]."""
        return self._kept.values[: len(self)]

    @property
    def received_at(self) -> NDArray[np.int64]:
        """When rows were received, int64 [n], microseconds since 1970 UTC."""
        return self._received_at.values[: len(self)]

    @property
    def pictured(self) -> NDArray[np.bool_]:
        """Which rows have a picture, bool [n]."""
        return self._pictured.values[: len(self)]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The ids [n], where they are int64."""
        return self._numbers.values[: len(self)]

    def extended(self, changes: Changes, superseded: NDArray[np.int64]) -> Delta:
        """A delta with further rows. Only the newest delta can be extended.

        Args:
            changes: what is newer; each id once.
            superseded: rows of the snapshot that have these ids.
        """
        before = self.rows(changes.ids)
        live = self.live.copy()
        live[before[before >= 0]] = False
        hidden = self.hidden
        if len(superseded):
            hidden = hidden.copy()
            hidden[superseded] = True
        if changes.deleted.any():
            changes = changes.take(np.flatnonzero(~changes.deleted))
        kept = changes.vectors
        if changes.ids.dtype == pl.Int64:
            self._numbers.extend(changes.ids.to_numpy())
        self._unit.extend(unit(kept))
        self._kept.extend(kept)
        self._represented.extend(np.any(kept != 0, axis=1))
        self._received_at.extend(changes.received_at)
        self._pictured.extend(changes.pictures.there)
        self._places.extend(changes.pictures.places)
        ids, columns = self.ids.to_frame("id").vstack(changes.ids.to_frame("id")), self.columns
        if columns.width:
            columns = columns.vstack(changes.columns)
        if ids.n_chunks() > _CHUNKS:
            ids, columns = ids.rechunk(), columns.rechunk()
        named, live = ids.to_series(), np.concatenate([live, np.ones(len(kept), np.bool_)])
        older = self._older
        if len(live) - older.end > max(_RECENT, older.end // 8):
            older = _Lookup.of(named, live, 0)
        return replace(
            self,
            ids=named,
            live=live,
            hidden=hidden,
            columns=columns,
            _pictures=changes.pictures._replace(places=self._places.values),
            _older=older,
        )

    @cached_property
    def _newer(self) -> _Lookup:
        """The rows that `_older` does not know."""
        return _Lookup.of(self.ids, self.live, self._older.end)

    def rows(self, ids: pl.Series) -> NDArray[np.int64]:
        """Row of each id [m], int64; -1 where there is none."""
        found = self._older.find(ids)
        if len(found) and self._older.end:
            found[~self.live.take(found)] = -1  # superseded since; of -1, the last row, it changes nothing
        if self._older.end < len(self):
            newer = self._among_newer(ids)
            found = np.where(newer >= 0, newer, found)
        return found

    def _among_newer(self, ids: pl.Series) -> NDArray[np.int64]:
        """Row of each id among those that `_older` does not know [m]; -1 where there is none."""
        start = self._older.end
        if ids.dtype == pl.String or len(ids) * (len(self) - start) > _COMPARED:
            return self._newer.find(ids)
        same = (ids.to_numpy()[:, None] == self.numbers[start:]) & self.live[start:]
        return np.where(same.any(axis=1), start + same.argmax(axis=1), -1)

    @cached_property
    def _findable(self) -> Chosen | None:
        """Rows that a search may find; None if it may find all."""
        mask = self.live & self._represented.values[: len(self)]
        return None if mask.all() else Chosen(mask)

    def search(self, queries: NDArray[np.float32], k: int, where: Where | None) -> tuple[Scores, Rows]:
        """Search exactly; see `moonlib.center.neighbours.among`."""
        chosen = self._findable
        if where is not None:
            mask = where.mask(self.columns)
            chosen = Chosen(mask if chosen is None else mask & chosen.mask)
        return among(self.vectors, queries, k, chosen)

    def picture(self, row: int) -> bytes | None:
        """The small JPEG of a row; None if it has none."""
        return self._pictures.read(row)


class _Lookup:
    """Finds rows by id among the live ones of some rows.

    Attributes:
        end: the first row that it does not know.

    Args:
        ids: of the rows [m], each once.
        rows: their numbers, int64 [m].
        end: the first row that it does not know.
    """

    def __init__(self, ids: pl.Series, rows: NDArray[np.int64], end: int = 0) -> None:
        self.end = end
        self._lookup: IdLookup | TextLookup
        if ids.dtype == pl.String:
            self._rows, self._lookup = rows, TextLookup(ids)
        else:
            numbers = ids.to_numpy()
            order = np.argsort(numbers)
            self._rows, self._lookup = rows[order], IdLookup(numbers[order])

    @classmethod
    def of(cls, ids: pl.Series, live: NDArray[np.bool_], start: int) -> _Lookup:
        """Of the live rows from one on; an id stands once among these."""
        rows = start + np.flatnonzero(live[start:])
        return cls(ids[rows], rows, len(live))

    def find(self, ids: pl.Series) -> NDArray[np.int64]:
        """Row of each id [m], int64; -1 where there is none."""
        lookup = self._lookup
        found = lookup.rows(ids) if isinstance(lookup, TextLookup) else lookup.rows(ids.to_numpy())
        return np.where(found >= 0, self._rows.take(found, mode="clip"), -1) if len(self._rows) else found
