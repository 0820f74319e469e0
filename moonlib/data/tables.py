"""The five tables, and a sixth of data without events: schemas, and the checks before anything is built from them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

ACTIONS = ("click", "cart", "order")
"""What a shopper may do with an item that a search led to."""

_TIME = pa.timestamp("us", "UTC")
_BOX = pa.list_(pa.float32())


def _schema(required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType]) -> pa.Schema:
    """Make a schema whose required columns hold no nulls."""
    columns = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema(columns + [pa.field(name, kind) for name, kind in optional.items()])


SCHEMAS: dict[str, pa.Schema] = {
    "products": _schema(
        {"item_id": pa.int64(), "spu_id": pa.int64(), "category": pa.string(), "listed_at": _TIME},
        {
            "title": pa.string(),
            "attributes": pa.map_(pa.string(), pa.string()),
            "price": pa.float64(),
            "merchant_id": pa.int64(),
            "region": pa.string(),
            "image": pa.string(),
            "box": _BOX,
        },
    ),
    "queries": _schema({"query_id": pa.int64()}, {"text": pa.string(), "image": pa.string(), "box": _BOX}),
    "users": _schema({"user_id": pa.int64()}, {}),
    "searches": _schema(
        {
            "search_id": pa.int64(),
            "user_id": pa.int64(),
            "query_id": pa.int64(),
            "item_id": pa.int64(),
            "action": pa.string(),
            "ts": _TIME,
        },
        {"region": pa.string()},
    ),
    "impressions": _schema(
        {
            "search_id": pa.int64(),
            "user_id": pa.int64(),
            "query_id": pa.int64(),
            "item_id": pa.int64(),
            "position": pa.int32(),
            "clicked": pa.bool_(),
            "ts": _TIME,
        },
        {"propensity": pa.float64(), "bid": pa.float64(), "relevance": pa.float64()},
    ),
    "histories": _schema({"user_id": pa.int64(), "ts": _TIME, "item_ids": pa.list_(pa.int64())}, {}),
}
"""One schema per table. Not-nullable columns are required; the others may be missing. Extra columns are kept.

- ``category`` is a path whose levels are joined by ``/``, leaf last.
- ``image`` is the name of an image; ``box`` is [x0, y0, x1, y1] in fractions of its width and height.
- Times are UTC.
- ``histories`` is for data sets that publish no events but what each user had done as of some moments: ``item_ids`` are
  the user's behaviours as of ``ts``, newest last. They need not be in ``products``. A dataset without such rows does
  not have the table.
