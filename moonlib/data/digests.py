"""Digests of what is read of a dataset: of columns, pictures and split dates, each for itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from moonlib.data.dataset import Dataset, read_index
from moonlib.data.ids import IdMap
from moonlib.data.reads import Reads
from moonlib.data.restricted import RestrictedDataset
from moonlib.data.sample_shards import CHECKSUM

LENGTH = 32
"""Hexadecimal digits of a SHA-256 that a digest keeps."""

_AT_ONCE = 2**18
"""Rows that are looked at at once."""

_known: dict[tuple[Any, ...], str] = {}
"""Digests that this process has computed."""


def digests(dataset: Dataset, reads: Reads) -> dict[str, str]:
    """Digest what is read of a dataset, part by part, so that two readers can be compared part by part.

    A column of the shop's ids that are text is digested as the numbers that stand for them and as the texts: what a
    stage computes depends on the first, what it writes on the second.

    Args:
        dataset: the whole dataset.
        reads: what is read of it.

    Returns:
        By ``table.column``, ``table pictures``, ``splits.moment``, ``sessions`` (those that go on beyond a split date)
        and ``truth``. Of `moonlib.data.reads.EVERYTHING`, the dataset's hash, and ``truth``, which it does not cover.
        Parts that the dataset does not have are left out.

    Example: ``digests(dataset, Reads.of(products=["title"]))`` has ``products.item_id`` and ``products.title``.
    """
    truth = dataset.truth if reads.truth or reads.whole else None
    of_truth = {} if truth is None else {"truth": digest_files(truth)}
    if reads.whole:
        return {"dataset": dataset.hash, **of_truth}
    view = RestrictedDataset(dataset, reads, "a digest")
    rows = tuple(sorted((name, table.until or "") for name, table in reads.tables.items()))
    found: dict[str, str] = {}
    for name, table in sorted(reads.tables.items()):
        cut = (rows, tuple(dataset.splits.to_json().items())) if table.until else ()
        place = (str(dataset.directory.resolve()), dataset.hash, name, cut)
        there = [column for column in dataset.columns(name) if table.columns is None or column in table.columns]
        for column in sorted(there):
            found[f"{name}.{column}"] = _once((*place, column), lambda: _of_column(view, name, column))  # noqa: B023
        if table.pictures and name in dataset.counts:
            found[f"{name} pictures"] = _once((*place, None), lambda: _of_pictures(view, name))  # noqa: B023
    for moment in sorted(reads.moments):
        found[f"splits.{moment}"] = getattr(dataset.splits, moment).isoformat()
    if len(sessions := view.sessions):
        frame = sessions.to_arrow(compat_level=pl.CompatLevel.oldest())
        parts = [digest(frame.column(name)) for name in ("search_id", "began", "ended")]
        found["sessions"] = _short(hashlib.sha256("".join(parts).encode()))
    return found | of_truth


def digest(column: pa.ChunkedArray | pa.Array, ids: IdMap | None = None) -> str:
    """Digest the content of a column: SHA-256 over its values in their order, and its type.

    Equal content gives equal digests, however it is cut into chunks, sliced, encoded by a dictionary or held with
    32 or 64-bit offsets, and whatever lies under its nulls.

    Args:
        column: of any type that a dataset holds.
        ids: those that the numbers of the column stand for; their texts are digested, too.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> digest(pa.chunked_array([["a"], ["b", None]])) == digest(pa.array(["a", "b", None]))
        True
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    content = _Content(column.type)
    texts = None if ids is None else _Content(pa.large_string())
    for chunk in chunks:
        for start in range(0, len(chunk), _AT_ONCE):
            part = chunk.slice(start, _AT_ONCE)
            content.add(part)
            if texts is not None and ids is not None:
                numbers = part.flatten() if pa.types.is_nested(part.type) else part
                named = ids.decode(pl.Series(numbers))
                texts.add(named.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()))
    whole = hashlib.sha256()
    for part in (content, texts):
        if part is not None:
            for line in part.lines():
                whole.update(line.encode() + b"\n")
    return _short(whole)


def given_representations(dataset: Dataset) -> dict[str, str]:
    """Digest the representations that a dataset came with, under ``representations``; without any, nothing."""
    place = dataset.representations
    return {} if place is None else {"representations": digest_files(place)}


