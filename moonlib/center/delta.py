"""The delta: what a record has after a snapshot, in memory, so that it is found at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.center.neighbours import Chosen, Rows, Scores, among
from moonlib.center.record import Changes, Growing, Pictures
from moonlib.center.where import Where
from moonlib.representations.lookup import IdLookup, TextLookup, find_rows
from moonlib.representations.store import unit

_CHUNKS = 64
"""Appended pieces of a column up to which they are not joined."""


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
    _unit: Growing
    _kept: Growing
    _represented: Growing
    _received_at: Growing
    _pictured: Growing
    _pictures: Sequence[tuple[int, Pictures]]

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
            Growing(np.float32, dim),
            Growing(dtype, dim),
            Growing(np.bool_),
            Growing(np.int64),
            Growing(np.bool_),
            (),
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

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """The ids [n], where they are int64."""
        return self.ids.to_numpy()

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
        new = np.flatnonzero(~changes.deleted)
        kept = changes.vectors[new]
        self._unit.extend(unit(kept))
        self._kept.extend(kept)
        self._represented.extend(np.any(kept != 0, axis=1))
        self._received_at.extend(changes.received_at[new])
        pictures = changes.pictures.take(new)
        self._pictured.extend(pictures.there)
        ids, columns = self.ids.to_frame("id").vstack(changes.ids.gather(new).to_frame("id")), self.columns
        if columns.width:
            columns = columns.vstack(changes.columns[new])
        if ids.n_chunks() > _CHUNKS:
            ids, columns = ids.rechunk(), columns.rechunk()
        return replace(
            self,
            ids=ids.to_series(),
            live=np.concatenate([live, np.ones(len(new), np.bool_)]),
            hidden=hidden,
            columns=columns,
            _pictures=(*self._pictures, (len(self), pictures)),
        )

    @cached_property
    def _lookup(self) -> tuple[NDArray[np.int64], IdLookup | TextLookup]:
        """Live rows, and where to find an id among them."""
        rows = np.flatnonzero(self.live)
        ids = self.ids.gather(rows)
        if ids.dtype == pl.String:
            return rows, TextLookup(ids)
        numbers = ids.to_numpy()
        order = np.argsort(numbers)
        return rows[order], IdLookup(numbers[order])

    def rows(self, ids: pl.Series | NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id [m], int64; -1 where there is none."""
        if not len(self):
            return np.full(len(ids), -1)
        rows, lookup = self._lookup
        found = find_rows(lookup, ids)
        return np.where(found >= 0, rows.take(found, mode="clip"), -1) if len(rows) else found

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
        firsts = [first for first, _ in self._pictures]
        part = int(np.searchsorted(firsts, row, side="right")) - 1
        first, pictures = self._pictures[part]
        return pictures.read(row - first)
