"""Rows of a record: products, and tombstones of products that were deleted; in memory, and as a log holds them.

In a log, rows are: their number and the bytes of their table, int64 each; when each was received and the bytes of its
picture, int64 [n] each; content hashes, uint8 [n, 16]; vectors; whether each is a tombstone, bool [n]; and the table of
ids and kept columns, as an Arrow IPC stream. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.representations.store import HASH_BYTES

Dtype = Literal["int8", "float16", "float32"]
"""Of vectors at rest."""
IdType = Literal["int64", "text"]
ColumnType = Literal["text", "integer", "float", "boolean"]

COLUMN_TYPES: dict[ColumnType, Any] = {
    "text": pl.String,
    "integer": pl.Int64,
    "float": pl.Float64,
    "boolean": pl.Boolean,
}
"""Types of kept columns."""


def id_dtype(ids: IdType | None) -> Any:
    """The polars type of ids; of a space that has none yet, int64."""
    return pl.String if ids == "text" else pl.Int64


def empty_columns(columns: dict[str, ColumnType]) -> pl.DataFrame:
    """Kept columns without rows."""
    return pl.DataFrame(schema={name: COLUMN_TYPES[kind] for name, kind in columns.items()})


@dataclass(frozen=True)
class Rows:
    """Rows of a space, in the order of their sequence.

    Attributes:
        ids: int64 or text [n], the shop's.
        vectors: int8, float16 or float32 [n, D]; zeros where nothing could be represented, or of a tombstone.
        content: uint8 [n, 16], hash of what the encoder read.
        received_at: int64 [n], microseconds since 1970 UTC.
        deleted: bool [n], whether the row is a tombstone.
        columns: the kept columns, n rows.
        pictures: binary [n], small JPEGs; null where there is none, or where the row before it of the same id and
            content has it.
    """

    ids: pl.Series
    vectors: NDArray[Any]
    content: NDArray[np.uint8]
    received_at: NDArray[np.int64]
    deleted: NDArray[np.bool_]
    columns: pl.DataFrame
    pictures: pl.Series

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def tombstones(cls, ids: pl.Series, dim: int, dtype: Dtype, columns: pl.DataFrame, received_at: int) -> Rows:
        """Rows that say that products are gone.

        Args:
            ids: of the products.
            dim: width of the space's vectors.
            dtype: of the space's vectors.
            columns: the kept columns; only their types are used.
            received_at: microseconds since 1970 UTC.
        """
        n = len(ids)
        return cls(
            ids,
            np.zeros((n, dim), dtype),
            np.zeros((n, HASH_BYTES), np.uint8),
            np.full(n, received_at, np.int64),
            np.ones(n, np.bool_),
            columns.clear(n),
            pl.repeat(None, n, dtype=pl.Binary, eager=True),
        )

    def to_bytes(self) -> tuple[bytes, list[bytes | None]]:
        """All but the pictures, as `StoredRows.from_bytes` reads it, and the pictures by themselves."""
        n = len(self)
        pictures = self.pictures.to_list()
        columns = {_ID: self.ids} | {column.name: column for column in self.columns}
        table = pa.RecordBatch.from_pydict({name: _arrow(column) for name, column in columns.items()})
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_batch(table)
        stored = stream.getvalue()
        parts = (
            _COUNTS.pack(n, stored.size),
            self.received_at.astype("<i8").tobytes(),
            np.array([0 if picture is None else len(picture) for picture in pictures], "<i8").tobytes(),
            self.content.tobytes(),
            self.vectors.astype(self.vectors.dtype.newbyteorder("<"), copy=False).tobytes(),
            self.deleted.tobytes(),
            stored.to_pybytes(),
        )
        return b"".join(parts), pictures


@dataclass(frozen=True)
class StoredRows:
    """Rows as a log holds them: their pictures stay in the file.

    Attributes:
        rows: without pictures.
        sequence: int64 [n].
        picture_at: int64 [n], where in the file the picture begins.
        picture_size: int64 [n], its bytes; 0 for none.
    """

    rows: Rows
    sequence: NDArray[np.int64]
    picture_at: NDArray[np.int64]
    picture_size: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, first: int, pictures_at: int, sizes: NDArray[np.int64]) -> StoredRows:
        """Rows whose pictures lie in a file, one after the other.

        Args:
            rows: the rows; their pictures are left out.
            first: sequence of the first row.
            pictures_at: where in the file the first picture begins.
            sizes: bytes of each picture, int64 [n]; 0 for none.
        """
        return cls(
            replace(rows, pictures=_NONE),
            np.arange(first, first + len(rows)),
            pictures_at + np.cumsum(sizes) - sizes,
            sizes,
        )

    @classmethod
    def from_bytes(cls, data: memoryview, first: int, pictures_at: int, dtype: Dtype) -> StoredRows:
        """Read what `Rows.to_bytes` made.

        Args:
            data: of the rows.
            first: sequence of the first row.
            pictures_at: where in the file its pictures begin.
            dtype: of the vectors.
        """
        n, table_size = _COUNTS.unpack_from(data)
        at = _COUNTS.size

        def array(kind: str, count: int) -> NDArray[Any]:
            nonlocal at
            found = np.frombuffer(data, np.dtype(kind).newbyteorder("<"), count, at)
            at += found.nbytes
            return found

        received_at, sizes, content = array("i8", n), array("i8", n), array("u1", n * HASH_BYTES)
        left = len(data) - at - n - table_size
        vectors = array(dtype, left // np.dtype(dtype).itemsize)
        deleted = array("?", n)
        table = pa.ipc.open_stream(pa.py_buffer(data[at:])).read_next_batch()
        ids, *columns = [
            pl.Series(name, column) for name, column in zip(table.schema.names, table.columns, strict=True)
        ]
        rows = Rows(
            ids,
            vectors.reshape(n, -1),
            content.reshape(n, HASH_BYTES),
            received_at,
            deleted,
            pl.DataFrame(columns),
            _NONE,
        )
        return cls.of(rows, first, pictures_at, sizes)


def _arrow(series: pl.Series) -> pa.Array:
    return series.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())


_ID = "item_id"
"""Name of the ids in a stored table, which no kept column has."""
_COUNTS = struct.Struct("<qq")
"""Rows, and bytes of their table."""
_NONE = pl.Series([], dtype=pl.Binary)