def digest_files(folder: Path) -> str:
    """Digest the files of a folder: their names and their content."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _once((str(folder.resolve()), *states), lambda: _of_files(folder, files))


class _Content:
    """The values of a column of one type, added part by part: what they are made of has a hash each."""

    def __init__(self, kind: pa.DataType, path: str = "") -> None:
        self.kind, self.path = _plain(kind), path
        self.rows = 0
        self.known, self.sizes, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.parts: list[_Content] = []
        if pa.types.is_struct(self.kind):
            self.parts = [_Content(part.type, f"{path}.{part.name}") for part in self.kind]
        elif _is_list(self.kind):
            self.parts = [_Content(self.kind.value_type, f"{path}[]")]

    def add(self, array: pa.Array) -> None:
        """Add the values of an array after those that were added before."""
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        if array.type != self.kind:
            array = array.cast(self.kind)
        self.rows += len(array)
        self.known.update(np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.uint8).tobytes())
        if pa.types.is_null(self.kind):
            return
        there = array.drop_null()  # what lies under a null is of no account
        if pa.types.is_struct(self.kind):
            for part, column in zip(self.parts, there.flatten(), strict=True):
                part.add(column)
        elif self.parts:
            sizes = pc.list_value_length(there).to_numpy(zero_copy_only=False)
            self.sizes.update(sizes.astype(np.int64).tobytes())
            self.parts[0].add(there.flatten())
        elif self.kind in (pa.large_string(), pa.large_binary()):
            buffer = there.buffers()[1]
            offsets = np.frombuffer(buffer, np.int64)[there.offset :][: len(there) + 1] if buffer else np.zeros(1, int)
            self.sizes.update(np.diff(offsets).tobytes())
            if (data := there.buffers()[2]) is not None:
                self.values.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        elif pa.types.is_boolean(self.kind):
            self.values.update(np.asarray(there.to_numpy(zero_copy_only=False), np.uint8).tobytes())
        elif len(there):
            width = self.kind.bit_width // 8
            self.values.update(memoryview(there.buffers()[1])[there.offset * width :][: len(there) * width])

    def lines(self) -> Iterator[str]:
        """Lines that say all that was added, and nothing of how."""
        hashes = " ".join(each.hexdigest() for each in (self.known, self.sizes, self.values))
        yield f"{self.path}: {_name(self.kind)}, {self.rows} rows {hashes}"
        for part in self.parts:
            yield from part.lines()


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that stands for all that hold the same values: texts with 64-bit offsets, no dictionaries or maps."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_map(kind):
        # Of any nullability: entries are compared by their values.
        return pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), ("value", kind.item_type)]))
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _name(kind: pa.DataType) -> str:
    """Name a type; lists and structs without what is in them, which is told apart."""
    return "list" if _is_list(kind) else "struct" if pa.types.is_struct(kind) else str(kind)


def _of_column(view: RestrictedDataset, table: str, column: str) -> str:
    return digest(view.column(table, column), view.ids.of(column))


def _of_pictures(view: RestrictedDataset, table: str) -> str:
    """Digest the pictures of a table; of a dataset without digests of them, its checksums of whole samples."""
    found = view.image_digests(table)
    if found is not None:
        return digest(found)
    indexes = [read_index(path) for path in view.shard_files(table, ".arrow")]
    if all(CHECKSUM in index.column_names for index in indexes) and sum(map(len, indexes)) == view.counts[table]:
        checksums = pa.chunked_array([part for index in indexes for part in index.column(CHECKSUM).chunks], pa.int64())
        return digest(view.cut(checksums, table))
    return view.hash[:LENGTH]


def _of_files(folder: Path, files: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            content = hashlib.file_digest(data, "sha256").hexdigest()
        whole.update(f"{file.relative_to(folder).as_posix()}={content}\n".encode())
    return _short(whole)


def _once(key: tuple[Any, ...], compute: Any) -> str:
    if key not in _known:
        _known[key] = compute()
    return _known[key]


def _short(whole: Any) -> str:
    text: str = whole.hexdigest()[:LENGTH]
    return text
