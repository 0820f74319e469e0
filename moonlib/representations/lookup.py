"""Rows of ids by a bucketed search: where each bucket of the sorted ids starts, and a few steps from there."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_LONGEST = 16
"""Ids in one bucket up to which they are looked through one after the other."""
_ODD = np.int64(-7046029254386353131)
"""2^64 over the golden ratio: multiplied with it, ids that lie close together lie far apart; no two become one."""


class IdLookup:
    """Find the rows of int64 ids: about two reads of memory per id, where a binary search has the logarithm of all.

    The high bits of an id, of which there are about as many values as ids, number a bucket. Where ids are spread so
    unevenly that a bucket is long, such as short numbers and barcodes in one shop, the bits are those of the id times
    an odd number: that takes a sorted copy. An answer never depends on which it is.

    Args:
        ids: int64 [N], ascending. Of an id that stands several times, the first row is found.

    Example:
        >>> IdLookup(np.array([-3, 7])).rows(np.array([[7, 5, -3]]))
        array([[ 1, -1,  0]])
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self.ids = np.ascontiguousarray(ids)
        self._order: NDArray[np.int64] | None = None
        self._bucketed(self.ids)
        if self._longest > _LONGEST:
            mixed = self.ids * _ODD
            order = np.argsort(mixed, kind="stable")
            self._order = order
            self._bucketed(mixed[order])
            if self._longest > _LONGEST:  # chosen to be so, or one id many times
                self._order = None

    def _bucketed(self, values: NDArray[np.int64]) -> None:
        """Take the values that are searched, ascending, and note where the buckets start."""
        self._values = values
        self._longest = 0
        if not len(values):
            return
        self._least = values[0]
        self._span = (values[-1:] - self._least).view(np.uint64)[0]
        # Between two and four buckets for each value: then most of them are the first of theirs.
        bits = len(values).bit_length() + 1
        self._shift = np.uint64(max(int(self._span).bit_length() - bits, 0))
        counts = np.bincount(self._bucket(values))
        self._longest = int(counts.max())
        self._starts = np.zeros(len(counts), np.int32 if len(values) < 2**31 else np.int64)
        np.cumsum(counts[:-1], out=self._starts[1:], dtype=self._starts.dtype)

    def _bucket(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bucket of each value; of one that lies outside, the last."""
        above = (values - self._least).view(np.uint64)  # wraps around, and so is right over all of int64
        np.minimum(above, self._span, out=above)
        above >>= self._shift
        return above.view(np.int64)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id.

        Args:
            ids: int64, any shape.

        Returns:
            int64 of the same shape; -1 where there is none.
        """
        if not len(self.ids):
            return np.full(ids.shape, -1, dtype=np.int64)
        if self._longest > _LONGEST and self._order is None:
            rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            return np.where(self.ids[rows] == ids, rows, -1)
        wanted = np.ravel(ids).astype(np.int64, copy=False)
        if self._order is not None:
            wanted = wanted * _ODD
        at = self._starts.take(self._bucket(wanted)).astype(np.int64)
        found = self._values.take(at)
        behind = np.flatnonzero(found < wanted)
        for _ in range(self._longest - 1):
            if not len(behind):
                break
            further = at[behind] + 1
            value = self._values.take(further, mode="clip")
            at[behind], found[behind] = further, value
            behind = behind[value < wanted[behind]]
        there = found == wanted
        if self._order is not None:
            at = self._order.take(at, mode="clip")
        if not there.all():
            at[~there] = -1
        return at.reshape(ids.shape)


class TextLookup:
    """Find the rows of text ids: by the bucketed search of their hashes, each then compared with the text itself.

    Args:
        names: text [N], without nulls. Of a text that stands several times, the first row is found.

    Example:
        >>> TextLookup(pl.Series(["b7", "a1"])).rows(pl.Series(["a1", None, "b", "b7"]))
        array([ 1, -1, -1,  0])
    """

    def __init__(self, names: pl.Series) -> None:
        self.names = names.rechunk()
        hashes = _hashed(self.names)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = IdLookup(hashes[self._order])

    def rows(self, names: pl.Series) -> NDArray[np.int64]:
        """Row of each text [n], int64; -1 where there is none, also of a null."""
        rows = np.full(len(names), -1, dtype=np.int64)
        if not len(self.names) or not len(names):
            return rows
        hashes = _hashed(names)
        at = self._hashes.rows(hashes)
        asked = np.flatnonzero(at >= 0)
        # Texts of one hash stand one after the other: nearly always one.
        while len(asked):
            row = self._order[at[asked]]
            same = (self.names.gather(row) == names.gather(asked)).fill_null(False).to_numpy()
            rows[asked[same]] = row[same]
            asked = asked[~same]
            at[asked] += 1
            asked = asked[at[asked] < len(self.names)]
            asked = asked[self._hashes.ids[at[asked]] == hashes[asked]]
        return rows


def find_rows(lookup: IdLookup | TextLookup, ids: pl.Series | NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of each id [n], int64; -1 where there is none. Of text ids, they are a series."""
    if isinstance(lookup, TextLookup):
        return lookup.rows(pl.Series(ids))
    return lookup.rows(ids if isinstance(ids, np.ndarray) else ids.to_numpy())


def _hashed(names: pl.Series) -> NDArray[np.int64]:
    """A number for each text, equal for equal ones; others in another process."""
    return names.cast(pl.String).hash().to_numpy().view(np.int64)
