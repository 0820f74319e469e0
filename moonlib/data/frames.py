"""`moonlib.build`: tables that a program has, as frames of polars, pandas or Arrow or as data sets of Hugging Face."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute

from moonlib.data.append import open_base
from moonlib.data.build import build_frames
from moonlib.data.image_sources import stored_images
from moonlib.data.splits import Splits
from moonlib.data.table_map import read_file
from moonlib.data.tables import SCHEMAS
from moonlib.system.remote import local_copy, local_only

log = logging.getLogger(__name__)

Frame = Any
"""A table: a frame of polars or pandas, a ``datasets.Dataset``, whatever speaks Arrow's ``__arrow_c_stream__``, or the
path or URL of a Parquet, CSV or JSON lines file."""


def build(
    products: Frame = None,
    queries: Frame = None,
    users: Frame = None,
    searches: Frame = None,
    impressions: Frame = None,
    histories: Frame = None,
    *,
    out: str | Path,
    images: str | Path | None = None,
    splits: Splits | Sequence[datetime | str] | None = None,
    max_side: int = 512,
    workers: int | None = None,
    append: str | Path | None = None,
) -> Path:
    """Build a dataset from frames, as ``moonlib data build`` does from files, with the same checks.

    Args:
        products: a frame of polars or pandas, a ``datasets.Dataset``, a table of Arrow, or the path or URL of a file;
            so are the others. Which columns each may have is told in the documentation of data formats.
        queries: none if not given.
        users: those whom the events name if not given.
        searches: none if not given.
        impressions: none if not given.
        histories: none if not given.
        out: the dataset's directory; must not exist.
        images: the folder that the names in the ``image`` columns start from.
        splits: four moments, when behaviour, training, validation and test end, UTC unless they say otherwise; by
            default fractions of the events' time range.
        max_side: larger images are scaled down to this side, in pixels.
        workers: processes that read images; None chooses.
        append: a dataset's directory: ``out`` holds its rows and, after them, those of the frames, of which any may be
            left out then; see the documentation of data formats.

    Returns:
        ``out``.

    Raises:
        TypeError: a table is none of these.
        FileExistsError: ``out`` exists.
        ValueError: naming table, row and column of the first value that doesn't fit.

    Example: ``moonlib.build(products=products, searches=orders, images="photos", out="data/mine")``
    """
    given = {
        "products": products,
        "queries": queries,
        "users": users,
        "searches": searches,
        "impressions": impressions,
        "histories": histories,
    }
    frames = {table: to_frame(value, table) for table, value in given.items() if value is not None}
    if "products" not in frames and (append is None or not frames):
        if append is not None:
            raise TypeError("expected a table to append, such as searches, found none")
        raise TypeError("products: expected a frame, a data set or a path, found None; a dataset needs products")
    directory = local_only(out, "a dataset of frames")
    base = None if append is None else open_base(append, directory)
    with stored_images(directory) as stored:
        return build_frames(
            frames,
            {},
            images,
            directory,
            stored,
            splits=_splits(splits),
            max_side=max_side,
            workers=workers,
            base=base,
        )


def to_frame(value: Frame, table: str) -> pl.DataFrame:
    """Return a table as a frame of polars, without a change of any value.

    Args:
        value: see `Frame`.
        table: what it is, and is called in errors.

    Raises:
        TypeError: it is no table.
        ValueError: it has something that would be lost or changed.
    """
    library = type(value).__module__.partition(".")[0]
    if isinstance(value, str | Path):
        return read_file(local_copy(value), SCHEMAS[table].names)
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if isinstance(value, pl.DataFrame):
        return value
    if library == "pandas" and type(value).__name__ == "DataFrame":
        return _of_pandas(value, table)
    if library == "datasets":
        return _of_datasets(value, table)
    if hasattr(value, "__arrow_c_stream__") and not hasattr(value, "dtype"):  # a single column has one too
        return _of_arrow(pa.table(value), table)
    raise TypeError(
        f"{table}: expected a frame of polars or pandas, a datasets.Dataset, a table of Arrow or the path of a file, "
        f"found {type(value).__module__}.{type(value).__qualname__}"
    )


def _splits(splits: Splits | Sequence[datetime | str] | None) -> Splits | None:
    if splits is None or isinstance(splits, Splits):
        return splits
    if isinstance(splits, str) or len(splits) != 4:
        raise ValueError(f"splits: expected four moments, when behaviour, train, valid and test end, found {splits!r}")
    moments = []
    for moment in splits:
        try:
            found = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
        except (TypeError, ValueError):
            raise ValueError(f"splits: {moment!r} is no moment in ISO 8601, such as 2025-01-31") from None
        moments.append(found if found.tzinfo else found.replace(tzinfo=UTC))
    return Splits(*moments)


def _of_arrow(data: pa.Table, table: str) -> pl.DataFrame:
    names = data.column_names
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{table}: column {twice[0]!r} is there twice; rename or remove one")
    try:
        frame = pl.from_arrow(data)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{table}: {str(error).splitlines()[0]}") from error
    assert isinstance(frame, pl.DataFrame)
    _tell_of_zones(frame, table)
    return frame


def _tell_of_zones(frame: pl.DataFrame, table: str) -> None:
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is None and name in SCHEMAS[table].names:
            log.info(f"{table}: column {name!r}: times without a zone are taken for UTC")


def _of_datasets(value: Any, table: str) -> pl.DataFrame:
    if type(value).__name__ != "Dataset":
        hint = f"; choose one of its splits: {', '.join(map(str, value))}" if isinstance(value, dict) else ""
        raise TypeError(f"{table}: expected a datasets.Dataset, found a {type(value).__name__}{hint}")
    data = value.with_format("arrow")[:]
    for name, feature in value.features.items():
        if type(feature).__name__ == "ClassLabel":
            at = data.column_names.index(name)
            codes = pa.compute.if_else(pa.compute.less(data[name], 0), None, data[name])  # -1 is a missing label
            words = pa.array(feature.names, pa.string()).take(codes.combine_chunks())
            data = data.set_column(at, name, words)
            log.info(f"{table}: column {name!r}: class labels are read as their names, such as {feature.names[0]!r}")
    return _of_arrow(data, table)


def _of_pandas(frame: Any, table: str) -> pl.DataFrame:
    index = [name for name in frame.index.names if name is not None]
    if index:
        remedy = "make it one with reset_index(), or drop it with reset_index(drop=True)"
        raise ValueError(f"{table}: the index {index[0]!r} is no column; {remedy}")
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(frame.columns):
        if not isinstance(name, str):
            raise ValueError(f"{table}: a column is called {name!r}, which is no text; rename it")
        if name in columns:
            raise ValueError(f"{table}: column {name!r} is there twice; rename or remove one")
        columns[name] = _column_of_pandas(frame.iloc[:, place], name, table)
    return _of_arrow(pa.table(columns), table)


def _column_of_pandas(series: Any, name: str, table: str) -> pa.Array:
    schema = SCHEMAS[table]
    integers = name in schema.names and pa.types.is_integer(schema.field(name).type)
    if integers and series.dtype.kind == "f" and series.notna().any():
        raise ValueError(
            f"{table}: column {name!r} is {series.dtype}, which pandas makes of integers where a value is missing; "
            f"no id may be one; read it with dtype=\"Int64\", such as pd.read_csv(..., dtype={{{name!r}: 'Int64'}})"
        )
    try:
        found = pa.Array.from_pandas(series)
    except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
        raise _mixed(series, name, table, error) from error
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if pa.types.is_binary(found.type) and series.map(lambda value: isinstance(value, str)).any():
        raise _mixed(series, name, table, TypeError("text and bytes"))
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    if pa.types.is_null(found.type) and name in schema.names:
        return pa.nulls(len(found), schema.field(name).type)
    return found


def _mixed(series: Any, name: str, table: str, error: Exception) -> ValueError:
    """Name the first value that is not of the type of those before."""
    kinds: list[type] = []
    for row, value in enumerate(series):
        if value is None or value != value:
            continue
        if kinds and type(value) is not kinds[0]:
            problem = f"{value!r} is {type(value).__name__}, and values before it are {kinds[0].__name__}"
            return ValueError(f"{table}: row {row + 1}, column {name!r}: {problem}; make the column of one type")
        kinds.append(type(value))
    return ValueError(f"{table}: column {name!r}: {str(error).splitlines()[0]}")
