"""Maps of tables: which file and which of its columns are which table and column of ours, as YAML.

    products:
      file: feed.tsv
      columns:
        item_id: id
        category: product_type
        price: {column: price, currency: USD}
        attributes: {columns: [brand, color]}
      own: [condition]
    searches:
      file: orders.csv
      columns:
        search_id: order_id
        user_id: customer
        item_id: sku
        ts: {column: created_at, format: "%d/%m/%Y %H:%M", zone: Europe/Berlin}
        action: {constant: order}

`moonlib data map` writes one to begin with, see `moonlib.data.feeds`.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import yaml

from moonlib.data import table_files
from moonlib.data.casts import refuse_row
from moonlib.data.image_lists import IMAGES
from moonlib.data.numbering import IdColumn, are_text
from moonlib.data.tables import SCHEMAS, known_columns

log = logging.getLogger(__name__)

KEYS = ("file", "delimiter", "columns", "own", "fill", "only_with")
"""Keys of a table's map."""

CONVERSIONS: dict[str, frozenset[str]] = {
    "column": frozenset({"currency", "separator", "unit", "format", "zone", "values", "file_name"}),
    "columns": frozenset({"separator"}),
    "constant": frozenset(),
    "row_number": frozenset(),
}
"""Where a column comes from, and the keys that say how it is read."""

UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds of each unit of a time that is a number."""

_ENDINGS = {".tsv": "\t", ".txt": "\t"}


@dataclass(frozen=True)
class TableMap:
    """The map of one table.

    Attributes:
        file: relative to the folder of tables.
        columns: by the name of our column: the name of one of the file's, or a mapping of `CONVERSIONS`.
        delimiter: between the values of a row; None goes by the ending.
        own: columns of the file that are kept as columns of one's own.
        fill: ``by``: a column whose values repeat in rows that belong together; ``columns``: those that take the value
            of the first of these rows where they are empty.
        only_with: rows without a value in this column are left out.
    """

    file: str
    columns: Mapping[str, Any]
    delimiter: str | None = None
    own: Sequence[str] = ()
    fill: Mapping[str, Any] | None = None
    only_with: str | None = None


def read_map(path: Path) -> dict[str, TableMap]:
    """Read a map and check all that can be told without the tables.

    Raises:
        ValueError: naming the file, the key and what was expected.
    """
    try:
        described = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(described, dict) or not described:
        raise ValueError(f"{path}: expected tables by name, such as products: {{file: feed.csv, columns: ...}}")
    return {table: _table_map(each, table, f"{path}: {table}") for table, each in described.items()}


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a key that stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_mapped(
    folder: Path, maps: Mapping[str, TableMap], first: Callable[[], int] = lambda: 0
) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    """Read the tables that a map names.

    Args:
        folder: that files are relative to.
        maps: by table.
        first: returns the least search_id that a search may have which is called by a row number.

    Returns:
        The tables, not yet validated, and what to call each in errors.

    Raises:
        ValueError: a file or a column is not there, or a value is not what the map says.
    """
    frames, names = {}, {}
    for table, of in maps.items():
        names[table] = f"{of.file} (as {table})"
        frames[table] = _read(folder / of.file, table, of, names[table])
    numbered = [table for table, of in maps.items() if of.columns.get("search_id") == {"row_number": True}]
    return _with_searches_apart(frames, numbered, names, first() if numbered else 0), names


def _with_searches_apart(
    frames: dict[str, pl.DataFrame], numbered: Sequence[str], names: Mapping[str, str], first: int
) -> dict[str, pl.DataFrame]:
    """Make searches that are called by row numbers others than those of other tables.

    The numbers follow the ids of those; where these are text, they are text with the name of their table before them.
    """
    others = [table for table in frames if table not in numbered and "search_id" in frames[table].columns]
    given = [IdColumn(names[table], frames[table]["search_id"]) for table in others]
    if numbered and are_text("search", given):
        texts = {table: pl.format("{}-{}", pl.lit(table), "search_id").alias("search_id") for table in numbered}
        return frames | {table: frames[table].with_columns(text) for table, text in texts.items()}
    last = [column.values.cast(pl.Int64, strict=False).max() for column in given]
    free = max((each + 1 for each in last if isinstance(each, int)), default=0)
    free = max(free, first)
    for table in numbered:
        frames = frames | {table: frames[table].with_columns(pl.col("search_id") + free)}
        free = max(free, frames[table].select(pl.col("search_id").max() + 1).item() or 0)
    return frames


def delimiter_of(path: Path, given: str | None = None) -> str | None:
    """The character between the values of a file: the one given, a tab for ``.tsv`` and ``.txt``, else None."""
    return given if given is not None else _ENDINGS.get(path.suffix.lower())


def read_file(path: Path, text: Iterable[str], delimiter: str | None = None) -> pl.DataFrame:
    """Read a table of any kind that a map can name: Parquet, CSV and the like, or JSON lines.

    Args:
        path: the file.
        text: columns that stay text.
        delimiter: see `delimiter_of`.

    Raises:
        ValueError: it can't be read.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        try:
            return pl.read_ndjson(path, infer_schema_length=None)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from error
    separator = delimiter_of(path, delimiter)
    if separator is not None and not path.is_file():
        raise ValueError(f"{path} can't be read: there is no such file")
    return table_files.read(path, list(text), separator)


