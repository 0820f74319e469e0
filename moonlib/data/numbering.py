"""Numbers the text ids of tables as they were read, and says which families of ids are text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, get_args

import polars as pl
import pyarrow as pa

from moonlib.data.casts import cast_column, refuse_row
from moonlib.data.ids import FAMILIES, LISTS, Family, IdMap, ShopIds

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_ROWS = 2**20
"""Rows looked at at once."""
_FLOAT = r"^[+-]?[0-9]+\.0*$|^[+-]?[0-9](\.[0-9]+)?[eE]\+?[0-9]+$"
_FEW = 0.1
"""The share of a family's ids that are no integers, up to which these may be mistakes."""


@dataclass(frozen=True)
class IdColumn:
    """A column of ids, as it was read.

    Attributes:
        table: what to call its table in errors.
        values: the column; of lists, all of their values are ids.
    """

    table: str
    values: pl.Series

    @property
    def ids(self) -> pl.Series:
        """The ids, one per row, or per place of a list."""
        return self.values.drop_nulls().explode(empty_as_null=False) if self.is_nested else self.values

    @property
    def is_nested(self) -> bool:
        """Whether it is of lists."""
        return isinstance(self.values.dtype, pl.List)

    @property
    def is_text(self) -> bool:
        """Whether its ids are text, by their type."""
        dtype = self.values.dtype
        return (dtype.inner if isinstance(dtype, pl.List) else dtype) in _TEXT

    @property
    def count(self) -> int:
        """How many ids it holds."""
        return int(self.values.list.len().sum()) if self.is_nested else self.values.count()

    def first_odd(self) -> int | None:
        """Row of the first text that no int64 is written as, such as ``SKU-7`` or ``0012``; None without any."""
        for start in range(0, len(self.values) if self.is_text else 0, _ROWS):
            part = IdColumn(self.table, self.values.slice(start, _ROWS))
            odd = no_integers(part.ids)
            if odd.any():
                place = int(odd.arg_max() or 0)
                return start + (
                    int(part.values.list.contains(part.ids[place]).arg_max() or 0) if self.is_nested else place
                )
        return None


def no_integers(ids: pl.Series) -> pl.Series:
    """Tell which texts are not what an int64 is written as: bool [N], False for null."""
    texts = ids.cast(pl.String)
    written = texts.cast(pl.Int64, strict=False).cast(pl.String)
    return (texts.is_not_null() & written.ne_missing(texts)).alias("")


def are_text(family: Family, columns: Sequence[IdColumn]) -> bool:
    """Decide whether the ids of a family are text, by all columns that hold some.

    They are int64 where every one of them is an integer, or a text that is written as an int64 is.

    Args:
        family: of ids.
        columns: as they were read.

    Raises:
        ValueError: one column's type is not text, and another holds a text that is no int64.
    """
    columns = [column for column in columns if column.count]
    odd = next((column for column in columns if column.first_odd() is not None), None)
    if odd is None:
        return False
    for column in columns:
        if not column.is_text:
            _refuse_odd(
                odd,
                f", and column {column.values.name!r} of {column.table} is {column.values.dtype}: {family} "
                "ids are of one type in all tables; write them as text in both",
            )
    if all(_are_floats(column.ids) for column in columns):
        problem = "; it looks like one that became a float, which can't hold every int64: write ids without"
        _refuse_odd(odd, f"{problem} decimals and exponents")
    return True


def _are_floats(texts: pl.Series) -> bool:
    """Whether all texts that no int64 is written as are integers written as floats are, such as ``7.0``."""
    slices = (texts.slice(start, _ROWS).cast(pl.String) for start in range(0, len(texts), _ROWS))
    return all(part.filter(no_integers(part)).str.contains(_FLOAT).all() for part in slices)


def _refuse_odd(column: IdColumn, problem: str) -> NoReturn:
    """Raise for the first text of a column that no int64 is written as."""
    row = column.first_odd() or 0
    value = column.values[row]
    plain = isinstance(value, str) and pl.Series([value]).cast(pl.Int64, strict=False)[0] is not None
    lost = "would lose its sign or leading zeros as an int64" if plain else "is not an int64"
    marked = pl.Series([False] * row + [True])
    refuse_row(column.values.head(row + 1).to_frame(), column.table, column.values.name, marked, lost + problem)
    raise AssertionError("the row is marked")


