"""Products on their way into a center: what a space's encoder reads of them, and the columns that are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.artifacts.layout import QUARANTINE
from moonlib.center.rows import COLUMN_TYPES, ColumnType
from moonlib.center.space import Space, check_columns
from moonlib.data import table_files
from moonlib.data.casts import cast_column
from moonlib.data.categories import column_with_levels
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.tables import KEYS
from moonlib.embedding.content_hash import DatasetHashes
from moonlib.embedding.embed import Contents
from moonlib.embedding.frames import FrameReader
from moonlib.embedding.tables import TableReader, columns_read
from moonlib.exports.folder import Export
from moonlib.runs.run import Run

Products: TypeAlias = "str | Path | pl.DataFrame | Sequence[Mapping[str, Any]]"
"""A table's file, a dataset's folder, a data frame, or rows."""

KEY = KEYS["products"]
_CHUNK = 512
"""Rows that are hashed together, and appended together."""
_FEWEST = 64
"""Rows that are worth a process of their own."""
_IN_MEMORY = 32_000_000
"""Bytes of a data frame up to which its pictures are kept in memory."""
_LISTED = 5


@dataclass(frozen=True)
class Incoming:
    """Products for a space, by ascending number of their ids.

    Attributes:
        contents: what the encoder reads.
        ids: the shop's [n].
        columns: the kept columns, n rows.
        given: columns that are read or kept and that the products have.
    """

    contents: Contents
    ids: pl.Series
    columns: pl.DataFrame
    given: frozenset[str]


def read_products(
    products: str | Path | pl.DataFrame,
    images: str | Path | None,
    space: Space,
    export: Run | Export,
    work: Path | None,
    workers: int = 0,
) -> Incoming:
    """Read products for a space.

    Args:
        products: a table's file, a dataset's folder, or a data frame.
        images: folder that the image names start from; None where the products hold theirs, or name none.
        space: that they are for.
        export: of the space's encoder.
        work: see `work_folder`.
        workers: processes that are to share them.

    Raises:
        ValueError: they have other ids than the space, lack a column that earlier products had, or can't be read.
    """
    modalities, unreadable = export.modalities("product"), None if work is None else work / QUARANTINE
    as_text = space.ids == "text" or (space.ids is None and "products" in export.text_ids)
    if isinstance(products, (str, Path)):
        path, name = Path(products), str(products)
        if path.is_dir() and (path / "dataset.json").exists():
            dataset = Dataset(path)
            reader, ids = SampleReader(path, "products"), dataset.ids
            quarantine = Quarantine(unreadable, total=len(reader), ids=ids)
            digested = not modalities.image or dataset.image_digests("products") is not None
            hashes = DatasetHashes(dataset, reader, modalities, export.views) if digested else None
            contents = Contents(
                reader,
                "product",
                reader.ids,
                modalities,
                quarantine,
                _chunk(len(reader.ids), workers),
                ids,
                export.views,
                hashes,
            )
            frame = dataset.products.filter(pl.col(KEY).is_in(pl.Series(reader.ids).implode()))
            order = np.argsort(frame[KEY].to_numpy(), kind="stable")
            frame = ids.decoded(frame, *frame.columns)
            header = [column for column in frame.columns if frame[column].null_count() < frame.height]
            return _incoming(contents, frame.select(header), order, header, space, name)
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such table or dataset")
        header = table_files.header(path)
        _refuse_lost(header, modalities, space, name)
        assert work is not None and unreadable is not None
        rows: TableReader | FrameReader = TableReader(
            path, "products", images, modalities, unreadable, work / "t.arrow", export.views, as_text
        )
        kept = [KEY, *(column for column in space.columns if column in header)]
        frame = pl.concat(table_files.scan(path, kept))
    else:
        frame, name = products, "products"
        header = frame.columns
        _refuse_lost(header, modalities, space, name)
        pictures = None if work is None else work / "t.pictures"
        rows = FrameReader(frame, "products", images, modalities, unreadable, pictures, export.views, as_text)
    contents = Contents(
        rows,
        "product",
        rows.ids,
        modalities,
        rows.quarantine,
        _chunk(len(rows.ids), workers),
        rows.shop_ids,
        export.views,
    )
    return _incoming(contents, frame, rows.order, header, space, name)


@contextmanager
def work_folder(products: str | Path | pl.DataFrame, workers: int) -> Iterator[Path | None]:
    """An empty folder for what is needed while products are read; none for a few in a data frame."""
    if isinstance(products, pl.DataFrame) and workers <= 1 and products.estimated_size() <= _IN_MEMORY:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="moonlib-upsert-") as folder:
        yield Path(folder)


def _chunk(rows: int, workers: int) -> int:
    """Rows that are hashed and appended together: fewer where several processes are to share few."""
    return min(_CHUNK, max(_FEWEST, -(-rows // max(1, workers))))


def as_frame(products: pl.DataFrame | Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a data frame.

    Raises:
        ValueError: there is none, or values of a column are of several types.
    """
    if isinstance(products, pl.DataFrame):
        frame = products
    else:
        try:
            frame = pl.DataFrame(list(products), infer_schema_length=None)
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise ValueError(f"products: values of a column are of several types ({error})") from None
    if frame.is_empty():
        raise ValueError("products: no rows; there is nothing to upsert")
    return frame


