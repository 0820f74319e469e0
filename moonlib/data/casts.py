"""Casts columns as they were read, text or numbers, to the types of a schema, without a guess and without a loss."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl


def refuse_row(frame: pl.DataFrame, name: str, column: str, bad: pl.Series, problem: str, first: int = 0) -> None:
    """Raise for the first row that is marked.

    Args:
        frame: the rows of a table.
        name: what to call the table in errors.
        column: the one that is wrong.
        bad: bool [N], one per row.
        problem: what is said after the value.
        first: number of rows before the frame's.

    Raises:
        ValueError: naming table, row (counted from 1), column and value.
    """
    row = bad.fill_null(False).arg_max() if bad.any() else None
    if row is not None:
        raise ValueError(f"{name}: row {first + row + 1}, column {column!r}: {_show(frame[column][row])} {problem}")


def own_column(series: pl.Series, as_json: bool, name: str) -> pl.Series:
    """Check that a column of the user's own can be stored; NaN becomes a missing value.

    Args:
        series: the column.
        as_json: whether its rows are stored as JSON.
        name: what to call its table in errors.

    Raises:
        ValueError: its type has no place in a dataset, or a number is not finite.
    """
    if unfit := _unfit(series.dtype, as_json):
        problem = f"is {unfit}, which can't be stored; make the column text or numbers, or leave it out"
        refuse_row(series.to_frame(), name, series.name, series.is_not_null(), problem)
        raise ValueError(f"{name}: column {series.name!r}: {problem}")
    if series.dtype.is_float():
        series = series.fill_nan(None)
        refuse_row(series.to_frame(), name, series.name, series.is_infinite(), "is not finite")
    return series


def _unfit(dtype: pl.DataType, as_json: bool) -> pl.DataType | None:
    """Return the type within a column's that has no place in a dataset, if there is one."""
    if isinstance(dtype, pl.List | pl.Array):
        return _unfit(dtype.inner, as_json)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return next((unfit for field in dtype.fields if (unfit := _unfit(field.dtype, as_json))), None)  # type: ignore[arg-type]
    wide = dtype in (pl.Binary, pl.Object, pl.Int128, pl.UInt128)
    return dtype if wide or (as_json and dtype == pl.Duration) else None


def cast_column(series: pl.Series, dtype: pl.DataType, name: str, first: int = 0) -> pl.Series:
    """Cast one column; every value that the new type can't hold exactly is an error.

    Args:
        series: the column, as it was read.
        dtype: its type in the schema.
        name: what to call its table in errors.
        first: number of rows of the table before these.

    Returns:
        As many values; NaN is a missing one.

    Raises:
        ValueError: naming table, row, column and value, or the type that can't be cast.

    Example:
        >>> cast_column(pl.Series("item_id", ["7"]), pl.Int64(), "products.csv").to_list()
        [7]
    """
    if series.dtype != dtype or isinstance(dtype, pl.Datetime):
        read, expected = _reader(series.dtype, dtype)
        if read is None:
            problem = f"{series.dtype} is not {expected}"
            raise ValueError(f"{name}: column {series.name!r}: {problem}; write it as {_show_type(dtype)}")
        try:
            cast = read(series)
        except pl.exceptions.PolarsError as error:  # of types within lists and structs
            raise ValueError(f"{name}: column {series.name!r}: {series.dtype} is not {expected} ({error})") from error
        lost = cast.is_null() & series.is_not_null()
        # A time that is out of range can't be shown as one.
        shown = series.to_physical() if series.dtype.is_temporal() else series
        refuse_row(shown.to_frame(), name, series.name, lost, f"is not {expected}", first)
        if dtype == pl.Int64 and series.dtype == pl.String:
            problem = "would lose its sign or leading zeros as an int64, and ids are that; use ids without them"
            refuse_row(series.to_frame(), name, series.name, cast.cast(pl.String) != series, problem, first)
        series = cast
    if dtype == pl.Float64 and not np.isfinite(series.to_numpy()).all():  # a null counts as NaN here
        series = series.fill_nan(None)
        refuse_row(series.to_frame(), name, series.name, series.is_infinite(), "is not finite", first)
    return series


_Read = Callable[[pl.Series], pl.Series]


