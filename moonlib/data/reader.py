"""Reads products and queries by id, in any order, straight from the shards."""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data.dataset import REMEDY, BrokenShard, Dataset, read_index, require_integers
from moonlib.data.image_lists import IMAGES
from moonlib.data.restricted import RestrictedDataset, Undeclared
from moonlib.data.sample_shards import CHECKSUM, INDEX_COLUMNS, MORE_SIZES, OFFSETS
from moonlib.data.tables import KEYS, SAMPLE_TABLES

_OPEN_FILES = 256


@dataclass(slots=True)
class Sample:
    """One product or query. Where the shop's ids are text, ids are their numbers, see `moonlib.data.ids`.

    Attributes:
        id: its id.
        row: its row as JSON gives it (times are ISO 8601 text).
        image: its main JPEG, if it has one.
        more: its other JPEGs, in their order.
        unread: how many pictures its table names that could not be read; a dataset's samples hold what they name.
    """

    id: int
    row: dict[str, Any]
    image: bytes | None
    more: tuple[bytes, ...] = ()
    unread: int = 0

    def view(self, number: int) -> Sample:
        """The same product as if one of its pictures were the only one; the box is the main one's alone.

        Args:
            number: of the picture, 0 for the main one.
        """
        if number == 0:
            return Sample(self.id, self.row, self.image)
        return Sample(self.id, self.row | {"box": None}, self.more[number - 1])


