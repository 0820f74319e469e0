"""Products or queries in a data frame, read by id: for as many as fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from moonlib.data.categories import column_with_levels
from moonlib.data.content import Modalities
from moonlib.data.image_lists import names
from moonlib.data.image_sources import ImageReader, StoredImages, held_columns, open_images
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample
from moonlib.data.tables import KEYS, cast_key, cast_part, number_keys, refuse_near_misses
from moonlib.embedding.embed import Views
from moonlib.embedding.tables import columns_read, sample_of


class FrameReader:
    """Reads a frame's rows by id, with the images they name or hold. What it reads is what `TableReader` reads.

    Args:
        frame: rows of ``table``; of its columns only the id must be there.
        table: ``products`` or ``queries``.
        images: see `moonlib.embedding.tables.TableReader`.
        modalities: what is wanted of each row.
        quarantine: file that names the images which can't be opened; None for no file, see
            `moonlib.data.quarantine.Quarantine`.
        pictures: file to write images to that the frame itself holds; None to keep them in memory.
        views: which images of a row are read.
        text_ids: whether ids that are not integers by their type are text, even where each of them is an int64.
        name: what to call the frame in errors.

    Raises:
        ValueError: a value is not of its column's type, an id stands twice, or rows name images and there is no folder
            of them.
    """

    def __init__(
        self,
        frame: pl.DataFrame,
        table: str,
        images: str | Path | None,
        modalities: Modalities,
        quarantine: Path | None,
        pictures: Path | None,
        views: Views = "main",
        text_ids: bool = False,
        name: str = "products",
    ) -> None:
        self.table, self.views, self._name = table, views, name
        stored = StoredImages(pictures)
        self.images = ImageReader(open_images(images) if images is not None and modalities.image else None, stored)
        columns = columns_read(table, modalities, frame.columns)
        refuse_near_misses(frame.columns, table, name, [KEYS[table], *columns])
        integers = KEYS[table] in frame.columns and frame[KEYS[table]].dtype.is_integer()
        keys = cast_key(frame, table, name)
        held = held_columns(frame.schema, name) if "image" in columns else []
        made = [column for column in held if frame[column].dtype == pl.Binary]
        if held:
            frame = stored.take(frame[[column for column in columns if column in frame.columns]], name)
        part = cast_part(frame, table, columns, name, made=made)
        if "category" in columns:
            category = part["category"]
            if (read := column_with_levels(category)) is not category:
                part = part.with_columns(read)
        if "image" in columns and images is None and (named := stored.lacks(names(part))):
            raise ValueError(f"{name}: {named} rows name images, but no folder of images was given")
        ids, self.shop_ids = number_keys([keys], name, as_text=text_ids and not integers)
        self.ids: NDArray[np.int64] = ids.to_numpy()
        """The ids in the order of the frame, int64 [N]."""
        self.quarantine = Quarantine(quarantine, total=len(self.ids), ids=self.shop_ids)
        self.order: NDArray[np.int64] = np.argsort(self.ids, kind="stable")
        """Rows of the frame by ascending id, int64 [N]."""
        self._sorted = self.ids[self.order]
        if len(twice := np.flatnonzero(self._sorted[1:] == self._sorted[:-1])):
            row = int(self.order[twice[0] + 1]) + 1
            again = self.shop_ids.value(KEYS[table], int(self._sorted[twice[0]]))
            raise ValueError(f"{name}: row {row}, column {KEYS[table]!r}: {again!r} appears a second time")
        # As Arrow gives them: polars has no maps, and `attributes` is one.
        arrays = {column.name: column.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()) for column in part}
        self._batch = pa.RecordBatch.from_pydict(arrays)

    def read(self, ids: NDArray[np.int64]) -> list[Sample]:
        """Return one sample per id, in order; one whose image can't be opened is quarantined and has none."""
        wanted = self.order[np.searchsorted(self._sorted, ids)]
        batch = self._batch
        if len(wanted) != len(batch) or (wanted != np.arange(len(batch))).any():
            batch = batch.take(pa.array(wanted))
        rows: list[dict[str, Any]] = batch.to_pylist()
        readers = (self.images, self.images, frozenset[str]())
        return [
            sample_of(self.table, int(id), row, readers, self.views, self.quarantine)
            for id, row in zip(ids, rows, strict=True)
        ]