def number_ids(
    tables: Mapping[str, pl.DataFrame],
    columns: Mapping[str, Sequence[str]],
    names: Mapping[str, str],
    known: ShopIds,
) -> tuple[dict[str, pl.DataFrame], ShopIds]:
    """Put numbers in the place of text ids.

    The numbers of a family ascend with its texts, whatever the order of the rows. Columns of families that are int64
    stay as they are.

    Args:
        tables: as they were read, by name.
        columns: of each table, those of ids.
        names: what to call each table in errors.
        known: families that have been numbered already: their columns are int64, or text that is among them.

    Returns:
        The tables, and the ids of all families that are text.

    Raises:
        ValueError: the types of a family's columns do not go together, or an id is blank or none of the known ones.
    """
    frames = {table: _plain(frame, columns[table], names[table]) for table, frame in tables.items()}
    maps = dict(known)
    for family in get_args(Family):
        found = {
            (table, column): IdColumn(names[table], frames[table][column])
            for table in frames
            for column in columns[table]
            if FAMILIES[column] == family and column in frames[table].columns
        }
        if family in known:
            found = {place: column for place, column in found.items() if column.is_text}
        elif are_text(family, list(found.values())):
            maps[family] = IdMap.of(column.ids for column in found.values() if column.is_text)
        else:
            for (table, _), read in found.items():
                if read.is_text and read.is_nested:
                    frames[table] = frames[table].with_columns(read.values.cast(pl.List(pl.Int64)))
            continue
        for (table, column), read in found.items():
            frames[table] = frames[table].with_columns(numbers_of(read, maps[family]).alias(column))
    return frames, ShopIds(maps)


def more_ids(
    tables: Mapping[str, pl.DataFrame],
    columns: Mapping[str, Sequence[str]],
    names: Mapping[str, str],
    known: ShopIds,
    integers: Collection[Family],
    base: str,
) -> ShopIds:
    """Number the text ids that tables have beyond those of a dataset, which keep their numbers.

    Args:
        tables: as they were read, by name.
        columns: of each table, those of ids.
        names: what to call each table in errors.
        known: the families of the dataset that are text.
        integers: those of the dataset that are int64.
        base: what to call the dataset in errors.

    Returns:
        The families that are text, each with what came on.

    Raises:
        ValueError: the ids of a family are text here and int64 there, or the other way round.
    """
    frames = {table: _plain(frame, columns[table], names[table]) for table, frame in tables.items()}
    maps = dict(known)
    for family in get_args(Family):
        found = [
            IdColumn(names[table], frames[table][column])
            for table in frames
            for column in columns[table]
            if FAMILIES[column] == family and column in frames[table].columns and frames[table].height
        ]
        found = [column for column in found if column.count]
        if family in maps:
            if other := next((column for column in found if not column.is_text), None):
                where = f"{other.table}: column {other.values.name!r} is {other.values.dtype}"
                raise ValueError(f"{where}, and the {family} ids of {base} are text; write them as text here too")
            maps[family] = maps[family].extended(column.ids for column in found)
        elif family in integers:
            for column in found:
                if column.first_odd() is not None:
                    _refuse_odd(column, f", and the {family} ids of {base} are int64: ids of a family keep their type")
    return ShopIds(maps)


