"""Reads products and queries by id, in any order, straight from the shards."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset, index_files, read_index
from moonlib.data.shards import SAMPLE_TABLES
from moonlib.data.tables import KEYS

_OPEN_FILES = 256


@dataclass(slots=True)
class Sample:
    """One product or query: its row as JSON gives it (times are ISO 8601 text) and its JPEG, if it has one."""

    id: int
    row: dict[str, Any]
    image: bytes | None


class SampleReader:
    """Reads samples with one ``pread`` each, where the index says; no tar is parsed.

    Picklable. Files open lazily in the process that reads.

    Args:
        directory: a dataset's directory.
        table: ``products`` or ``queries``.

    Example: ``SampleReader(directory, "products").read(np.array([42]))[0].row["title"]``
    """

    def __init__(self, directory: Path | str, table: str) -> None:
        if table not in SAMPLE_TABLES:
            raise ValueError(f"{table!r} has no samples; expected one of {', '.join(SAMPLE_TABLES)}")
        self.table = table
        dataset = Dataset(directory)
        indexes = index_files(dataset.directory, table)
        parts = [read_index(path) for path in indexes]
        self.ids: NDArray[np.int64] = _column(parts, KEYS[table])
        """The ids in the order of the shards, int64 [N]."""
        if len(self.ids) != dataset.counts[table]:
            lost = f"{len(self.ids)} of {dataset.counts[table]} {table} are there"
            raise ValueError(f"{dataset.directory}: {lost}; shards are missing: copy or build the dataset again")
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self._shard = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self._image_start, self._image_size = _column(parts, "jpg_offset"), _column(parts, "jpg_size")
        self._row_start, self._row_size = _column(parts, "json_offset"), _column(parts, "json_size")
        self._files = [str(path.with_suffix(".tar")) for path in indexes]
        self._open: dict[int, int] = {}

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
            ValueError: a shard is shorter than its index says.
        """
        ids = np.asarray(ids, np.int64)
        place = np.searchsorted(self._sorted, ids)
        found = place < len(self._sorted)
        found[found] = self._sorted[place[found]] == ids[found]
        if not found.all():
            raise KeyError(f"{self.table} has no {KEYS[self.table]} {int(ids[~found][0])}")
        rows = self._order[place]
        image_size, end = self._image_size[rows], self._row_start[rows] + self._row_size[rows]
        start = np.where(image_size > 0, self._image_start[rows], self._row_start[rows])
        columns = (ids, self._shard[rows], start, end - start, image_size, self._row_size[rows])
        return [self._sample(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

    def _sample(self, id: int, shard: int, start: int, size: int, image_size: int, row_size: int) -> Sample:
        data = os.pread(self._file(shard), size, start)  # the row's member follows the image's
        if len(data) != size:
            path = self._files[shard]
            raise ValueError(f"{path} is shorter than its index says; copy or build the dataset again")
        return Sample(id, json.loads(data[-row_size:]), data[:image_size] if image_size else None)

    def _file(self, shard: int) -> int:
        if shard not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[shard] = os.open(self._files[shard], os.O_RDONLY)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)


def _column(parts: list[Any], name: str) -> NDArray[np.int64]:
    columns = [part.column(name).to_numpy() for part in parts]
    return np.concatenate(columns) if columns else np.empty(0, np.int64)