"""

OPTIONAL_TABLES = ("histories",)
"""The tables that a dataset has only where they have rows."""

SAMPLE_TABLES = ("products", "queries")
"""The tables whose rows are stored one by one, as JSON beside their image."""

KEYS = {"products": "item_id", "queries": "query_id", "users": "user_id"}
"""The column that names a row of a table once."""


_SINGULAR = {
    "products": ("product", "item"),
    "queries": ("query",),
    "users": ("user",),
    "searches": ("search",),
    "impressions": ("impression",),
    "histories": ("history",),
}


def empty(table: str) -> pl.DataFrame:
    """Return the table with all its columns and no rows."""
    frame = pl.from_arrow(SCHEMAS[table].empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


@dataclass(frozen=True)
class Tables:
    """The tables as polars frames. All but ``products`` may be left out and are then empty.

    Example:
        >>> tables = Tables(products=empty("products"))
        >>> tables["searches"].height
        0
    """

    products: pl.DataFrame
    queries: pl.DataFrame = field(default_factory=partial(empty, "queries"))
    users: pl.DataFrame = field(default_factory=partial(empty, "users"))
    searches: pl.DataFrame = field(default_factory=partial(empty, "searches"))
    impressions: pl.DataFrame = field(default_factory=partial(empty, "impressions"))
    histories: pl.DataFrame = field(default_factory=partial(empty, "histories"))

    def __getitem__(self, table: str) -> pl.DataFrame:
        if table not in SCHEMAS:
            raise KeyError(f"no table {table!r}; the tables are {', '.join(SCHEMAS)}")
        frame: pl.DataFrame = getattr(self, table)
        return frame


def validate(tables: Tables, files: Mapping[str, str] | None = None) -> Tables:
    """Cast every table to its schema and check what the schema can't say.

    Casts never guess: integers may be widened, text is parsed (ISO 8601 times, JSON for ``attributes`` and ``box``,
    decimal integers), times without a zone are UTC, NaN is a missing value. Floats are refused as ids, because a
    float can't hold every int64.

    Args:
        tables: the tables as read or made.
        files: the name to call a table by in errors, such as ``products.csv``; by default its own.

    Returns:
        The tables with the schema's columns first, missing optional columns filled with nulls, and extra columns last.

    Raises:
        ValueError: naming table, row (counted from 1, without a header), column and value, for a missing column, a
            wrong type, a missing value, a duplicate id, an unknown action, a bad box, an id that no row has (items of
            ``histories`` are free), or two histories of one user as of one moment.
    """
    names = {table: (files or {}).get(table, table) for table in SCHEMAS}
    cast = Tables(**{f.name: _cast_table(tables[f.name], f.name, names[f.name]) for f in fields(Tables)})
    for table, key in KEYS.items():
        _check(cast[table], names[table], key, ~cast[table][key].is_first_distinct(), "appears a second time")
    for table in ("products", "queries"):
        _check_boxes(cast[table], names[table])
    for table in ("searches", "impressions"):
        for owner, key in KEYS.items():
            ids = cast[table][key]
            known = ids.is_in(cast[owner][key].implode())
            _check(cast[table], names[table], key, ~known, f"is the {key} of no row in {names[owner]}")
    action = cast.searches["action"]
    _check(cast.searches, names["searches"], "action", ~action.is_in(ACTIONS), f"is none of {', '.join(ACTIONS)}")
    position, propensity = cast.impressions["position"], cast.impressions["propensity"]
    _check(cast.impressions, names["impressions"], "position", position < 0, "is negative")
    outside = (propensity <= 0) | (propensity > 1)
    _check(cast.impressions, names["impressions"], "propensity", outside, "is not a probability above 0")
    _check_histories(cast, names)
    return cast


def users_of(events: Mapping[str, pl.DataFrame], files: Mapping[str, str]) -> pl.DataFrame:
    """Make the users table of whom the events name.

    Args:
        events: tables with a ``user_id``, as read: their types may differ.
        files: the name to call each table by in errors.

    Returns:
        Every user_id once, ascending.

    Raises:
        ValueError: a user_id is no int64.
    """
    named = [empty("users")["user_id"]]
    for table, frame in events.items():
        if "user_id" in frame.columns and frame.height:
            named.append(to_ids(frame["user_id"], files[table]))
    return pl.concat(named).drop_nulls().unique().sort().to_frame()


def to_ids(series: pl.Series, name: str) -> pl.Series:
    """Cast a column of ids to int64.

    Args:
        series: integers or text.
        name: what to call its table in errors.

    Raises:
        ValueError: a value is no int64, or would not be the same text again, such as one with leading zeros.
    """
    return _cast(series, pl.Int64(), name)


def near_misses(columns: Iterable[str], table: str) -> dict[str, str]:
    """Find columns that look like one of the schema's that is absent.

    Args:
        columns: of a table as it was read.
        table: one of `SCHEMAS`.

    Returns:
        For each absent column that has one, the most similar column that the schema does not have: the same but for
        spaces, case or the table's name, or a few letters away.

    Example:
        >>> near_misses(["item_id", "product_title", " Price"], "products")
        {'title': 'product_title', 'price': ' Price'}
    """
    columns = list(columns)
    prefixes = tuple(f"{name}_" for name in (table, *_SINGULAR[table]))
    own: dict[str, str] = {}
    for column in columns:
        if column not in SCHEMAS[table].names:
            plain = "_".join(column.strip().lower().replace("-", " ").replace("_", " ").split())
            own.setdefault(plain, column)
            for prefix in prefixes:
                if plain.startswith(prefix):
                    own.setdefault(plain.removeprefix(prefix), column)
    found = {}
    for name in SCHEMAS[table].names:
        if name not in columns and (close := difflib.get_close_matches(name, own, n=1, cutoff=0.8)):
            found[name] = own[close[0]]
    return found


def refuse_near_misses(columns: Iterable[str], table: str, name: str, wanted: Iterable[str] | None = None) -> None:
    """Refuse a table in which a column that is absent has a near-miss, rather than to go on without it.

    Args:
        columns: of the table as it was read.
        table: one of `SCHEMAS`.
        name: what to call the table in errors.
        wanted: the columns that matter; by default all of the schema.

    Raises:
        ValueError: naming both columns.
    """
    for column, near in near_misses(columns, table).items():
        if wanted is None or column in wanted:
            remedy = f"rename it to {column!r}, or to something less alike if it is a column of your own"
            raise ValueError(f"{name}: no column {column!r}; did you mean {near!r}? If so, {remedy}")


def missing_column(columns: Iterable[str], table: str, column: str, name: str) -> str:
    """Say that a required column is missing, and which one it may be."""
    columns = list(columns)
    near = near_misses(columns, table).get(column)
    has = ", ".join(columns) or "no columns"
    return f"{name}: column {column!r} is missing (it has {has})" + (f"; did you mean {near!r}?" if near else "")


def cast_part(frame: pl.DataFrame, table: str, columns: Iterable[str], name: str, first: int = 0) -> pl.DataFrame:
    """Cast some columns of some rows of a table to its schema: of a table that is read piece by piece.

    Args:
        frame: the rows.
        table: one of `SCHEMAS`.
        columns: what is wanted of them; the table's key must be there, other columns are filled with nulls.
        name: what to call the table in errors.
        first: number of rows before these, for errors.

    Returns:
        The wanted columns, in the order of ``columns``.

    Raises:
        ValueError: as `validate`, for these columns.
    """
    target, key = empty(table).schema, KEYS[table]
    if key not in frame.columns:
        raise ValueError(missing_column(frame.columns, table, key, name))
    cast = []
    for column in columns:
        if column not in frame.columns:
            cast.append(pl.Series(column, [None] * frame.height, dtype=target[column]))
            continue
        series = _cast(frame[column], target[column], name, first)
        if column == key:
            problem = "is missing; this column must have a value in every row"
            _check(frame, name, column, series.is_null(), problem, first)
        cast.append(series)
    part = pl.DataFrame(cast)
    if "box" in part.columns:
        _check_boxes(part, name, first)
    return part


def _check(frame: pl.DataFrame, name: str, column: str, bad: pl.Series, problem: str, first: int = 0) -> None:
    """Raise for the first row marked bad; ``first`` rows stand before the frame's."""
    row = bad.fill_null(False).arg_max() if bad.any() else None
    if row is not None:
        raise ValueError(f"{name}: row {first + row + 1}, column {column!r}: {_show(frame[column][row])} {problem}")


