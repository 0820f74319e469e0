"""Products or queries in a table and a folder of images, read by id; the table may be larger than memory."""

from __future__ import annotations

import logging
from collections.abc import Collection, Set
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data import table_files
from moonlib.data.categories import with_levels
from moonlib.data.content import Modalities
from moonlib.data.image_lists import IMAGES, names
from moonlib.data.image_sources import ImageReader, StoredImages, held_columns, open_images
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample
from moonlib.data.tables import KEYS, cast_key, cast_part, missing_column, number_keys, refuse_near_misses
from moonlib.embedding.embed import Views
from moonlib.system.disk import rename, unfinished, writing

log = logging.getLogger(__name__)


class TableReader:
    """Reads a table's rows by id, with the images they name.

    Ids that are text have numbers, which ascend with them, and `shop_ids` knows both. The wanted columns are copied
    once, batch by batch, into an Arrow file that is mapped into memory, and images that the table itself holds into a
    file beside it. Picklable.

    Args:
        path: see `moonlib.data.table_files.scan`; of the required columns only the id must be there.
        table: ``products`` or ``queries``.
        images: what the names in the columns ``image`` and ``images`` start from, see
            `moonlib.data.image_sources.open_images`; None where there is none.
        modalities: what is wanted of each row.
        quarantine: file that names the images which can't be opened.
        copy: the Arrow file to write; images go to a file of this name that ends in ``.pictures``.
        views: which images of a row are read: the main one, or if that can't be opened the next, or all.
        text_ids: whether ids that are not integers by their type are text, even where each of them is an int64.

    Raises:
        ValueError: the file can't be read, a value is not of its column's type, an id stands twice, or the table names
            images and there is no folder of them.
    """

    def __init__(
        self,
        path: Path,
        table: str,
        images: str | Path | None,
        modalities: Modalities,
        quarantine: Path,
        copy: Path,
        views: Views = "main",
        text_ids: bool = False,
    ) -> None:
        self.path, self.table, self.copy = path, table, copy
        self.views = views
        stored = StoredImages(pictures_beside(copy))
        self.images = ImageReader(open_images(images) if images is not None and modalities.image else None, stored)
        header = table_files.header(path)
        self.columns = [KEYS[table], *columns_read(table, modalities, header)]
        if KEYS[table] not in header:
            raise ValueError(missing_column(header, table, KEYS[table], str(path)))
        refuse_near_misses(header, table, str(path), self.columns)
        held = self._held(path)
        held_names = stored.names_in(path, held) if held else None
        named, without, starts = 0, 0, [0]
        keys = list[pl.Series]()
        integers = False
        partial = unfinished(copy)
        writer: pa.ipc.RecordBatchFileWriter | None = None
        try:
            for frame in table_files.scan(path, [column for column in self.columns if column not in held]):
                if frame.is_empty():
                    continue
                if held_names is not None:
                    frame = frame.hstack(held_names.slice(starts[-1], frame.height))
                integers = integers or frame[KEYS[table]].dtype.is_integer()
                keys.append(cast_key(frame, table, str(path), starts[-1]))
                part = cast_part(frame, table, self.columns[1:], str(path), starts[-1])
                if "category" in self.columns:
                    without += part["category"].null_count()
                    part = part.with_columns(with_levels(pl.col("category")))
                if "image" in self.columns:
                    named += stored.lacks(names(part))
                batch = part.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
                with writing(copy):
                    writer = writer or pa.ipc.new_file(partial, batch.schema)
                    writer.write_batch(batch.combine_chunks().to_batches()[0])
                starts.append(starts[-1] + part.height)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ValueError(f"{path}: no rows; there is nothing to represent")
        if named and images is None:
            where = "no image folder was given (--images DIR, or https where they are URLs)"
            raise ValueError(f"{path} names {named} images, but {where}")
        if without:
            log.warning(f"{path}: rows without category: {without:,} of {starts[-1]:,}; the run's modalities read it")
        ids, self.shop_ids = number_keys(keys, str(path), as_text=text_ids and not integers)
        """The shop's ids, where they are text."""
        self.ids: NDArray[np.int64] = ids.to_numpy()
        """The ids in the order of the table, int64 [N]."""
        self.quarantine = Quarantine(quarantine, total=len(self.ids), ids=self.shop_ids)
        self.order: NDArray[np.int64] = np.argsort(self.ids, kind="stable")
        """Rows of the table by ascending id, int64 [N]."""
        self._sorted = self.ids[self.order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            row = int(self.order[twice[0] + 1]) + 1
            again = self._shown(self._sorted[twice[0]])
            raise ValueError(f"{path}: row {row}, column {KEYS[table]!r}: {again!r} appears a second time")
        rename(partial, copy)
        self._starts = np.array(starts)
        self._file: pa.ipc.RecordBatchFileReader | None = None

    def read(self, ids: NDArray[np.int64]) -> list[Sample]:
        """Return one sample per id, in order; one whose image can't be opened is quarantined and has none.

        Raises:
            KeyError: an id is not in the table.
        """
        place = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        if (self._sorted[place] != ids).any():
            raise KeyError(f"{self.path} has no {KEYS[self.table]} {self._shown(ids[self._sorted[place] != ids][0])}")
        rows = self.order[place]
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        if self._file is None:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.copy)))
        found: list[Sample | None] = [None] * len(rows)
        for number in np.unique(batches):
            places = np.flatnonzero(batches == number)
            wanted = pa.array(rows[places] - self._starts[number])
            taken = self._file.get_batch(int(number)).take(wanted).to_pylist()
            ahead = {name for row in taken for name in _named(row)[: 1 if self.views == "main" else None]}
            images = self.images.ahead(sorted(ahead))
            for i, row in zip(places, taken, strict=True):
                found[i] = self._sample(int(ids[i]), row, images, ahead)
        return [sample for sample in found if sample is not None]

    def _shown(self, id: np.int64) -> int | str:
        return self.shop_ids.value(KEYS[self.table], int(id))

    def _sample(self, key: int, row: dict[str, Any], images: ImageReader, ahead: Set[str]) -> Sample:
        readers = (self.images, images, ahead)
        return sample_of(self.table, key, row, readers, self.views, self.quarantine)

    def _held(self, path: Path) -> list[str]:
        """The columns of images rather than of their names."""
        if path.suffix == ".csv" or "image" not in self.columns:
            return []
        return held_columns(table_files.schema(path), str(path))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