class DeclaredRow(dict[str, Any]):
    """The declared columns of a row; asking for another one raises `Undeclared`."""

    def __init__(self, values: Mapping[str, Any], declared: Collection[str], table: str, reader: str) -> None:
        super().__init__({name: value for name, value in values.items() if name in declared})
        self.declared, self.table, self.reader = declared, table, reader

    def __missing__(self, name: str) -> Any:
        if name in self.declared:
            raise KeyError(name)
        raise Undeclared.of(self.reader, f"the column {name!r} of {self.table}")

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a column, or a default where the row does not have it."""
        return self[name] if name in self or name not in self.declared else default

    def __or__(self, other: Mapping[str, Any]) -> DeclaredRow:  # type: ignore[override]
        return DeclaredRow({**self, **other}, self.declared, self.table, self.reader)

    def __reduce__(self) -> tuple[Any, ...]:
        return DeclaredRow, (dict(self), self.declared, self.table, self.reader)


class UndeclaredPicture:
    """Stands where a picture is that is not declared to be read; no decoder takes it."""


@dataclass(frozen=True)
class DeclaredSamples:
    """The samples of a table that a `RestrictedDataset` shows.

    Attributes:
        table: ``products`` or ``queries``.
        reader: who declared it.
        columns: those that are declared; None for all.
        pictures: whether the pictures are.
        ids: the rows that are, int64, ascending; None for all.
    """

    table: str
    reader: str
    columns: frozenset[str] | None
    pictures: bool
    ids: NDArray[np.int64] | None

    @classmethod
    def of(cls, dataset: RestrictedDataset, table: str) -> DeclaredSamples | None:
        """Look up what a dataset declares of a table; None for everything."""
        if dataset.reads.whole:
            return None
        declared = dataset.declared(table)
        ids = None
        if declared.until is not None:
            ids = np.sort(dataset.table(table, (KEYS[table],))[KEYS[table]].to_numpy())
        return cls(table, dataset.reader, declared.columns, declared.pictures, ids)

    def check(self, ids: NDArray[np.int64]) -> None:
        """Refuse rows that are not read."""
        if self.ids is None:
            return
        place = np.searchsorted(self.ids, ids).clip(max=max(len(self.ids) - 1, 0))
        there = self.ids[place] == ids if len(self.ids) else np.zeros(len(ids), bool)
        if not there.all():
            raise Undeclared.of(
                self.reader, f"{KEYS[self.table]} {ids[~there][0]} of {self.table}, a row of later days"
            )

    def sample(self, sample: Sample) -> Sample:
        """A sample without what is not declared."""
        row = sample.row
        if self.columns is not None:
            row = DeclaredRow(row, self.columns, self.table, self.reader)
        if self.pictures or sample.image is None:
            return Sample(sample.id, row, sample.image, sample.more)
        hidden: Any = UndeclaredPicture()
        return Sample(sample.id, row, hidden)


class SampleReader:
    """Reads samples with one ``pread`` each, where the index says; no tar is parsed.

    Picklable. Files open lazily in the process that reads. That every tar is whole is checked at once, by its size;
    that the index belongs to it, with every sample, by the name of its member and the id of its row. A sample's bytes
    are compared with the checksum in the index whenever it is read; datasets built before have none.

    Args:
        directory: a dataset, its directory, or its URL, see `moonlib.data.dataset.Dataset`. Of a restricted one, see
            `moonlib.data.restricted`, samples hold what is declared, and reading anything else is an error.
        table: ``products`` or ``queries``.

    Raises:
        BrokenShard: a shard is missing or cut off, or an index is not of its tar.

    Example: ``SampleReader(dataset, "products").read(np.array([42]))[0].row["title"]``
    """

    def __init__(self, directory: Dataset | Path | str, table: str) -> None:
        if table not in SAMPLE_TABLES:
            raise ValueError(f"{table!r} has no samples; expected one of {', '.join(SAMPLE_TABLES)}")
        self.table = table
        self._declared = DeclaredSamples.of(directory, table) if isinstance(directory, RestrictedDataset) else None
        dataset = Dataset(directory.directory if isinstance(directory, Dataset) else directory)
        self._directory = dataset.directory
        # Of a dataset that was appended to, rows that later ones supersede are left out here.
        indexes = dataset.shard_files(table, ".arrow")
        parts = [read_index(path) for path in indexes]
        for path, part in zip(indexes, parts, strict=True):
            if KEYS[table] not in part.column_names:
                raise BrokenShard(f"{path} is no index of {table} (it has no column {KEYS[table]!r}); {REMEDY}")
            require_integers(path, part, KEYS[table])
        masks = dataset.live(table, [len(part) for part in parts])
        live = np.concatenate([np.empty(0, np.bool_), *masks])
        self.ids: NDArray[np.int64] = _column(parts, KEYS[table])[live]
        """The ids in the order of the shards, int64 [N]."""
        self.has_image: NDArray[np.bool_] = _column(parts, "jpg_size")[live] > 0
        """Which of them have an image, bool [N]."""
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self._shard = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[live]
        self._image_start, self._image_size, self._row_start, self._row_size = (
            _column(parts, name)[live] for name in OFFSETS
        )
        self._checksum: NDArray[np.int64] = np.concatenate(
            [np.empty(0, np.int64), *(_checksums(path, part) for path, part in zip(indexes, parts, strict=True))]
        )[live]
        more = [_more_sizes(path, part) for path, part in zip(indexes, parts, strict=True)]
        counts, sizes = ([part[i] for part in more] for i in (0, 1))
        more_ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
        self._more_start, self._more_end = more_ends[:-1][live], more_ends[1:][live]
        self._more_size = np.concatenate([np.empty(0, np.int64), *sizes])
        self.pictures: NDArray[np.int64] = self.has_image.astype(np.int64) + self._more_end - self._more_start
        """How many pictures each of them has, int64 [N]."""
        self._files = [str(path.with_suffix(".tar")) for path in indexes]
        for file, path, part in zip(self._files, indexes, parts, strict=True):
            _check_size(file, path, part)
        self._absent = absent_columns(parts)
        self._open: dict[int, int] = {}
        if self._declared is not None and self._declared.ids is not None:
            shown = np.isin(self.ids, self._declared.ids)
            self.ids, self.has_image, self.pictures = self.ids[shown], self.has_image[shown], self.pictures[shown]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, ids: NDArray[np.int64]) -> list[Sample]:
        """Read samples.

        Args:
            ids: int64 [B], in any order, repeats allowed.

        Returns:
            B samples in the order of ``ids``.

        Raises:
            KeyError: an id is not in the table.
            BrokenShard: what lies where the index says is not the sample, or not as it was written.
        """
        ids = np.asarray(ids, np.int64)
        place = np.searchsorted(self._sorted, ids)
        found = place < len(self._sorted)
        found[found] = self._sorted[place[found]] == ids[found]
        if not found.all():
            raise KeyError(f"{self.table} has no {KEYS[self.table]} {self._shown(int(ids[~found][0]))}")
        rows = self._order[place]
        image_size, end = self._image_size[rows], self._row_start[rows] + self._row_size[rows]
        start = np.where(image_size > 0, self._image_start[rows], self._row_start[rows]) - tarfile.BLOCKSIZE
        columns = (ids, self._shard[rows], start, end - start, image_size, self._row_size[rows], self._checksum[rows])
        ends = zip(self._more_start[rows], self._more_end[rows], strict=True)
        more = [self._more_size[first:last].tolist() for first, last in ends]
        values = zip(*(column.tolist() for column in columns), more, strict=True)
        if self._declared is not None:
            self._declared.check(ids)
        samples = [self._sample(*value) for value in values]
        return samples if self._declared is None else [self._declared.sample(sample) for sample in samples]

    def _sample(
        self,
        id: int,
        shard: int,
        start: int,
        size: int,
        image_size: int,
        row_size: int,
        checksum: int,
        more_sizes: list[int],
    ) -> Sample:
        # From the header of the sample's first member to the end of its last: the row's follows the image's.
        data = os.pread(self._file(shard), size, start)
        if len(data) != size:
            raise self._broken(id, shard, "the file is shorter than its index says")
        if not data.startswith(f"{id}.{'jpg' if image_size else 'json'}\0".encode()):
            name = data[:100].partition(b"\0")[0].decode(errors="replace")
            raise self._broken(id, shard, f"the index points at {name!r}")
        if checksum >= 0 and (crc := zlib.crc32(data)) != checksum:
            raise self._broken(id, shard, f"it is damaged: its CRC-32 is {crc:08x}, and was {checksum:08x}")
        try:
            row = json.loads(data[-row_size:].decode())
            found = row[KEYS[self.table]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken(id, shard, f"its row is damaged: {error}") from error
        if found != id:
            raise self._broken(id, shard, f"the index points at the row of {found}")
        pictures, header = [], 0
        for number, length in enumerate([image_size, *more_sizes] if image_size else []):
            name = f"{id}.{number}.jpg" if number else f"{id}.jpg"
            if not data.startswith(f"{name}\0".encode(), header):
                raise self._broken(id, shard, f"the index points at another member than {name!r}")
            picture = header + tarfile.BLOCKSIZE
            pictures.append(data[picture : picture + length])
            header = picture + _blocks(length)
        row = complete_row(row, self._absent[shard])
        return Sample(id, row, pictures[0] if pictures else None, tuple(pictures[1:]))

    def _broken(self, id: int, shard: int, problem: str) -> BrokenShard:
        return BrokenShard(f"{self._files[shard]}: {KEYS[self.table]} {self._shown(id)}: {problem}; {REMEDY}")

    def _shown(self, id: int) -> int | str:
        return Dataset(self._directory).ids.value(KEYS[self.table], id)

    def _file(self, shard: int) -> int:
        if shard not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[shard] = os.open(self._files[shard], os.O_RDONLY)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # While the interpreter ends, modules are gone before the last reader is.
        for descriptor in getattr(self, "_open", {}).values():
            close(descriptor)


def absent_columns(indexes: Sequence[Any]) -> list[tuple[str, ...]]:
    """Columns that each shard's rows lack and others' have: it is older than they are, see `moonlib.data.append`."""
    every = dict.fromkeys(name for index in indexes for name in index.column_names if name not in INDEX_COLUMNS)
    return [tuple(name for name in every if name not in index.column_names) for index in indexes]


def complete_row(row: dict[str, Any], absent: Sequence[str]) -> dict[str, Any]:
    """A sample's row with the columns that its shard lacks: null, and of several pictures a list of the one it has."""
    for name in absent:
        row[name] = [row["image"]] if name == IMAGES and row["image"] is not None else None
    return row