def _table_map(described: Any, table: str, where: str) -> TableMap:
    if table not in SCHEMAS:
        raise ValueError(f"{where}: no such table; {_near(table, SCHEMAS, 'the tables are')}")
    if not isinstance(described, dict):
        raise ValueError(f"{where}: expected the keys {', '.join(KEYS)}, found {described!r}")
    for key in described:
        if key not in KEYS:
            raise ValueError(f"{where}: no key {key!r}; {_near(str(key), KEYS, 'the keys are')}")
    columns, own = described.get("columns"), described.get("own") or []
    if not isinstance(described.get("file"), str):
        raise ValueError(f"{where}: file: expected the name of a file, found {described.get('file')!r}")
    if not isinstance(columns, dict) or not columns:
        raise ValueError(f"{where}: columns: expected ours by name, such as item_id: sku, found {columns!r}")
    for column, source in columns.items():
        if column not in known_columns(table):
            hint = _near(str(column), known_columns(table), "its columns are")
            raise ValueError(f"{where}: columns: {table} has no column {column!r}; {hint}; list one of your own in own")
        _check_source(source, f"{where}: columns: {column}")
    if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
        raise ValueError(f"{where}: own: expected a list of columns, found {own!r}")
    if taken := [name for name in own if name in known_columns(table)]:
        raise ValueError(f"{where}: own: {taken[0]!r} is a column of {table}: name it in columns")
    fill = described.get("fill")
    if fill is not None and (not isinstance(fill, dict) or set(fill) != {"by", "columns"}):
        raise ValueError(f"{where}: fill: expected {{by: a column, columns: [columns]}}, found {fill!r}")
    if fill is not None and not (isinstance(fill["by"], str) and _are_names(fill["columns"])):
        raise ValueError(f"{where}: fill: expected {{by: a column, columns: [columns]}}, found {fill!r}")
    delimiter, only_with = described.get("delimiter"), described.get("only_with")
    if delimiter is not None and not (isinstance(delimiter, str) and len(delimiter) == 1):
        raise ValueError(f"{where}: delimiter: expected one character, found {delimiter!r}")
    if only_with is not None and not isinstance(only_with, str):
        raise ValueError(f"{where}: only_with: expected a column, found {only_with!r}")
    return TableMap(described["file"], columns, delimiter, own, fill, only_with)


def _check_source(source: Any, where: str) -> None:
    if isinstance(source, str):
        return
    example = (
        "a column of the file, or one of {column: NAME}, {columns: [NAMES]}, {constant: VALUE}, {row_number: true}"
    )
    if not isinstance(source, dict):
        raise ValueError(f"{where}: expected {example}, found {source!r}")
    kinds = [kind for kind in CONVERSIONS if kind in source]
    if len(kinds) != 1:
        raise ValueError(f"{where}: expected {example}, found {source!r}")
    (kind,) = kinds
    for key in source:
        if key != kind and key not in CONVERSIONS[kind]:
            hint = _near(str(key), CONVERSIONS[kind], "it may have")
            raise ValueError(f"{where}: no key {key!r} beside {kind}; {hint}")
    fits: dict[str, Callable[[Any], bool]] = {
        "column": lambda v: isinstance(v, str),
        "columns": _are_names,
        "constant": lambda v: v is not None and not isinstance(v, dict | list),
        "row_number": lambda v: v is True,
        "currency": lambda v: isinstance(v, str),
        "separator": lambda v: isinstance(v, str) and bool(v),
        "unit": lambda v: v in UNITS,
        "format": lambda v: isinstance(v, str),
        "zone": lambda v: isinstance(v, str) and _is_zone(v),
        "values": lambda v: isinstance(v, dict) and bool(v),
        "file_name": lambda v: v is True,
    }
    for key, value in source.items():
        if not fits[key](value):
            wanted = f"; expected one of {', '.join(UNITS)}" if key == "unit" else ""
            raise ValueError(f"{where}: {key}: {value!r} is not what is expected there{wanted}")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_zone(name: str) -> bool:
    try:
        return ZoneInfo(name) is not None
    except (ZoneInfoNotFoundError, ValueError):
        return False


