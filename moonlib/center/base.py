"""The base of a record: the rows of all products as of some sequence, in files that are mapped and never changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.artifacts.checksums import seal
from moonlib.artifacts.layout import partial
from moonlib.artifacts.reading import Unreadable, read_array, reading
from moonlib.center.layout import COLUMNS, PICTURES, PRODUCTS, RECEIVED_AT, SEQUENCE
from moonlib.center.rows import Dtype
from moonlib.data.ids import IdMap
from moonlib.representations.store import (
    HASH_BYTES,
    GrowingArray,
    Representations,
    content_file,
    open_content,
    write_array,
    write_names,
)
from moonlib.system.disk import rename, replacing


class Base:
    """Rows in files, by ascending id, or without any.

    Attributes:
        directory: its folder; also that of a snapshot.
        store: ids and vectors.
        content: uint8 [n, 16].
        sequence: int64 [n].
        received_at: int64 [n].
        columns: the kept columns, n rows.
        ids: the shop's, n, ascending.
    """

    def __init__(self, directory: Path) -> None:
        """Map the files.

        Raises:
            FileNotFoundError: one is missing.
            Damaged: one is not what was written.
            Unreadable: one is not what its name says.
        """
        self.directory = directory
        self.store = Representations.open(directory, PRODUCTS)
        n = len(self.store.ids)
        content = open_content(directory, PRODUCTS, n)
        if content is None:
            raise FileNotFoundError(f"{content_file(directory, PRODUCTS)} is missing")
        self.content = content
        self.sequence, self.received_at = read_array(directory / SEQUENCE), read_array(directory / RECEIVED_AT)
        for name, array in ((SEQUENCE, self.sequence), (RECEIVED_AT, self.received_at)):
            if array.shape != (n,) or array.dtype != np.int64:
                raise Unreadable(f"{directory / name} holds {array.dtype} {list(array.shape)}, expected int64 [{n}]")
        with reading(directory / COLUMNS, "Arrow file"):
            columns = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(directory / COLUMNS))).read_all())
        assert isinstance(columns, pl.DataFrame)
        if columns.width and columns.height != n:
            raise Unreadable(f"{directory / COLUMNS} holds {columns.height} rows, expected {n}")
        self.columns = columns
        # All is read or mapped now: the folder may be deleted while this one is in use.
        names = self.store.names
        self.ids = pl.Series(self.store.ids) if names is None else names
        self._texts: IdMap | None = None
        if names is not None:
            texts = names.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
            self._texts = IdMap([texts.cast(pa.large_string())])
        self._pictures: pa.ChunkedArray | None = None
        if (directory / PICTURES).exists():
            with reading(directory / PICTURES, "Arrow file"):
                self._pictures = pa.ipc.open_file(pa.memory_map(str(directory / PICTURES))).read_all().column("picture")

    def __len__(self) -> int:
        return len(self.store.ids)

    def rows(self, ids: pl.Series) -> NDArray[np.int64]:
        """Row of each id [m]; -1 where there is none."""
        if not len(self):
            return np.full(len(ids), -1)
        if self._texts is None:
            return self.store.rows(ids.to_numpy())
        return self._texts.encode(ids).fill_null(-1).to_numpy()

    @cached_property
    def pictured(self) -> NDArray[np.bool_]:
        """Which rows have a picture, bool [n]."""
        if self._pictures is None:
            return np.zeros(len(self), np.bool_)
        found: NDArray[np.bool_] = self._pictures.is_valid().to_numpy()
        return found

    def picture(self, row: int) -> bytes | None:
        """The small JPEG of a row; None if it has none."""
        found: bytes | None = None if self._pictures is None else self._pictures[row].as_py()
        return found


def write_base(
    directory: Path,
    ids: pl.Series,
    vectors: Iterator[NDArray[Any]],
    dim: int,
    dtype: Dtype,
    content: NDArray[np.uint8],
    sequence: NDArray[np.int64],
    received_at: NDArray[np.int64],
    columns: pl.DataFrame,
    pictures: Iterator[list[bytes | None]] | None,
) -> None:
    """Write a base; it takes its name when all of it is on the disk. Rows are by ascending id.

    Args:
        directory: its name.
        ids: the shop's, int64 or text [n], ascending, each once.
        vectors: blocks of [.., dim], in the order of the rows.
        dim: width of the vectors.
        dtype: of the vectors.
        content: uint8 [n, 16].
        sequence: int64 [n].
        received_at: int64 [n].
        columns: the kept columns, n rows.
        pictures: blocks of pictures, in the order of the rows; None where there are none.
    """
    made = partial(directory)
    shutil.rmtree(made, ignore_errors=True)  # of a writer that was killed
    made.mkdir(parents=True)
    try:
        if ids.dtype == pl.String:
            write_names(made, PRODUCTS, ids.alias("item_id"))
            numbers = np.arange(len(ids))
        else:
            numbers = ids.to_numpy()
        write_array(made / f"{PRODUCTS}.ids.npy", numbers)
        growing = GrowingArray(made / f"{PRODUCTS}.npy", np.dtype(dtype).str, (len(ids), dim))
        growing.keep(0)
        for block in vectors:
            growing.append(block)
        growing.finish()
        write_array(content_file(made, PRODUCTS), content.reshape(-1, HASH_BYTES))
        write_array(made / SEQUENCE, sequence)
        write_array(made / RECEIVED_AT, received_at)
        write_columns(made, columns)
        if pictures is not None:
            schema = pa.schema([("picture", pa.large_binary())])
            with replacing(made / PICTURES) as file, pa.ipc.new_file(file, schema) as writer:
                for part in pictures:
                    writer.write_batch(pa.record_batch([pa.array(part, pa.large_binary())], schema=schema))
        seal(made, [file for file in made.iterdir() if file.name != PICTURES])
        rename(made, directory)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def write_columns(directory: Path, columns: pl.DataFrame) -> None:
    """Write the kept columns of a base."""
    with replacing(directory / COLUMNS) as file:
        table = columns.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def merged(base: Base, ids: pl.Series) -> tuple[pl.Series, NDArray[np.int64]]:
    """Merge newer rows into a base.

    Args:
        base: N rows.
        ids: of the newer rows [m], each once.

    Returns:
        All ids, ascending, and of each the number of its row: below N of the base, from N on of the newer ones.
    """
    kept = np.ones(len(base), np.bool_)
    found = base.rows(ids)
    kept[found[found >= 0]] = False
    old = np.flatnonzero(kept)
    named = pl.concat([base.ids.alias("id").gather(old), ids.alias("id")])
    numbers = pl.Series("row", np.concatenate([old, len(base) + np.arange(len(ids))]))
    ordered = pl.DataFrame([named, numbers]).sort("id")
    return ordered["id"], ordered["row"].to_numpy()