def _plain(frame: pl.DataFrame, columns: Sequence[str], table: str) -> pl.DataFrame:
    """A table whose ids are plain text where they are categories, and in lists where these are JSON or arrays."""
    for column in columns:
        if column not in frame.columns:
            continue
        values = frame[column]
        if isinstance(values.dtype, pl.Categorical | pl.Enum):
            frame = frame.with_columns(values.cast(pl.String))
        elif column not in LISTS:
            refuse_nested(values, table)
        elif isinstance(values.dtype, pl.List | pl.Array):
            inner = pl.String() if values.dtype.inner in _TEXT else values.dtype.inner
            frame = frame.with_columns(values.cast(pl.List(inner)))
        elif values.dtype == pl.String and not values.str.contains('"', literal=True).any():
            frame = frame.with_columns(cast_column(values, pl.List(pl.Int64()), table))
        elif values.dtype == pl.String:
            lists = pl.Series(column, [_texts(value) for value in values], dtype=pl.List(pl.String))
            wrong = lists.is_null() & values.is_not_null()
            refuse_row(frame, table, column, wrong, 'is not a list of ids, as JSON [1, 2] or ["A1", "B2"]')
            frame = frame.with_columns(lists)
    return frame


def refuse_nested(ids: pl.Series, table: str) -> None:
    """Refuse a column that should hold an id in each row, and holds lists or structs.

    Raises:
        ValueError: naming the column.
    """
    if ids.dtype.is_nested():
        raise ValueError(f"{table}: column {ids.name!r}: {ids.dtype} is no id; write each as int64 or text")


def _texts(value: str | None) -> list[str] | None:
    try:
        found = None if value is None else json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None


def numbers_of(column: IdColumn, ids: IdMap) -> pl.Series:
    """The numbers of a column's ids, in lists where these are; null where there is none.

    Raises:
        ValueError: an id is blank, or none of ``ids``.
    """
    values = column.values
    if not column.is_text:
        return values
    refuse_blank(column)
    numbers = ids.encode(column.ids)
    unknown = numbers.is_null() & column.ids.is_not_null()
    if column.is_nested:
        numbers, unknown = _in_lists(numbers, values), _in_lists(unknown, values).list.any()
    family = FAMILIES[values.name]
    problem = f"{'holds an id that is' if column.is_nested else 'is'} none of the {family} ids of the dataset"
    refuse_row(values.to_frame(), column.table, values.name, unknown, problem)
    return numbers


def refuse_blank(column: IdColumn) -> None:
    """Refuse text ids without a character that can be seen.

    Raises:
        ValueError: naming the first row with one.
    """
    blank = column.ids.cast(pl.String).str.strip_chars() == ""
    blank = _in_lists(blank, column.values).list.any() if column.is_nested else blank
    problem = f"{'holds' if column.is_nested else 'is'} a blank id; an id has at least one character"
    refuse_row(column.values.to_frame(), column.table, column.values.name, blank, problem)


def _in_lists(flat: pl.Series, lists: pl.Series) -> pl.Series:
    """Values in lists of the same lengths as others; null where these are null."""
    lengths = lists.list.len().fill_null(0).cast(pl.Int64)
    offsets = pl.concat([pl.Series([0], dtype=pl.Int64), lengths.cum_sum()])
    made = pa.LargeListArray.from_arrays(
        offsets.to_arrow(), flat.rechunk().to_arrow(), mask=lists.is_null().rechunk().to_arrow()
    )
    return pl.Series(lists.name, made)


def id_doubts(ids: ShopIds) -> list[str]:
    """List what may be a mistake in text ids, one line each: spaces around them, and few that are no integers."""
    lines = []
    for family, known in ids.items():
        spaced = odd = 0
        examples = dict[str, str]()
        for part in known.parts:
            texts = pl.Series(part, dtype=pl.String)
            around, no_integer = texts != texts.str.strip_chars(), no_integers(texts)
            spaced, odd = spaced + int(around.sum()), odd + int(no_integer.sum())
            for name, marked in (("spaced", around), ("odd", no_integer)):
                if marked.any():
                    examples.setdefault(name, repr(texts[int(marked.arg_max() or 0)]))
        if spaced:
            lines.append(
                f"{family} ids with spaces around them: {spaced:,}, such as {examples['spaced']}; they are kept, and "
                "are other ids than those without: remove the spaces if they are none"
            )
        if odd <= _FEW * len(known):
            lines.append(
                f"{family} ids are text, because {odd:,} of {len(known):,} are no int64, such as {examples['odd']}; "
                "without these they were int64"
            )
    return lines