def sources(of: TableMap) -> list[str]:
    """The file's columns that a map reads, apart from one's own."""
    named: list[str] = []
    for source in of.columns.values():
        if isinstance(source, str):
            named.append(source)
        elif "column" in source:
            named.append(source["column"])
        else:
            named += source.get("columns", [])
    return named


def _read(path: Path, table: str, of: TableMap, name: str) -> pl.DataFrame:
    frame = read_file(path, sources(of), of.delimiter)
    asked = [*sources(of), *of.own, *([] if of.only_with is None else [of.only_with])]
    asked += [] if of.fill is None else [of.fill["by"], *of.fill["columns"]]
    for column in asked:
        if column not in frame.columns:
            raise ValueError(f"{name}: no column {column!r}; {_near(column, frame.columns, 'it has')}")
    if of.fill is not None:
        first = (pl.col(column).drop_nulls().first().over(of.fill["by"]) for column in of.fill["columns"])
        frame = frame.with_columns(pl.coalesce(c, f) for c, f in zip(of.fill["columns"], first, strict=True))
    if of.only_with is not None:
        rows = frame.height
        frame = frame.drop_nulls(of.only_with)
        log.info(f"{name}: rows without {of.only_with!r}, which are left out: {rows - frame.height:,} of {rows:,}")
    columns = {column: _converted(frame, column, source, name) for column, source in of.columns.items()}
    kept = pl.Series([True]).new_from_index(0, frame.height)
    for column, source in of.columns.items():
        if isinstance(source, dict) and None in source.get("values", {}).values():
            kept &= ~(columns[column].is_null() & frame[source["column"]].is_not_null())
    if not kept.all():
        log.info(f"{name}: rows whose value the map leaves out (null): {int((~kept).sum()):,} of {frame.height:,}")
    used = {*asked}
    if left := [column for column in frame.columns if column not in used]:
        log.info(f"{name}: columns that the map leaves out: {', '.join(left)}")
    found = pl.DataFrame([series.alias(column) for column, series in columns.items()])
    return found.hstack(frame.select(of.own).get_columns()).filter(kept)


def _converted(frame: pl.DataFrame, column: str, source: Any, name: str) -> pl.Series:
    """Make one column of ours, or name the types that it can't be made of."""
    try:
        return _column(frame, column, source, name)
    except (pl.exceptions.PolarsError, TypeError) as error:
        read = sources(TableMap("", {column: source}))
        types = ", ".join(f"column {each!r} is {frame[each].dtype}" for each in read)
        raise ValueError(f"{name}: {types}, of which {column} can't be made by {source}") from error


def _column(frame: pl.DataFrame, column: str, source: Any, name: str) -> pl.Series:
    if isinstance(source, str):
        return frame[source]
    if "constant" in source:
        return pl.Series([source["constant"]]).new_from_index(0, frame.height)
    if "row_number" in source:
        return pl.int_range(frame.height, eager=True)
    if "columns" in source:
        names = source["columns"]
        if column == "attributes":
            texts = frame.select(pl.col(each).cast(pl.String) for each in names)
            return texts.select(pl.struct(names)).to_series()
        return _joined([_lists(frame[each], source.get("separator"), name) for each in names], column, name)
    series = frame[source["column"]]
    where = f"column {source['column']!r}"
    if "currency" in source:
        return _price(frame, source["column"], source["currency"], name)
    if "values" in source:
        return _values(frame, source["column"], source["values"], name)
    if "unit" in source:
        count = series.cast(pl.Int64, strict=False)
        lost = count.is_null() & series.is_not_null()
        refuse_row(frame, name, source["column"], lost, f"is no whole number of {source['unit']} since 1970")
        return (count * UNITS[source["unit"]]).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if "format" in source or "zone" in source:
        times = series
        if series.dtype == pl.String:
            if "format" not in source:
                raise ValueError(f"{name}: {where} is text, and a zone without a format is of times; give its format")
            times = series.str.to_datetime(source["format"], strict=False, time_unit="us", ambiguous="earliest")
            lost = times.is_null() & series.is_not_null()
            refuse_row(frame, name, source["column"], lost, f"is not of the format {source['format']!r}")
        elif not isinstance(series.dtype, pl.Datetime):
            raise ValueError(f"{name}: {where} is {series.dtype}, and neither a time nor text")
        if "zone" in source and isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is None:
            times = times.dt.replace_time_zone(source["zone"], ambiguous="earliest", non_existent="null")
            lost = times.is_null() & series.is_not_null()
            refuse_row(
                frame, name, source["column"], lost, f"is no time in {source['zone']}, as clocks are set forward"
            )
        return times
    if "separator" in source:
        return _lists(series, source["separator"], name)
    if "file_name" in source:
        _refuse_pictures(series, "file_name", name)
        return series.cast(pl.String).str.split("?").list.first().str.split("#").list.first().str.split("/").list.last()
    return series