def _incoming(
    contents: Contents,
    frame: pl.DataFrame,
    order: NDArray[np.int64],
    header: Sequence[str],
    space: Space,
    name: str,
) -> Incoming:
    """Cast the kept columns, and put their rows in the order of the contents.

    Args:
        contents: N rows, by ascending id.
        frame: the same rows.
        order: row of each of the contents in the frame, int64 [N].
        header: columns that the products have.
        space: that they are for.
        name: what to call the table in errors.
    """
    numbers = contents.ids
    names = contents.names
    ids = pl.Series(KEY, numbers) if names is None else names.alias(KEY)
    kind = "int64" if ids.dtype == pl.Int64 else "text"
    if space.ids is not None and kind != space.ids:
        raise ValueError(
            f"{name}: ids are {kind}, such as {ids[0]!r}, and those of space {space.name} are {space.ids}: a space has "
            "ids of one type; write them as before, or make another center"
        )
    columns = []
    for column, column_type in space.columns.items():
        dtype = COLUMN_TYPES[column_type]
        if column not in frame.columns:
            columns.append(pl.Series(column, [None], dtype=dtype).new_from_index(0, len(ids)))
            continue
        cast = cast_column(frame[column], dtype(), name)
        columns.append(column_with_levels(cast) if column == "category" else cast)
    kept = pl.DataFrame(columns)
    if (order[1:] < order[:-1]).any() and kept.width:
        kept = kept[order]
    given = frozenset(header) & {*space.columns, *columns_read("products", contents.modalities, header)}
    return Incoming(contents, ids, kept, given)


def _refuse_lost(header: Sequence[str], modalities: Any, space: Space, name: str) -> None:
    """Refuse products without a column that earlier ones had: their vectors, or filters, would silently be others."""
    read = columns_read("products", modalities, [*header, *space.given])
    lost = [column for column in (KEY, *space.given) if column not in header]
    if lost == [KEY]:
        return  # the reader says so
    if lost:
        what, they = "the encoder reads it" if lost[0] in read else "the center keeps it", "it"
        others = ""
        if lost[1:]:
            others, they = f", nor {', '.join(map(repr, lost[1:]))}", "them"
            what = "the encoder reads or the center keeps them"
        raise ValueError(
            f"{name}: no column {lost[0]!r}{others} (it has {', '.join(header[:_LISTED])}); earlier products of space "
            f"{space.name} had {they}, and {what}: give {they}, with empty fields where a product has none"
        )
    if not set(read) & set(header):
        raise ValueError(f"{name}: none of the columns that the encoder reads is there: {', '.join(read)}")


