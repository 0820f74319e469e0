"""The representation store: ids and vectors on disk, looked up by id through a memory map."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.artifacts.checksums import again, is_noted
from moonlib.artifacts.reading import Unreadable, read_array, read_table
from moonlib.system.disk import rename, replacing, unfinished, writing

_BLOCK = 16_384
"""Vectors converted at once."""

Chunks = Callable[[int], Iterable[NDArray[np.float32]]]
"""Number of the first chunk wanted → that chunk of vectors and all after it, float32 [rows, D] each."""


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array as ``.npy``, whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_names(directory: Path, name: str, names: pl.Series) -> None:
    """Write the ids that a shop uses in place of those of ``{name}.ids.npy``, row by row: ``{name}.ids.parquet``."""
    with replacing(_names_file(directory, name)) as partial:
        names.to_frame().write_parquet(partial)


def _names_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.ids.parquet"


def write_vectors(
    directory: Path,
    name: str,
    ids: NDArray[np.int64],
    dim: int,
    chunk: int,
    chunks: Chunks,
    names: pl.Series | None = None,
) -> Representations:
    """Write representations chunk by chunk, resuming what an earlier call began; one chunk at a time is in memory.

    The vectors grow in ``.{name}.npy.partial`` and take their name when they are complete. It is written by appending
    and not through a memory map, where a full disk would kill the process. What is there of other ids, another width
    or another type is begun anew; that the vectors themselves are of the same making is for the caller to know.

    Args:
        directory: where ``{name}.ids.npy`` and ``{name}.npy`` belong; one process at a time may write there.
        name: of the two files.
        ids: int64 [N], ascending.
        dim: width D.
        chunk: rows of each chunk but the last.
        chunks: makes the vectors. Chunk i belongs to ``ids[i * chunk : (i + 1) * chunk]``.
        names: the shop's ids [N], where those are text; see `write_names`.

    Returns:
        The representations, opened from disk.

    Raises:
        ValueError: ids that do not ascend, or chunks of another shape; what was written before stays.
    """
    if np.any(ids[1:] <= ids[:-1]):
        raise ValueError("ids to write vectors of must ascend, each of them once")
    file = directory / f"{name}.npy"
    partial = unfinished(file)
    header = _header(len(ids), dim)
    if names is not None:
        write_names(directory, name, names)
    if not _holds(directory / f"{name}.ids.npy", ids):
        file.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        write_array(directory / f"{name}.ids.npy", ids)
    elif file.exists() and _starts_with(file, header):
        return Representations.open(directory, name)
    bytes_of = 4 * dim * chunk
    total = len(header) + 4 * dim * len(ids)
    done = (partial.stat().st_size - len(header)) // bytes_of if _starts_with(partial, header) else 0
    with partial.open("r+b" if done > 0 else "wb") as growing:
        if done > 0:
            growing.truncate(min(len(header) + done * bytes_of, total))
            growing.seek(0, os.SEEK_END)
        else:
            growing.write(header)
        place = growing.tell()
        for vectors in chunks(max(done, 0)) if place < total else ():
            if vectors.shape != (min(chunk, (total - place) // (4 * dim)), dim):
                raise ValueError(f"{partial}: a chunk of shape {list(vectors.shape)} does not belong at byte {place}")
            with writing(file):
                growing.write(np.ascontiguousarray(vectors, dtype="<f4").data)
                growing.flush()
            place = growing.tell()
        if place != total:
            raise ValueError(f"{partial}: the vectors end at byte {place}, and should at {total}")
    with writing(file):
        rename(partial, file)
    return Representations.open(directory, name)


def write_parquet(directory: Path, name: str, key: str) -> None:
    """Turn the files of representations into one Parquet file, block by block, and delete them.

    Args:
        directory: where ``{name}.ids.npy`` and ``{name}.npy`` lie and ``{name}.parquet`` is written.
        name: of the files.
        key: name of the column of ids, int64, or text where the shop's are; the vectors are the column ``vector``,
            fixed_size_list<float32>.
    """
    import pyarrow as pa
    from pyarrow import parquet

    store = Representations.open(directory, name)
    names = store.names
    kind = pa.int64() if names is None else pa.string()
    schema = pa.schema([(key, kind), ("vector", pa.list_(pa.float32(), store.dim))])
    with replacing(directory / f"{name}.parquet") as partial, parquet.ParquetWriter(partial, schema) as writer:
        for start in range(0, len(store.ids), 16_384):
            block = slice(start, start + 16_384)
            values = pa.array(np.ascontiguousarray(store.read(block)).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(values, store.dim)
            ids = store.ids[block] if names is None else names[block].to_list()
            writer.write_table(pa.table([pa.array(ids, kind), vectors], schema=schema))
    Representations.remove(directory, name)


def _header(rows: int, dim: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})
    return header.getvalue()


def _starts_with(path: Path, header: bytes) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _holds(path: Path, ids: NDArray[np.int64]) -> bool:
    """Whether a file of ids is there and holds these."""
    if not path.exists():
        return False
    try:
        return np.array_equal(read_array(path), ids)
    except Unreadable:  # no array, or cut off
        return False


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale float [n, D] to unit length in float32; zeros stay zeros."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(length, np.finfo(np.float32).tiny)
    return scaled


class Representations:
    """The vectors of products or of queries.

    They are kept as float32, or smaller: as float16, or as int8, of which one stands for 1/127. `read` and `gather`
    return float32 whatever they are kept as; whoever reads `vectors` itself multiplies with `scale`.

    Attributes:
        ids: int64 [N], ascending.
        vectors: float32, float16 or int8 [N, D], row i belongs to ``ids[i]``; memory-mapped when opened from disk. A
            row of zeros means that there is nothing to represent.
        scale: what a value of ``vectors`` is multiplied with, 1/127 for int8 and 1 otherwise.
    """

    def __init__(self, ids: NDArray[np.int64], vectors: NDArray[Any], names: pl.Series | None = None) -> None:
        """Take ids int64 [N] in any order and vectors float or int8 [N, D]; where a shop's ids are text, also these.

        Raises:
            ValueError: where the lengths differ, an id stands twice, or vectors are of another type.
        """
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        if vectors.dtype.kind != "f" and vectors.dtype != np.int8:
            raise ValueError(f"vectors are {vectors.dtype}; expected float32, float16 or int8")
        if np.any(ids[1:] <= ids[:-1]):
            order = np.argsort(ids, kind="stable")
            ids, vectors = ids[order], vectors[order]
            names = None if names is None else names.gather(order)
            twice = ids[1:][ids[1:] == ids[:-1]]
            if len(twice):
                raise ValueError(f"id {twice[0]} has two representations")
        self.ids = ids
        self.vectors = vectors
        self.scale = 1 / 127 if vectors.dtype == np.int8 else 1.0
        self._names: pl.Series | Path | None = names

    @property
    def names(self) -> pl.Series | None:
        """The ids that the shop uses, row by row, where they are text and were kept; read when first asked for.

        Raises:
            Damaged: the file is not what was written, see `moonlib.artifacts.checksums`.
            Unreadable: it is not one of texts, as many as there are vectors.
        """
        if isinstance(self._names, Path):
            file = self._names
            names = read_table(file).to_series()
            if names.dtype != pl.String or len(names) != len(self.ids) or names.null_count():
                raise Unreadable(f"{file} does not hold a text for each of {len(self.ids)} ids; {again(file)}")
            self._names = names
        return self._names

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.vectors.shape[1])

    @staticmethod
    def are_in(directory: Path, name: str) -> bool:
        """Whether a directory holds complete vectors of this name."""
        return (directory / f"{name}.npy").exists()

    @staticmethod
    def are_named(directory: Path, name: str) -> bool:
        """Whether a directory holds, beside vectors of this name, a shop's text ids of them."""
        return _names_file(directory, name).is_file()

    @classmethod
    def open(cls, directory: Path, name: str) -> Representations:
        """Open ``{name}.ids.npy`` and ``{name}.npy`` without holding the vectors in memory.

        Raises:
            FileNotFoundError: one of them is missing.
            Damaged: one is not what was written, see `moonlib.artifacts.checksums`.
            Unreadable: one is no ``.npy`` file, or not of ids and their vectors.
        """
        ids_file, vectors_file = directory / f"{name}.ids.npy", directory / f"{name}.npy"
        try:
            ids, vectors = read_array(ids_file), read_array(vectors_file)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error.filename} is missing: run the represent stage of the iteration again"
            ) from None
        if ids.dtype != np.int64 or ids.ndim != 1:
            raise Unreadable(f"{ids_file} holds {_kind(ids)}, expected ids, int64 [N]; {again(ids_file)}")
        if (
            vectors.dtype not in (np.float32, np.float16, np.int8)
            or vectors.shape[:1] != ids.shape
            or vectors.ndim != 2
        ):
            raise Unreadable(
                f"{vectors_file} holds {_kind(vectors)}, expected float32, float16 or int8 [{len(ids)}, D], a vector "
                f"for each id of {ids_file.name}; {again(vectors_file)}"
            )
        store, names_file = cls(np.array(ids), vectors), _names_file(directory, name)
        if names_file.is_file() or is_noted(names_file):
            store._names = names_file
        return store

    @staticmethod
    def remove(directory: Path, name: str) -> None:
        """Delete what `save` or `write_vectors` wrote."""
        for file in (f"{name}.npy", f"{name}.ids.npy", f"{name}.ids.parquet"):
            (directory / file).unlink(missing_ok=True)

    def save(self, directory: Path, name: str) -> None:
        """Write ``{name}.ids.npy`` (int64 [N]) and ``{name}.npy`` (float32, float16 or int8 [N, D]).

        Where there are `names`, ``{name}.ids.parquet`` is written too.
        """
        if self.names is not None:
            write_names(directory, name, self.names)
        small = self.vectors.dtype in (np.float16, np.int8)
        write_array(directory / f"{name}.ids.npy", self.ids)
        write_array(directory / f"{name}.npy", self.vectors if small else self.vectors.astype(np.float32, copy=False))

    def named(self, row: int) -> int | str:
        """The id of a row, as the shop writes it."""
        return int(self.ids[row]) if self.names is None else str(self.names[row])

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id.

        Args:
            ids: int64, any shape.

        Returns:
            int64 of the same shape; -1 where there is no representation.

        Example:
            >>> store = Representations(np.array([7, -3]), np.eye(2, dtype=np.float32))
            >>> store.rows(np.array([[-3, 7, 5]]))
            array([[ 0,  1, -1]])
        """
        if not len(self.ids):
            return np.full(ids.shape, -1, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)

    def read(self, rows: NDArray[np.integer[Any]] | slice) -> NDArray[np.float32]:
        """Read the vectors of rows into memory, float32 [*S, D] for rows of shape S."""
        # np.take is twice as fast as an index.
        stored = self.vectors[rows] if isinstance(rows, slice) else np.take(self.vectors, rows, axis=0)
        vectors = np.asarray(stored, dtype=np.float32)
        return vectors if self.scale == 1 else vectors * np.float32(self.scale)

    def at(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Read vectors into memory by row, where there may be none.

        Args:
            rows: integers, any shape S, as from `rows`; -1 for none.

        Returns:
            float32 [*S, D]; zeros for -1.
        """
        if not len(self.ids):
            return np.zeros((*rows.shape, self.dim), dtype=np.float32)
        vectors = self.read(np.maximum(rows, 0))
        vectors[rows < 0] = 0
        return vectors

    def gather(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read vectors into memory, float32 [n, D] for n ids; zeros where there is no representation."""
        return self.at(self.rows(ids))

    def as_type(self, kind: Literal["float32", "float16", "int8"]) -> Representations:
        """The same representations kept as another type, in memory.

        As int8 a vector v becomes round(127 v / max |v|): its largest value is ±127 and only its direction is kept,
        which is all that a cosine reads. As float16 a value keeps 11 bits.

        Args:
            kind: of the vectors.

        Raises:
            ValueError: a vector has a value that is not finite, or too large for float16.

        Example:
            >>> Representations(np.array([7]), np.array([[0.5, -1.0]], np.float32)).as_type("int8").vectors
            array([[  64, -127]], dtype=int8)
        """
        kept = np.empty((len(self.ids), self.dim), dtype=kind)
        limit = 65_520.0 if kind == "float16" else np.inf  # what would be rounded to infinity
        for start in range(0, len(self.ids), _BLOCK):
            block = slice(start, start + _BLOCK)
            vectors = self.read(block)
            largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
            if len(bad := np.flatnonzero(~(largest[:, 0] < limit))):
                raise ValueError(
                    f"the vector of id {self.named(start + int(bad[0]))} has a value that {kind} can't hold: not "
                    f"finite, or as large as {limit:,.0f}"
                )
            if kind == "int8":
                vectors = np.rint(127 * (vectors / np.maximum(largest, np.finfo(np.float32).tiny)))
            kept[block] = vectors
        return Representations(self.ids, kept, self.names)

    def shuffled(self, seed: int) -> Representations:
        """The same vectors, dealt out to the ids at random: what a representation is worth without its meaning."""
        order = np.random.default_rng(seed).permutation(len(self.ids))
        return Representations(self.ids, np.asarray(self.vectors)[order])