def _check_boxes(frame: pl.DataFrame, name: str, first: int = 0) -> None:
    corners = frame.select(
        *(pl.col("box").list.get(i, null_on_oob=True).alias(c) for i, c in enumerate(("x0", "y0", "x1", "y1"))),
        sides=pl.col("box").list.len(),
    )
    fits = corners.select(
        (pl.col("sides") == 4)
        & (pl.col("x0") >= 0)
        & (pl.col("y0") >= 0)
        & (pl.col("x0") < pl.col("x1"))
        & (pl.col("y0") < pl.col("y1"))
        & (pl.col("x1") <= 1)
        & (pl.col("y1") <= 1)
    ).to_series()
    bad = frame["box"].is_not_null() & ~fits.fill_null(False)
    _check(frame, name, "box", bad, "is not [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1", first)


def _check_histories(tables: Tables, names: Mapping[str, str]) -> None:
    frame, name = tables.histories, names["histories"]
    known = frame["user_id"].is_in(tables.users["user_id"].implode())
    _check(frame, name, "user_id", ~known, f"is the user_id of no row in {names['users']}")
    again = frame.select(~pl.struct("user_id", "ts").is_first_distinct()).to_series()
    _check(frame, name, "user_id", again, "appears a second time with the same ts")
    if frame.height and frame["item_ids"].explode(empty_as_null=False).null_count():
        holes = frame["item_ids"].list.eval(pl.element().is_null()).list.any()
        _check(frame, name, "item_ids", holes, "holds an item_id that is missing")


