"""Rows of a record in memory: products, and tombstones of products that were deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    def take(self, rows: NDArray[np.integer[Any]]) -> Rows:
        """Some of the rows, by number."""
        return Rows(
            self.ids.gather(rows),
            self.vectors[rows],
            self.content[rows],
            self.received_at[rows],
            self.deleted[rows],
            self.columns[rows] if self.columns.width else self.columns,
            self.pictures.gather(rows),
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several parts, one after the other."""
        return cls(
            pl.concat([part.ids for part in parts]),
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.content for part in parts]),
            np.concatenate([part.received_at for part in parts]),
            np.concatenate([part.deleted for part in parts]),
            pl.concat([part.columns for part in parts]),
            pl.concat([part.pictures for part in parts]),
        )

    def to_arrow(self) -> tuple[pa.RecordBatch, list[bytes]]:
        """An Arrow batch of all but the pictures, with their sizes, and the pictures by themselves."""
        pictures = [picture for picture in self.pictures.to_list() if picture is not None]
        arrays = {
            "id": _arrow(self.ids),
            "vector": fixed_binary(self.vectors),
            "content": fixed_binary(self.content),
            "received_at": pa.array(self.received_at),
            "deleted": pa.array(self.deleted),
            "picture_size": _arrow(self.pictures.bin.size().cast(pl.Int64)),
        }
        if self.columns.width:
            arrays["columns"] = _arrow(self.columns.to_struct("columns"))
        return pa.RecordBatch.from_pydict(arrays), pictures


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
    def from_arrow(cls, batch: pa.RecordBatch, first: int, pictures_at: int, dtype: Dtype) -> StoredRows:
        """Read what `Rows.to_arrow` made.

        Args:
            batch: the batch.
            first: sequence of the first row.
            pictures_at: where in the file its pictures begin.
            dtype: of the vectors.
        """
        n = len(batch)
        sizes: NDArray[np.int64] = batch.column("picture_size").fill_null(0).to_numpy(zero_copy_only=False)
        columns = pl.DataFrame()
        if "columns" in batch.schema.names:
            columns = _series(batch.column("columns")).struct.unnest()
        rows = Rows(
            _series(batch.column("id")),
            binary_array(batch.column("vector"), dtype),
            binary_array(batch.column("content"), "uint8"),
            batch.column("received_at").to_numpy(),
            batch.column("deleted").to_numpy(zero_copy_only=False),
            columns,
            pl.repeat(None, n, dtype=pl.Binary, eager=True),
        )
        return cls(rows, np.arange(first, first + n), pictures_at + np.cumsum(sizes) - sizes, sizes)


def fixed_binary(array: NDArray[Any]) -> pa.FixedSizeBinaryArray:
    """The rows of a matrix as binary values of one size."""
    data = np.ascontiguousarray(array)
    width = data.itemsize * data.shape[1]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(data), [None, pa.py_buffer(data)])


def binary_array(column: pa.FixedSizeBinaryArray, dtype: str) -> NDArray[Any]:
    """The matrix that `fixed_binary` was given."""
    width = column.type.byte_width
    data = column.buffers()[1]
    start = column.offset * width
    flat = np.frombuffer(data, np.uint8, len(column) * width, start) if len(column) else np.empty(0, np.uint8)
    return (
        flat.view(dtype).reshape(len(column), -1) if len(column) else np.empty((0, width // np.dtype(dtype).itemsize))
    )


def _arrow(series: pl.Series) -> pa.Array:
    return series.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())


def _series(array: pa.Array) -> pl.Series:
    found = pl.from_arrow(array)
    assert isinstance(found, pl.Series)
    return found
