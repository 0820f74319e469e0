"""A snapshot as a view reads it: rows by id, neighbours through the index, and which rows a filter lets through."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.center.neighbours import Chosen, Rows, Scores, Searched
from moonlib.center.snapshot import Snapshot
from moonlib.center.where import Where
from moonlib.representations.index import Index
from moonlib.representations.lookup import IdLookup, TextLookup, find_rows

_FILTERS = 64
"""Filters whose rows are kept, one bit each."""


class SnapshotReader:
    """A snapshot, opened to be read.

    Attributes:
        base: its rows, N.
        sequence: of the last row that it covers.

    Args:
        snapshot: the snapshot.

    Raises:
        BrokenIndex: its index is missing or broken.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.base, self.sequence = snapshot.base, snapshot.about.sequence
        index = Index.open(snapshot.index)
        self._searched = Searched(index)
        # The index has no vectors of zeros: its numbers are then not those of the rows.
        whole = len(index.ids) == len(self.base)
        self._rows: NDArray[np.int64] | None = None if whole else self.base.store.rows(index.ids)
        self._filters: dict[str, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.base)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The ids [N], where they are int64."""
        return self.base.store.ids

    @property
    def received_at(self) -> NDArray[np.int64]:
        """When rows were received, int64 [N], microseconds since 1970 UTC."""
        return self.base.received_at

    @property
    def pictured(self) -> NDArray[np.bool_]:
        """Which rows have a picture, bool [N]."""
        return self.base.pictured

    @cached_property
    def _lookup(self) -> IdLookup | TextLookup:
        names = self.base.store.names
        return IdLookup(self.base.store.ids) if names is None else TextLookup(names)

    def rows(self, ids: pl.Series | NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id [m], int64; -1 where there is none."""
        lookup = self._lookup
        return find_rows(lookup, ids)

    def chosen(self, hidden: NDArray[np.bool_] | None, where: Where | None) -> Chosen | None:
        """Vectors of the index that a search may find; None for all.

        Args:
            hidden: bool [N], rows that it must not find; None for none.
            where: filter on the rows.
        """
        mask = None if hidden is None else ~hidden
        if where is not None:
            through = self._through(where)
            mask = through if mask is None else mask & through
        if mask is None:
            return None
        return Chosen(mask if self._rows is None else mask[self._rows])

    def _through(self, where: Where) -> NDArray[np.bool_]:
        """Rows that a filter lets through, bool [N]."""
        kept = self._filters.get(where.key)
        if kept is None:
            kept = np.packbits(where.mask(self.base.columns))
            for oldest in list(self._filters)[: len(self._filters) - _FILTERS + 1]:
                self._filters.pop(oldest, None)
            self._filters[where.key] = kept
        return np.unpackbits(kept, count=len(self)).view(np.bool_)

    def search(
        self, queries: NDArray[np.float32], k: int, chosen: Chosen | None, exact: bool = False
    ) -> tuple[Scores, Rows]:
        """Find the nearest.

        Args:
            queries: float32 [q, D], contiguous, of unit length.
            k: neighbours wanted.
            chosen: see `chosen`.
            exact: whether to read all that are chosen.

        Returns:
            Cosines [q, k], falling, and rows [q, k]; -1 where there are fewer.
        """
        scores, numbers = self._searched.search(queries, k, chosen, exact)
        if self._rows is None:
            return scores, numbers
        return scores, np.where(numbers >= 0, self._rows.take(numbers, mode="clip"), -1)
