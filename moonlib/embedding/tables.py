"""Products or queries in a table and a folder of images, read by id; the table may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data import table_files
from moonlib.data.build import ImageFolder
from moonlib.data.cloud_images import CloudImages, Prefetched, in_cloud
from moonlib.data.content import Modalities
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample
from moonlib.data.tables import KEYS, cast_part, missing_column, refuse_near_misses
from moonlib.system.disk import rename, unfinished, writing


class TableReader:
    """Reads a table's rows by id, with the images they name.

    The wanted columns are copied once, batch by batch, into an Arrow file that is mapped into memory. Picklable.

    Args:
        path: see `moonlib.data.table_files.scan`; of the required columns only the id must be there.
        table: ``products`` or ``queries``.
        images: folder or URL that the names in the column ``image`` start from, or ``https``; None where there is none.
        modalities: what is wanted of each row.
        quarantine: file that names the images which can't be opened.
        copy: the Arrow file to write.

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
    ) -> None:
        self.path, self.table, self.copy = path, table, copy
        self.images: ImageFolder | CloudImages | None = None
        if images is not None:
            self.images = CloudImages(str(images)) if in_cloud(images) else ImageFolder(Path(images), 0)
        self.columns = [KEYS[table], *_columns(table, modalities)]
        if KEYS[table] not in (names := table_files.header(path)):
            raise ValueError(missing_column(names, table, KEYS[table], str(path)))
        refuse_near_misses(names, table, str(path), self.columns)
        ids, named, starts = [np.empty(0, np.int64)], 0, [0]
        partial = unfinished(copy)
        writer: pa.ipc.RecordBatchFileWriter | None = None
        try:
            for frame in table_files.scan(path, self.columns):
                if frame.is_empty():
                    continue
                part = cast_part(frame, table, self.columns, str(path), starts[-1])
                if "category" in self.columns and part["category"].null_count():
                    row = starts[-1] + int(part["category"].is_null().arg_max() or 0) + 1
                    raise ValueError(
                        f"{path}: row {row}, column 'category': is missing, and the run's modalities read it"
                    )
                if "image" in self.columns:
                    named += part["image"].count()
                batch = part.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
                with writing(copy):
                    writer = writer or pa.ipc.new_file(partial, batch.schema)
                    writer.write_batch(batch.combine_chunks().to_batches()[0])
                ids.append(part[KEYS[table]].to_numpy())
                starts.append(starts[-1] + part.height)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ValueError(f"{path}: no rows; there is nothing to represent")
        if named and images is None:
            raise ValueError(f"{path} names {named} images, but no image folder was given (--images DIR)")
        rename(partial, copy)
        self.ids: NDArray[np.int64] = np.concatenate(ids)
        """The ids in the order of the table, int64 [N]."""
        self.quarantine = Quarantine(quarantine, total=len(self.ids))
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            row = int(self._order[twice[0] + 1]) + 1
            raise ValueError(
                f"{path}: row {row}, column {KEYS[table]!r}: {self._sorted[twice[0]]} appears a second time"
            )
        self._starts = np.array(starts)
        self._file: pa.ipc.RecordBatchFileReader | None = None

    def read(self, ids: NDArray[np.int64]) -> list[Sample]:
        """Return one sample per id, in order; one whose image can't be opened is quarantined and has none.

        Raises:
            KeyError: an id is not in the table.
        """
        place = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        if (self._sorted[place] != ids).any():
            raise KeyError(f"{self.path} has no {KEYS[self.table]} {ids[self._sorted[place] != ids][0]}")
        rows = self._order[place]
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        if self._file is None:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.copy)))
        found: list[Sample | None] = [None] * len(rows)
        for number in np.unique(batches):
            places = np.flatnonzero(batches == number)
            wanted = pa.array(rows[places] - self._starts[number])
            taken = self._file.get_batch(int(number)).take(wanted).to_pylist()
            images = self._images(taken)
            for i, row in zip(places, taken, strict=True):
                found[i] = self._sample(row, images)
        return [sample for sample in found if sample is not None]

    def _images(self, rows: list[dict[str, Any]]) -> ImageFolder | CloudImages | Prefetched | None:
        """Reader of some rows' images; those in a cloud are read all at once."""
        if not isinstance(self.images, CloudImages):
            return self.images
        return self.images.prefetched([row["image"] for row in rows if row.get("image") is not None])

    def _sample(self, row: dict[str, Any], images: ImageFolder | CloudImages | Prefetched | None) -> Sample:
        key = row[KEYS[self.table]]
        if row.get("attributes") is not None:
            row["attributes"] = dict(row["attributes"])
        image = None
        if row.get("image") is not None and images is not None:
            try:
                image = images.read(row["image"])
            except ValueError as error:
                self.quarantine.record(self.table, key, str(error))
        return Sample(key, row, image)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


def _columns(table: str, modalities: Modalities) -> list[str]:
    """The columns that hold the wanted modalities."""
    columns = ["image", "box"] if modalities.image else []
    if modalities.text and table == "queries":
        columns.append("text")
    elif modalities.text:
        columns += ["title", "category", "attributes"] if modalities.text == "rich" else ["title"]
    return columns