def _cast_table(frame: pl.DataFrame, table: str, name: str) -> pl.DataFrame:
    target = empty(table).schema
    columns = []
    for schema_field in SCHEMAS[table]:
        column, dtype = schema_field.name, target[schema_field.name]
        if column in frame.columns:
            series = _cast(frame[column], dtype, name)
            if not schema_field.nullable:
                _check(frame, name, column, series.is_null(), "is missing; this column must have a value in every row")
            columns.append(series)
        elif schema_field.nullable:
            columns.append(pl.Series(column, [None] * frame.height, dtype=dtype))
        else:
            raise ValueError(missing_column(frame.columns, table, column, name))
    own = [_own(frame[column], table, name) for column in frame.columns if column not in target]
    return pl.DataFrame(columns + own)


def _own(series: pl.Series, table: str, name: str) -> pl.Series:
    """Check that a column of the user's own can be stored; NaN becomes a missing value."""
    if unfit := _unfit(series.dtype, table in SAMPLE_TABLES):
        problem = f"is {unfit}, which can't be stored; make the column text or numbers, or leave it out"
        _check(series.to_frame(), name, series.name, series.is_not_null(), problem)
        raise ValueError(f"{name}: column {series.name!r}: {problem}")
    if series.dtype.is_float():
        series = series.fill_nan(None)
        _check(series.to_frame(), name, series.name, series.is_infinite(), "is not finite")
    return series


def _unfit(dtype: pl.DataType, as_json: bool) -> pl.DataType | None:
    """Return the type within a column's that has no place in a dataset, if there is one."""
    if isinstance(dtype, pl.List | pl.Array):
        return _unfit(dtype.inner, as_json)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return next((unfit for field in dtype.fields if (unfit := _unfit(field.dtype, as_json))), None)  # type: ignore[arg-type]
    wide = dtype in (pl.Binary, pl.Object, pl.Int128, pl.UInt128)
    return dtype if wide or (as_json and dtype == pl.Duration) else None


def _cast(series: pl.Series, dtype: pl.DataType, name: str, first: int = 0) -> pl.Series:
    """Cast one column; every value that the new type can't hold exactly is an error."""
    if series.dtype != dtype or isinstance(dtype, pl.Datetime):
        read, expected = _reader(series.dtype, dtype)
        if read is None:
            problem = f"{series.dtype} is not {expected}"
            raise ValueError(f"{name}: column {series.name!r}: {problem}; write it as {_show_type(dtype)}")
        cast = read(series)
        lost = cast.is_null() & series.is_not_null()
        # A time that is out of range can't be shown as one.
        shown = series.to_physical() if series.dtype.is_temporal() else series
        _check(shown.to_frame(), name, series.name, lost, f"is not {expected}", first)
        if dtype == pl.Int64 and series.dtype == pl.String:
            problem = "would lose its sign or leading zeros as an int64, and ids are that; use ids without them"
            _check(series.to_frame(), name, series.name, cast.cast(pl.String) != series, problem, first)
        series = cast
    if dtype == pl.Float64:
        series = series.fill_nan(None)
        _check(series.to_frame(), name, series.name, series.is_infinite(), "is not finite", first)
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


def _show(value: Any) -> str:
    if isinstance(value, pl.Series):
        value = value.to_list()
    shown = "the value" if value is None else repr(value)
    return shown if len(shown) <= 200 else f"{shown[:199]}…"


def _show_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.List) and dtype.inner == pl.Int64:
        return "a list of int64"
    return "int64 or text" if dtype == pl.Int64 else f"{dtype} or text"