def _reader(source: pl.DataType, target: pl.DataType) -> tuple[_Read | None, str]:
    """Return how a column becomes the target type (None: it can't), and the words for the target type."""

    def plain(series: pl.Series) -> pl.Series:
        return series.cast(target, strict=False)

    def parsed(parse: Callable[[Any], Any]) -> _Read:
        return partial(_each, parse=parse, dtype=target)

    text = source == pl.String
    read: _Read | None = None
    if target.is_integer():
        expected = f"an {'int64' if target == pl.Int64 else 'int32'}"
        read = plain if source.is_integer() or text else None
    elif target == pl.Float64:
        expected = "a number"
        read = plain if source.is_numeric() or text else None
    elif target == pl.Boolean:
        expected = "true or false (or 1 or 0)"
        read = parsed(_parse_bool) if source.is_integer() or text else None
    elif isinstance(target, pl.Datetime):
        expected = "a time in ISO 8601, such as 2025-01-31T12:00:00Z"
        if isinstance(source, pl.Datetime | pl.Date):
            read, expected = _to_utc, f"a time from the year 1 to 9999 (the number is in {_UNITS[_unit(source)]})"
        elif text:
            read = parsed(_parse_time)
            expected += " (a number, such as of seconds since 1970, doesn't say its unit)"
    elif isinstance(target, pl.Map):
        expected = 'a mapping of text to text, as JSON {"colour": "red"}'
        if isinstance(source, pl.Map | pl.List):
            read = plain
        elif text or isinstance(source, pl.Struct):
            read = parsed(_parse_mapping)
    elif target == pl.List(pl.Int64):
        expected = "a list of int64, as JSON [1, 2]"
        if isinstance(source, pl.List | pl.Array):
            read = plain if source.inner.is_integer() or source.inner == pl.Null else None
        elif text:
            read = parsed(_parse_integers)
    elif target == pl.List(pl.String):
        expected = 'a list of image names, as JSON ["front.jpg", "back.jpg"]'
        if isinstance(source, pl.List | pl.Array):
            read = plain if source.inner in (pl.String, pl.Null, pl.Categorical, pl.Enum) else None
        elif text:
            read = parsed(_parse_names)
    elif isinstance(target, pl.List):
        expected = "a box, as JSON [x0, y0, x1, y1]"
        if isinstance(source, pl.List | pl.Array):
            read = plain
        elif text:
            read = parsed(_parse_numbers)
    else:
        expected = "text"
        read = plain if isinstance(source, pl.Categorical | pl.Enum) else None
    return (plain if source == pl.Null else read), expected


_UNITS = {"d": "days", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_MICROSECONDS = {"d": 86_400_000_000, "ms": 1000, "us": 1}
_FIRST, _LAST = (
    (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
)


def _unit(dtype: pl.DataType) -> str:
    return dtype.time_unit if isinstance(dtype, pl.Datetime) else "d"


def _to_utc(series: pl.Series) -> pl.Series:
    """Bring times and days to microseconds in UTC; what Python knows no date for becomes null."""
    # Underneath, a time with a zone counts from 1970 in UTC already, and one without a zone is taken for UTC.
    count = series.to_physical().cast(pl.Int64)
    unit = _unit(series.dtype)
    if unit == "ns":
        count = count // 1000
    else:
        scale = _MICROSECONDS[unit]
        count = count.set(~count.is_between(_FIRST // scale, _LAST // scale), None) * scale
    return count.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _each(series: pl.Series, parse: Callable[[Any], Any], dtype: pl.DataType) -> pl.Series:
    """Parse value by value; what can't be parsed becomes null."""

    def values() -> Iterable[Any]:
        for value in series:
            try:
                yield None if value is None else parse(value)
            except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                yield None

    return pl.Series(series.name, list(values()), dtype=dtype)


def _parse_bool(value: str | int) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())


_TIME_TEXT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d(-?\d)?)"
    r"([Tt ](?P<time>[0-9:.,]+)( ?(?P<zone>[Zz]|UTC|GMT|[+-][0-9:]+))?)?",
    re.ASCII,
)
"""Stricter than Python, which takes any character between date and time, and digits alone for a date and a time."""


def _parse_time(value: str) -> datetime:
    found = _TIME_TEXT.fullmatch(value)
    if found is None:
        raise ValueError
    date, time, zone = found["date"], found["time"], found["zone"] or ""
    zone = "+00:00" if zone in ("Z", "z", "UTC", "GMT") else zone
    moment = datetime.fromisoformat(date if time is None else f"{date}T{time}{zone}")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _parse_mapping(value: str | dict[str, Any]) -> dict[str, str]:
    mapping = json.loads(value) if isinstance(value, str) else value
    there = {key: v for key, v in mapping.items() if v is not None and v == v}  # NaN is a missing value
    return {key: v if isinstance(v, str) else json.dumps(v, allow_nan=False) for key, v in there.items()}


def _parse_numbers(value: str) -> list[float]:
    numbers = json.loads(value)
    if not isinstance(numbers, list):
        raise ValueError
    return [float(number) for number in numbers]


def _parse_integers(value: str) -> list[int]:
    integers = json.loads(value)
    if not isinstance(integers, list) or not all(type(integer) is int for integer in integers):
        raise ValueError
    if any(not -(2**63) <= integer < 2**63 for integer in integers):
        raise ValueError
    return integers


def _parse_names(value: str) -> list[str | None]:
    names = json.loads(value)
    if not isinstance(names, list) or not all(name is None or isinstance(name, str) for name in names):
        raise ValueError
    return names


def _show(value: Any) -> str:
    if isinstance(value, pl.Series):
        value = value.to_list()
    shown = "the value" if value is None else repr(value)
    return shown if len(shown) <= 200 else f"{shown[:199]}…"


def _show_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.List) and dtype.inner == pl.Int64:
        return "a list of int64"
    if dtype == pl.List(pl.String):
        return "a list of text"
    return "int64 or text" if dtype == pl.Int64 else f"{dtype} or text"