def pictures_beside(copy: Path) -> Path:
    """The file of the images that a table holds itself."""
    return copy.with_suffix(".pictures")


def sample_of(
    table: str,
    key: int,
    row: dict[str, Any],
    readers: tuple[ImageReader, ImageReader, Set[str]],
    views: Views,
    quarantine: Quarantine,
) -> Sample:
    """Make a sample of a row of a table, with the images that it names.

    Args:
        table: ``products`` or ``queries``.
        key: its id.
        row: its other columns.
        readers: of images, one that has read some ahead, and the names of these.
        views: which images are read.
        quarantine: where images are named that can't be read.
    """
    row = {KEYS[table]: key} | row
    if row.get("attributes") is not None:
        row["attributes"] = dict(row["attributes"])
    pictures: list[bytes] = []
    unread = 0
    each, read_ahead, ahead = readers
    for number, name in enumerate(_named(row)):
        try:
            pictures.append((read_ahead if name in ahead else each).read(name))
        except ValueError as error:
            quarantine.record(table, key, str(error))
            unread += 1
            continue
        if len(pictures) == 1 and number > 0:
            row["box"] = None  # it is of the main image
        if views == "main":
            break
    return Sample(key, row, pictures[0] if pictures else None, tuple(pictures[1:]), unread)


def _named(row: dict[str, Any]) -> list[str]:
    """The names of a row's images, the main one first."""
    named: list[str] = row.get(IMAGES) or [name for name in (row.get("image"),) if name is not None]
    return named


def columns_read(table: str, modalities: Modalities, header: Collection[str]) -> list[str]:
    """The columns that hold the wanted modalities; ``images`` only where the table has it."""
    columns = ["image", "box", *([IMAGES] if IMAGES in header else [])] if modalities.image else []
    if modalities.text and table == "queries":
        columns.append("text")
    elif modalities.text:
        columns += ["title", "category", "attributes"] if modalities.text == "rich" else ["title"]
    return columns