def refuse_cleared(products: Products, space: Space) -> None:
    """Refuse rows of which some lack a key that earlier products had: what it held would be cleared in silence.

    Raises:
        ValueError: naming the first such row, and what it lacks.
    """
    if isinstance(products, (str, Path, pl.DataFrame)) or not products:
        return
    keys = set().union(*products)
    if lacked := [column for column in space.given if column in keys and not all(column in row for row in products)]:
        number = next(number for number, row in enumerate(products) if any(column not in row for column in lacked))
        without = ", ".join(repr(column) for column in lacked if column not in products[number])
        raise ValueError(
            f"products: row {number + 1} has no {without}, which other rows and earlier products of space {space.name} "
            "have: give every row the same columns, null where a product has no value"
        )


def read_ids(ids: Any, space: Space) -> pl.Series:
    """Ids of products to delete, in the type of the space's.

    Args:
        ids: a ``.csv`` or ``.parquet`` file with the column ``item_id``, or ids.
        space: whose they are.

    Raises:
        ValueError: one is of another type.
    """
    wanted = pl.String if space.ids == "text" else pl.Int64
    name = "delete"
    if isinstance(ids, (str, Path)):
        name = str(ids)
        if not Path(ids).exists():
            raise FileNotFoundError(f"{ids}: there is no such table of ids to delete")
        frames = list(table_files.scan(Path(ids), [KEY]))
        if KEY not in frames[0].columns:
            raise ValueError(f"{name}: no column {KEY!r}: a table of ids to delete has it")
        series = pl.concat(frames)[KEY]
    else:
        try:
            series = ids if isinstance(ids, pl.Series) else pl.Series(KEY, ids, strict=True)
        except TypeError as error:
            raise ValueError(f"{name}: ids are of several types ({str(error).splitlines()[0]})") from None
    series = series.alias(KEY)
    if wanted == pl.String and series.dtype.is_integer():
        raise ValueError(f"{name}: ids are int64, such as {series[0]!r}; those of space {space.name} are text")
    if series.is_empty():
        return pl.Series(KEY, [], dtype=wanted)
    return cast_column(series, wanted(), name).unique(maintain_order=True)


KEPT: dict[str, ColumnType] = {
    "title": "text",
    "category": "text",
    "price": "float",
    "merchant_id": "integer",
    "in_stock": "boolean",
}
"""Columns that are kept unless others are named, and their types."""


def kept_columns(products: Products, names: Sequence[str] | None = None) -> dict[str, ColumnType]:
    """The columns of products to keep beside their vectors, with the types that they have.

    Args:
        products: see `Products`.
        names: of the columns; by default those of `KEPT`.

    Raises:
        ValueError: the products have no such column, or it holds neither text nor numbers nor booleans.
    """
    types: Mapping[str, Any]
    name = "products" if not isinstance(products, (str, Path)) else str(products)
    if not isinstance(products, (str, Path)):
        types = as_frame(products).schema
    elif (path := Path(products)).is_dir() and (path / "dataset.json").exists():
        dataset = Dataset(path)
        types = dataset.ids.decoded(dataset.products, *dataset.products.columns).schema
    elif not path.exists():
        raise FileNotFoundError(f"{path}: there is no such table or dataset")
    else:
        types = (
            table_files.read(path, ("title", "category")).schema if path.suffix == ".csv" else table_files.schema(path)
        )
    if names is None:
        return KEPT | {column: _type(column, types[column], name) for column in KEPT if column in types}
    for column in names:
        if column not in types:
            raise ValueError(f"{name}: no column {column!r} to keep; it has {', '.join(types)}")
    return check_columns({column: _type(column, types[column], name) for column in names})


def _type(column: str, dtype: Any, name: str) -> ColumnType:
    if dtype == pl.Null or (dtype.is_integer() and KEPT.get(column) == "float"):
        return KEPT.get(column, "text")
    if dtype.is_integer():
        return "integer"
    if dtype.is_float() or dtype.is_decimal():
        return "float"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    raise ValueError(f"{name}: column {column!r} holds {dtype}, which can't be kept: text, numbers and booleans can")
