"""The representation store: ids and vectors on disk, looked up by id through a memory map."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.artifacts.checksums import again, is_noted
from moonlib.artifacts.reading import Unreadable, read_array, read_table, reading
from moonlib.representations.lookup import IdLookup
from moonlib.system.disk import rename, replacing, unfinished, writing

_BLOCK = 16_384
"""Vectors converted at once."""

Chunk = NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Vectors, float32 [rows, D], by themselves or with the content hashes of their rows, uint8 [rows, 16]."""

Chunks = Callable[[int], Iterable[Chunk]]
"""Number of the first chunk wanted → that chunk and all after it."""

HASH_BYTES = 16
"""Of a content hash; see `moonlib.embedding.content_hash`."""


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


class GrowingArray:
    """An array in a ``.npy`` file that grows by rows, and takes its name when it is complete.

    It is written by appending and not through a memory map, where a full disk would kill the process.

    Args:
        file: its name when it is complete; until then it is hidden beside it.
        dtype: of its values, such as ``<f4``.
        shape: of the complete array; the first number is that of the rows.
    """

    def __init__(self, file: Path, dtype: str, shape: tuple[int, int]) -> None:
        self.file, self.partial = file, unfinished(file)
        self.dtype, self.shape = np.dtype(dtype), shape
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
        self._header = header.getvalue()
        self._row = self.dtype.itemsize * shape[1]

    @property
    def finished(self) -> bool:
        """Whether the complete array is there."""
        return _starts_with(self.file, self._header)

    @property
    def rows(self) -> int:
        """How many whole rows are there."""
        if self.finished:
            return self.shape[0]
        if not _starts_with(self.partial, self._header):
            return 0
        return min((self.partial.stat().st_size - len(self._header)) // self._row if self._row else 0, self.shape[0])

    def keep(self, rows: int) -> None:
        """Go on after so many of the rows that are there; forget the others."""
        if self.finished:
            if rows == self.shape[0]:
                return
            self.file.unlink()
        with self.partial.open("r+b" if rows else "wb") as growing:
            if rows:
                growing.truncate(len(self._header) + rows * self._row)
            else:
                growing.write(self._header)

    def append(self, values: NDArray[np.generic]) -> None:
        """Append rows.

        Raises:
            ValueError: they are of another width, or too many.
        """
        if values.shape[1:] != self.shape[1:] or self.rows + len(values) > self.shape[0]:
            place = self.partial.stat().st_size
            raise ValueError(
                f"{self.partial}: a chunk of shape {list(values.shape)} does not belong at byte {place}: the whole is "
                f"{list(self.shape)}"
            )
        with writing(self.file), self.partial.open("ab", buffering=0) as growing:
            left = np.ascontiguousarray(values, dtype=self.dtype).reshape(-1).view(np.uint8).data
            while left.nbytes:  # of a disk that is nearly full, a first write takes a part
                left = left[growing.write(left) :]

    def finish(self) -> None:
        """Give the complete array its name.

        Raises:
            ValueError: rows are missing.
        """
        if self.finished:
            return
        if self.rows != self.shape[0]:
            total = len(self._header) + self.shape[0] * self._row
            raise ValueError(f"{self.partial}: the rows end at byte {self.partial.stat().st_size}, not at {total}")
        with writing(self.file):
            rename(self.partial, self.file)


def write_vectors(
    directory: Path,
    name: str,
    ids: NDArray[np.int64],
    dim: int,
    chunk: int,
    chunks: Chunks,
    names: pl.Series | None = None,
    *,
    hashed: bool = False,
) -> Representations:
    """Write representations chunk by chunk, resuming what an earlier call began; one chunk at a time is in memory.

    The vectors grow in ``.{name}.npy.partial`` and take their name when they are complete. What is there of other ids,
    another width or another type is begun anew; that the vectors themselves are of the same making is for the caller to
    know.

    Args:
        directory: where ``{name}.ids.npy`` and ``{name}.npy`` belong; one process at a time may write there.
        name: of the two files.
        ids: int64 [N], ascending.
        dim: width D.
        chunk: rows of each chunk but the last.
        chunks: makes the vectors. Chunk i belongs to ``ids[i * chunk : (i + 1) * chunk]``.
        names: the shop's ids [N], where those are text; see `write_names`.
        hashed: whether each chunk comes with content hashes, which are written to ``{name}.content.npy``.

    Returns:
        The representations, opened from disk.

    Raises:
        ValueError: ids that do not ascend, or chunks of another shape; what was written before stays.
    """
    if np.any(ids[1:] <= ids[:-1]):
        raise ValueError("ids to write vectors of must ascend, each of them once")
    # The vectors take their name last: where they are, the rest is.
    growing = [GrowingArray(content_file(directory, name), "|u1", (len(ids), HASH_BYTES))] if hashed else []
    growing.append(GrowingArray(directory / f"{name}.npy", "<f4", (len(ids), dim)))
    if names is not None:
        write_names(directory, name, names)
    if not _holds(directory / f"{name}.ids.npy", ids):
        for array in growing:
            array.file.unlink(missing_ok=True)
            array.partial.unlink(missing_ok=True)
        write_array(directory / f"{name}.ids.npy", ids)
    done = min(array.rows for array in growing)
    done = done if done == len(ids) else done // chunk * chunk
    if done < len(ids) or not all(array.finished for array in growing):
        for array in growing:
            array.keep(done)
        for found in chunks(done // chunk) if done < len(ids) else ():
            parts: list[NDArray[Any]] = [found[1], found[0]] if isinstance(found, tuple) else [found]
            expected = min(chunk, len(ids) - done)
            for array, part in zip(growing, parts, strict=True):
                if len(part) != expected:
                    raise ValueError(
                        f"{array.partial}: a chunk of shape {list(part.shape)} does not belong at row {done}, where "
                        f"{expected} rows were expected"
                    )
                array.append(part)
            done += expected
        for array in growing:
            array.finish()
    return Representations.open(directory, name)


def content_file(directory: Path, name: str) -> Path:
    """Where the content hashes of representations are, row by row: uint8 [N, 16]."""
    return directory / f"{name}.content.npy"


def open_content(directory: Path, name: str, rows: int) -> NDArray[np.uint8] | None:
    """Map the content hashes of representations, uint8 [N, 16]; None where there are none.

    Args:
        directory: of the representations.
        name: of their files.
        rows: how many there are.

    Raises:
        Damaged: they are not what was written.
        Unreadable: they are not hashes of so many rows.
    """
    file = content_file(directory, name)
    if not file.exists() and not is_noted(file):
        return None
    found = read_array(file)
    if found.dtype != np.uint8 or found.shape != (rows, HASH_BYTES):
        raise Unreadable(
            f"{file} holds {_kind(found)}, expected content hashes, uint8 [{rows}, {HASH_BYTES}], one for each id of "
            f"{name}.ids.npy; {again(file)}"
        )
    return found


def write_parquet(directory: Path, name: str, key: str) -> None:
    """Turn the files of representations into one Parquet file, block by block, and delete them.

    Args:
        directory: where ``{name}.ids.npy`` and ``{name}.npy`` lie and ``{name}.parquet`` is written.
        name: of the files.
        key: name of the column of ids, int64, or text where the shop's are; the vectors are the column ``vector``,
            fixed_size_list<float32>, and their content hashes, where there are any, ``content``,
            fixed_size_binary(16).
    """
    import pyarrow as pa
    from pyarrow import parquet

    store = Representations.open(directory, name)
    names, content = store.names, open_content(directory, name, len(store.ids))
    kind = pa.int64() if names is None else pa.string()
    fields = [(key, kind), ("vector", pa.list_(pa.float32(), store.dim))]
    if content is not None:
        fields.append(("content", pa.binary(HASH_BYTES)))
    schema = pa.schema(fields)
    with replacing(directory / f"{name}.parquet") as partial, parquet.ParquetWriter(partial, schema) as writer:
        for start in range(0, len(store.ids), _BLOCK):
            block = slice(start, start + _BLOCK)
            values = pa.array(np.ascontiguousarray(store.read(block)).reshape(-1))
            ids = store.ids[block] if names is None else names[block].to_list()
            columns = [pa.array(ids, kind), pa.FixedSizeListArray.from_arrays(values, store.dim)]
            if content is not None:
                data = pa.py_buffer(content[block].tobytes())
                columns.append(pa.FixedSizeBinaryArray.from_buffers(schema.field(2).type, len(ids), [None, data]))
            writer.write_table(pa.table(columns, schema=schema))
    Representations.remove(directory, name)


def unpack_parquet(file: Path, directory: Path, key: str) -> None:
    """Write what `write_parquet` made as the files it was made of, block by block.

    Args:
        file: ``{name}.parquet``.
        directory: where ``{name}.ids.npy``, ``{name}.npy`` and, where there are content hashes or the ids are text,
            ``{name}.content.npy`` and ``{name}.ids.parquet`` are written.
        key: name of the column of ids.

    Raises:
        Damaged: the file is not what was written.
        Unreadable: it is no Parquet file, or its columns are not those.
    """
    import pyarrow as pa
    from pyarrow import parquet

    name = file.stem
    with reading(file, "Parquet file"), parquet.ParquetFile(file) as source:
        schema, rows = source.schema_arrow, source.metadata.num_rows
        types = {field.name: field.type for field in schema}
        vector, kind = types.get("vector", pa.null()), types.get(key)
        if kind not in (pa.int64(), pa.string()) or not pa.types.is_fixed_size_list(vector):
            raise Unreadable(f"{file} has no column {key!r} of ids and {'vector'!r} of vectors; {again(file)}")
        content = types.get("content") == pa.binary(HASH_BYTES)
        arrays = [("vector", GrowingArray(directory / f"{name}.npy", "<f4", (rows, vector.list_size)))]
        if content:
            arrays.append(("content", GrowingArray(content_file(directory, name), "|u1", (rows, HASH_BYTES))))
        for _, array in arrays:
            array.keep(0)
        ids = []
        for batch in source.iter_batches(_BLOCK, columns=[key, *(column for column, _ in arrays)]):
            if batch.column(0).null_count or batch.column("vector").null_count:
                raise Unreadable(f"{file} lacks an id or a vector; {again(file)}")
            ids.append(batch.column(0))
            values = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            arrays[0][1].append(values.reshape(len(batch), -1))
            if content:
                # Nulls, which are not ours, have zeros, the hash of nothing.
                hashes = b"".join(value or bytes(HASH_BYTES) for value in batch.column("content").to_pylist())
                arrays[1][1].append(np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES))
        for _, array in arrays:
            array.finish()
        column = pl.Series(key, pa.chunked_array(ids, type=kind))
    if kind == pa.string():
        write_names(directory, name, column)
        write_array(directory / f"{name}.ids.npy", np.arange(rows, dtype=np.int64))
    else:
        write_array(directory / f"{name}.ids.npy", column.to_numpy())


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


def _directory(path: Path) -> tuple[int, int] | None:
    """Tells a directory from one that took its place; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


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
        self._directory: tuple[int, int] | None = None
        self._lookup: IdLookup | None = None
        self._asked = 0

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
            if _directory(file.parent) != self._directory:
                raise Unreadable(f"{file} is of newer vectors than were opened: open them again")
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
        # A newer embedding takes the place of the directory in one step: all files are then read from the new one.
        while True:
            opened = _directory(directory)
            try:
                store = cls._open(directory, name)
            except (OSError, ValueError):
                if _directory(directory) == opened:
                    raise
                continue
            if _directory(directory) == opened:
                store._directory = opened
                return store

    @classmethod
    def _open(cls, directory: Path, name: str) -> Representations:
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
        for end in ("npy", "ids.npy", "ids.parquet", "content.npy"):
            (directory / f"{name}.{end}").unlink(missing_ok=True)

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
        if self._lookup is None:
            self._asked += ids.size
            if self._asked < len(self.ids):  # that many make up for the time to make a faster search
                rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
                return np.where(self.ids[rows] == ids, rows, -1)
            self._lookup = IdLookup(self.ids)
        return self._lookup.rows(ids)

    def read(self, rows: NDArray[np.integer[Any]] | slice) -> NDArray[np.float32]:
        """Read the vectors of rows into memory, float32 [*S, D] for rows of shape S."""
        # np.take is twice as fast as an index.
        stored = self.vectors[rows] if isinstance(rows, slice) else np.take(np.asarray(self.vectors), rows, axis=0)
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
        none = rows < 0
        if not none.any():
            return self.read(rows)
        vectors = self.read(np.maximum(rows, 0))
        vectors[none] = 0
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
