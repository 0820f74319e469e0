"""From ids and texts to rows of an embedding table: exactly, or hashed.

The classes here share an interface: ``len(vocabulary)`` is the number of rows, and ``rows`` finds the row of each
value, int64. Row 0 is no value's own: it is that of every value without one and of what is missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray


class Vocabulary:
    """Ids seen often enough in training; every other id shares row 0.

    Attributes:
        ids: int64 [V], ascending and distinct.
    """

    def __init__(self, ids: NDArray[np.int64], min_count: int = 1, counts: NDArray[np.int64] | None = None) -> None:
        """Take the ids of training.

        Args:
            ids: int64, in any order and with repeats.
            min_count: an id seen less often has no row of its own.
            counts: how often each entry of ``ids`` was seen, same shape; once by default.

        Raises:
            ValueError: if ``min_count`` is below 1.
        """
        self.ids = frequent(pl.Series(np.ravel(ids)), min_count, counts).to_numpy()

    def __len__(self) -> int:
        """Rows of the table: one per id and one for all other ids."""
        return len(self.ids) + 1

    @property
    def values(self) -> pl.Series:
        """The ids as a series, that of row 1 first."""
        return pl.Series("value", self.ids)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id.

        Args:
            ids: int64 of any shape; the full signed range, never through float.

        Returns:
            int64 of the same shape, 0 for an id without a row of its own.

        Example:
            >>> Vocabulary(np.array([-(2**63), 5])).rows(np.array([5, 6, -(2**63)]))
            array([2, 0, 1])
            >>> Vocabulary(np.array([7, 5, 7]), min_count=2).rows(np.array([5, 7]))
            array([0, 1])
        """
        if not len(self.ids):
            return np.zeros(ids.shape, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows + 1, 0)


class TextVocabulary:
    """Texts seen often enough in training; every other text, and null, shares row 0. Compared byte by byte.

    Attributes:
        texts: String [V], ascending and distinct.
    """

    def __init__(
        self, texts: pl.Series | NDArray[np.str_], min_count: int = 1, counts: NDArray[np.int64] | None = None
    ) -> None:
        """Take the texts of training, as `Vocabulary` takes ids; nulls are left out."""
        self.texts = frequent(_texts(texts), min_count, counts)

    def __len__(self) -> int:
        """Rows of the table: one per text and one for all other texts."""
        return len(self.texts) + 1

    @property
    def values(self) -> pl.Series:
        """The texts, that of row 1 first."""
        return self.texts.alias("value")

    def rows(self, texts: pl.Series | NDArray[np.str_]) -> NDArray[np.int64]:
        """Row of each text.

        Args:
            texts: a String series or array [N]; nulls are allowed.

        Returns:
            int64 [N], 0 for a text without a row of its own and for null.

        Example:
            >>> TextVocabulary(pl.Series(["red", None, "blue"])).rows(pl.Series(["red", "green", None, "blue"]))
            array([2, 0, 0, 1])
        """
        known = pl.DataFrame({"text": self.texts}).with_row_index("row", offset=1)
        asked = pl.DataFrame({"text": _texts(texts)})
        found = asked.join(known, on="text", how="left", maintain_order="left")["row"]
        return found.cast(pl.Int64).fill_null(0).to_numpy()


class HashedVocabulary:
    """Ids or texts by their hash: nothing has to be known before, and different values may share a row.

    Of n values in b buckets, a value shares its row with another one with probability 1 - (1 - 1/b)^(n - 1), about
    n/b where b is much larger. The hash depends on the value and the seed only, on every machine alike.

    Args:
        buckets: rows that values are spread over; row 0 comes on top.
        seed: of the hash.

    Raises:
        ValueError: if ``buckets`` is below 1 or ``seed`` is no int64.

    Source: Weinberger et al., "Feature hashing for large scale multitask learning" (2009); the mixing of 64 bits is
    the output function of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014).
    """

    def __init__(self, buckets: int, seed: int = 0) -> None:
        if buckets < 1:
            raise ValueError(f"buckets must be at least 1, got {buckets}")
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed must be an int64, got {seed}")
        self.buckets, self.seed = buckets, seed

    def __len__(self) -> int:
        """Rows of the table: the buckets, and row 0 for what is missing."""
        return self.buckets + 1

    def rows(self, values: NDArray[np.int64] | pl.Series | NDArray[np.str_]) -> NDArray[np.int64]:
        """Row of each value.

        Args:
            values: int64 of any shape, the full signed range; or texts [N], where nulls are allowed.

        Returns:
            int64 of the same shape, from 1 to ``buckets``; 0 for null.

        Example:
            >>> HashedVocabulary(1000).rows(np.array([-(2**63), -1, 0, 1, 2**63 - 1]))
            array([ 70, 697,  56, 431, 105])
            >>> HashedVocabulary(1000).rows(pl.Series(["red", "红色", None, "red"]))
            array([489, 201,   0, 489])
        """
        start = mix(np.array([self.seed], dtype=np.int64).view(np.uint64))
        if isinstance(values, np.ndarray) and values.dtype.kind == "i":
            bits = np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)
            missing = np.zeros(values.shape, dtype=bool)
        else:
            texts = _texts(values)
            bits, missing = fingerprints(texts), texts.is_null().to_numpy()
        rows = 1 + (mix(bits ^ start) % np.uint64(self.buckets)).astype(np.int64)
        return np.where(missing, 0, rows)


def vocabulary_of(values: pl.Series) -> Vocabulary | TextVocabulary:
    """Make a vocabulary of values, Int64 or String [N], each of which gets a row of its own."""
    return TextVocabulary(values) if values.dtype == pl.String else Vocabulary(values.to_numpy())


def mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64 bits so that each output bit depends on all of them: a bijection of uint64, any shape."""
    # Arrays, not scalars, wrap around without a warning.
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def fingerprints(texts: pl.Series) -> NDArray[np.uint64]:
    """Sum up a random number for each byte and its place: 64 bits for each of N texts, 0 for an empty one or null.

    Source: Zobrist, "A new hashing method with application for game playing" (1970), with sums in place of xor.
    """
    arrow = texts.fill_null("").rechunk().to_arrow().cast(pa.large_binary())
    _, offsets, data = arrow.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[arrow.offset :][: len(texts) + 1]
    lengths = np.diff(bounds)
    if not lengths.sum():
        return np.zeros(len(texts), dtype=np.uint64)
    content = np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]]
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(content)) - np.repeat(starts, lengths)
    summands = mix((place.astype(np.uint64) << np.uint64(8)) | content)
    sums = np.zeros(len(texts), dtype=np.uint64)
    some = lengths > 0
    sums[some] = np.add.reduceat(summands, starts[some])
    return sums


def frequent(values: pl.Series, min_count: int, counts: NDArray[np.int64] | None = None) -> pl.Series:
    """Distinct values that were seen at least ``min_count`` times, ascending; nulls are left out.

    Args:
        values: N values.
        min_count: at least 1.
        counts: how often each was seen, int64 [N]; once by default.

    Raises:
        ValueError: if ``min_count`` is below 1.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    seen = pl.DataFrame(
        {"value": values, "count": np.ones(len(values), np.int64) if counts is None else counts.ravel()}
    )
    kept = seen.drop_nulls("value").group_by("value").agg(pl.col("count").sum()).filter(pl.col("count") >= min_count)
    return kept["value"].sort()


def _texts(texts: pl.Series | NDArray[Any]) -> pl.Series:
    series = pl.Series("text", texts)
    if series.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise TypeError(f"expected texts, got {series.dtype}")
    return series.cast(pl.String)