def _lists(series: pl.Series, separator: str | None, name: str) -> pl.Series:
    """Lists of the texts in a value, without blank ones, or of the one picture that it holds."""
    if isinstance(series.dtype, pl.List | pl.Array):
        return series.cast(pl.List(series.dtype.inner))
    if separator:
        _refuse_pictures(series, "separator", name)
    elif series.dtype in (pl.Binary, pl.Struct):
        return series.to_frame().select(pl.concat_list(series.name).list.drop_nulls()).to_series()
    parts = series.cast(pl.String).str.split(separator) if separator else series.cast(pl.String).reshape((-1, 1))
    frame = pl.DataFrame({"parts": parts.cast(pl.List(pl.String))})
    stripped = pl.col("parts").list.eval(pl.element().str.strip_chars())
    texts = frame.select(stripped.list.eval(pl.element().filter(pl.element() != ""))).to_series()
    return texts.alias(series.name)


def _joined(lists: Sequence[pl.Series], column: str, name: str) -> pl.Series:
    """Join the lists of each row; a picture that is in several of them is taken once."""
    for each in lists[1:]:
        if each.dtype != lists[0].dtype:
            first, other = ((one.name, one.dtype.inner) for one in (lists[0], each))  # type: ignore[attr-defined]
            raise ValueError(f"{name}: column {first[0]!r} is {first[1]}, and {other[0]!r} {other[1]}; name one kind")
    frame = pl.DataFrame([each.alias(str(i)) for i, each in enumerate(lists)])
    joined = frame.select(pl.concat_list(pl.all().fill_null([])).alias(column)).to_series()
    if column != IMAGES:
        return joined
    once = joined.list.unique(maintain_order=True)
    if again := int((once.list.len() < joined.list.len()).sum()):
        log.info(f"{name}: column {column!r}: what stands in more than one column is taken once, in {again:,} rows")
    return once


def _refuse_pictures(series: pl.Series, key: str, name: str) -> None:
    if series.dtype in (pl.Binary, pl.Struct):
        raise ValueError(f"{name}: column {series.name!r} is {series.dtype}, and {key} is of text; leave {key} out")


def _price(frame: pl.DataFrame, column: str, currency: str, name: str) -> pl.Series:
    """Numbers of prices such as ``12.99 USD``, all of one currency."""
    texts = frame[column].cast(pl.String).str.strip_chars()
    marks = texts.str.replace_all(r"[0-9.,\s+-]", "")
    other = (marks != "") & (marks != currency)
    refuse_row(frame, name, column, other, f"is not in {currency}, as the map says")
    numbers = texts.str.replace_all(currency, "", literal=True).str.strip_chars()
    thousands = numbers.str.contains(r"^\d{1,3}(,\d{3})+(\.\d+)?$").fill_null(False)  # 1,299.00
    numbers = numbers.str.replace_all(",", "", literal=True).zip_with(thousands, numbers)
    found = numbers.cast(pl.Float64, strict=False)
    lost = found.is_null() & texts.is_not_null()
    refuse_row(frame, name, column, lost, "is no price such as 12.99 USD (a decimal comma is not read)")
    return found


def _values(frame: pl.DataFrame, column: str, values: Mapping[Any, Any], name: str) -> pl.Series:
    """Values that stand for others; null is for rows to leave out."""
    texts = frame[column].cast(pl.String)
    table = {_word(old): None if new is None else _word(new) for old, new in values.items()}
    unknown = ~texts.is_in(list(table)) & texts.is_not_null()
    refuse_row(frame, name, column, unknown, f"is none of the map's values, {', '.join(table)}")
    return texts.replace_strict(list(table), list(table.values()), default=None, return_dtype=pl.String)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _near(word: str, known: Iterable[str], otherwise: str) -> str:
    known = list(known)
    plain = {name.strip().lower(): name for name in known}
    near = difflib.get_close_matches(word.strip().lower(), plain, n=1)
    return f"did you mean {plain[near[0]]!r}?" if near else f"{otherwise} {', '.join(known)}"