def verify(directory: Path | str) -> None:
    """Check that all files of a dataset are there and as long as they were written, without reading their samples.

    Args:
        directory: a dataset's directory.

    Raises:
        BrokenShard: naming the first that is not.
    """
    dataset = Dataset(directory)
    for table in SAMPLE_TABLES:
        SampleReader(dataset.directory, table)
    for table in dataset.counts:
        if table not in SAMPLE_TABLES:
            dataset.arrow(table)
    _ = dataset.ids
    dataset.verify_representations()


def _check_size(file: str, path: Path, index: Any) -> None:
    """Refuse a tar that is not as long as its index says, or an index whose members can't follow one another."""
    columns = {name: _column([index], name) for name in OFFSETS}
    row_start, image_start = columns["json_offset"], columns["jpg_offset"]
    last = row_start + columns["json_size"]
    pictured = columns["jpg_size"] > 0
    counts, sizes = _more_sizes(path, index)
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), tarfile.BLOCKSIZE + _blocks(sizes)]))
    places = np.cumsum(np.concatenate([np.zeros(1, np.int64), counts]))
    more = ends[places[1:]] - ends[places[:-1]]
    follows = image_start + _blocks(columns["jpg_size"]) + more + tarfile.BLOCKSIZE == row_start
    lone = (~pictured & (counts > 0)).any() or (sizes <= 0).any()
    before = (pictured & (image_start < tarfile.BLOCKSIZE)).any() or row_start.min(initial=512) < tarfile.BLOCKSIZE
    if before or lone or (pictured & ~follows).any() or (last <= row_start).any():
        raise BrokenShard(f"the index of {file} is damaged: its offsets are of no tar that moonlib wrote; {REMEDY}")
    # A tar ends with two blocks of zeros and fills a whole record.
    expected = -(-int(_blocks(last.max(initial=0)) + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    try:
        size = Path(file).stat().st_size
    except FileNotFoundError:
        raise BrokenShard(f"{file} is missing, and its index is there; {REMEDY}") from None
    if size != expected:
        raise BrokenShard(f"{file} has {size:,} bytes, and should have {expected:,} by its index; {REMEDY}")


def _checksums(path: Path, index: Any) -> NDArray[np.int64]:
    """The CRC-32 of every sample, int64 [rows]; -1 in the index of an older dataset, which has none."""
    if CHECKSUM not in index.column_names:
        return np.full(len(index), -1, dtype=np.int64)
    require_integers(path, index, CHECKSUM)
    return _column([index], CHECKSUM)


def _more_sizes(path: Path, index: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pictures each row has after the first, int64 [rows], and the sizes of all of these, int64 [pictures]."""
    if MORE_SIZES not in index.column_names:
        return np.zeros(len(index), np.int64), np.empty(0, np.int64)
    column = index.column(MORE_SIZES).combine_chunks()
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)) or column.null_count:
        raise BrokenShard(f"{path} is no index of a shard (its column {MORE_SIZES!r} is not all lists); {REMEDY}")
    sizes = column.flatten()
    if sizes.type != pa.int64() or sizes.null_count:
        raise BrokenShard(f"{path} is no index of a shard (its column {MORE_SIZES!r} is not of int64); {REMEDY}")
    return column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64), sizes.to_numpy()


def _blocks(size: Any) -> Any:
    """Round up to whole blocks of a tar."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _column(parts: list[Any], name: str) -> NDArray[np.int64]:
    columns = [part.column(name).to_numpy() for part in parts]
    return np.concatenate(columns) if columns else np.empty(0, np.int64)
