"""The five tables, and a sixth of data without events: schemas, and the checks before anything is built from them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from moonlib.data.casts import cast_column, own_column, refuse_row
from moonlib.data.defaults import BEFORE_EVERYTHING, with_spus
from moonlib.data.ids import FAMILIES, IdMap, ShopIds
from moonlib.data.image_lists import IMAGES, encoded, image_lists, refuse_encoded
from moonlib.data.numbering import IdColumn, are_text, number_ids, numbers_of, refuse_blank, refuse_nested

Action = Literal["click", "cart", "order"]
"""What a shopper did with an item that a search led to."""

ACTIONS: tuple[Action, ...] = get_args(Action)
"""All of them, the weakest first."""

_TIME = pa.timestamp("us", "UTC")
_BOX = pa.list_(pa.float32())


def _schema(
    first: Mapping[str, pa.DataType], then: Mapping[str, pa.DataType], may_be_absent: Iterable[str] = ()
) -> pa.Schema:
    """Make a schema of columns that hold no nulls, but for those that may be absent, and of optional ones."""
    columns = [pa.field(name, kind, nullable=name in may_be_absent) for name, kind in first.items()]
    return pa.schema(columns + [pa.field(name, kind) for name, kind in then.items()])


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
        ("spu_id", "category", "listed_at"),
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
        ("query_id",),
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
        ("query_id",),
    ),
    "histories": _schema({"user_id": pa.int64(), "ts": _TIME, "item_ids": pa.list_(pa.int64())}, {}),
}
"""One schema per table. Not-nullable columns are required; the others may be missing. Extra columns are kept.

- ``category`` is a path whose levels are joined by ``/``, leaf last; null for none.
- A product without ``spu_id`` is its own SPU, one without ``listed_at`` was listed before everything
  (`moonlib.data.defaults`): a dataset holds no null there.
- An event without ``query_id`` had no query: a feed, a home page, a recommendation.
- ``image`` is the name of an image; ``box`` is [x0, y0, x1, y1] in fractions of its width and height.
- products and queries may have another column, ``images``: a list of names, the main one first. ``image`` and ``box``
  are of the main one. See `moonlib.data.image_lists`.
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


ALIASES = {"spu_id": ("spu",), "category": ("categories",), "listed_at": ("listed",), "query_id": ("query",)}
"""Names that are taken for a misspelling of a column that may be absent, beside those that differ in a few letters."""

_SINGULAR = {
    "products": ("product", "item"),
    "queries": ("query",),
    "users": ("user",),
    "searches": ("search",),
    "impressions": ("impression",),
    "histories": ("history",),
}


def known_columns(table: str) -> list[str]:
    """The columns that have a meaning in a table: those of its schema, and `IMAGES` where rows may have pictures."""
    return [*SCHEMAS[table].names, *([IMAGES] if table in SAMPLE_TABLES else [])]


def empty(table: str) -> pl.DataFrame:
    """Return the table with all its columns and no rows."""
    frame = pl.from_arrow(SCHEMAS[table].empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


@dataclass(frozen=True)
class Tables:
    """The tables as polars frames. All but ``products`` may be left out and are then empty.

    Attributes:
        ids: the shop's ids of the families that are text and have numbers in the tables, as `validate` has it.

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
    ids: ShopIds = field(default_factory=ShopIds, kw_only=True)

    def __getitem__(self, table: str) -> pl.DataFrame:
        if table not in SCHEMAS:
            raise KeyError(f"no table {table!r}; the tables are {', '.join(SCHEMAS)}")
        frame: pl.DataFrame = getattr(self, table)
        return frame


def validate(
    tables: Tables, files: Mapping[str, str] | None = None, earlier: Mapping[str, pl.Series] | None = None
) -> Tables:
    """Cast every table to its schema and check what the schema can't say.

    A product without ``spu_id`` or ``listed_at`` gets its default, see `moonlib.data.defaults`.

    Casts never guess: integers may be widened, text is parsed (ISO 8601 times, JSON for ``attributes`` and ``box``,
    decimal integers), times without a zone are UTC, NaN is a missing value. Floats are refused as ids, because a
    float can't hold every int64. In place of ids that are text there are their numbers, and ``ids`` knows both.

    Args:
        tables: the tables as read or made.
        files: the name to call a table by in errors, such as ``products.csv``; by default its own.
        earlier: the keys of products, queries and users that are there already, which events may name too.

    Returns:
        The tables with the schema's columns first, missing optional columns filled with nulls, and extra columns last.
        ``images`` stays only where a row has several; ``image`` is its first.

    Raises:
        ValueError: naming table, row (counted from 1, without a header), column and value, for a missing column, a
            wrong type, a missing value, a duplicate id, an unknown action, a bad box, an id that no row has (items of
            ``histories`` are free), or two histories of one user as of one moment.
    """
    names = {table: (files or {}).get(table, table) for table in SCHEMAS}
    earlier = earlier or {}
    tables = replace(tables, products=with_spus(tables.products, names["products"]))
    columns = {table: [name for name in SCHEMAS[table].names if name in FAMILIES] for table in SCHEMAS}
    frames, ids = number_ids({table: tables[table] for table in SCHEMAS}, columns, names, tables.ids)
    cast = Tables(**{table: _cast_table(frames[table], table, names[table]) for table in SCHEMAS}, ids=ids)
    for table, key in KEYS.items():
        _refuse_id(cast, names, table, key, ~cast[table][key].is_first_distinct(), "appears a second time")
    for table in ("products", "queries"):
        _check_boxes(cast[table], names[table])
    for table in ("searches", "impressions"):
        for owner, key in KEYS.items():
            known = cast[table][key].is_in(_keys(cast, owner, earlier).implode())
            _refuse_id(cast, names, table, key, ~known, f"is the {key} of no row in {names[owner]}")
    action = cast.searches["action"]
    refuse_row(cast.searches, names["searches"], "action", ~action.is_in(ACTIONS), f"is none of {', '.join(ACTIONS)}")
    position, propensity = cast.impressions["position"], cast.impressions["propensity"]
    refuse_row(cast.impressions, names["impressions"], "position", position < 0, "is negative")
    outside = (propensity <= 0) | (propensity > 1)
    refuse_row(cast.impressions, names["impressions"], "propensity", outside, "is not a probability above 0")
    _check_histories(cast, names, earlier)
    return cast


def _keys(tables: Tables, table: str, earlier: Mapping[str, pl.Series]) -> pl.Series:
    """The keys of a table's rows, and of those that are there already."""
    keys = tables[table][KEYS[table]]
    return pl.concat([keys, earlier[table]]) if table in earlier else keys


def _refuse_id(tables: Tables, names: Mapping[str, str], table: str, key: str, bad: pl.Series, problem: str) -> None:
    """Raise for the first row that is marked, showing its id as the shop writes it."""
    shown = tables[table].select(key)
    refuse_row(tables.ids.decoded(shown, key) if bad.any() else shown, names[table], key, bad, problem)


def users_of(events: Mapping[str, pl.DataFrame], files: Mapping[str, str]) -> pl.DataFrame:
    """Make the users table of whom the events name.

    Args:
        events: tables with a ``user_id``, as read: their types may differ.
        files: the name to call each table by in errors.

    Returns:
        Every user_id once, ascending, int64 or text.

    Raises:
        ValueError: a user_id is neither, or some are int64 and others text.
    """
    there = {table: frame["user_id"] for table, frame in events.items() if "user_id" in frame.columns and frame.height}
    for table, users in there.items():
        refuse_nested(users, files[table])
    columns = [IdColumn(files[table], users) for table, users in there.items()]
    if are_text("user", columns):
        for column in columns:
            refuse_blank(column)
        named = [pl.Series("user_id", dtype=pl.String), *(users.cast(pl.String) for users in there.values())]
    else:
        named = [empty("users")["user_id"], *(to_ids(users, files[table]) for table, users in there.items())]
    return pl.concat(named).drop_nulls().unique().sort().to_frame()


def to_ids(series: pl.Series, name: str) -> pl.Series:
    """Cast a column of ids to int64.

    Args:
        series: integers or text.
        name: what to call its table in errors.

    Raises:
        ValueError: a value is no int64, or would not be the same text again, such as one with leading zeros.
    """
    return cast_column(series, pl.Int64(), name)


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
    return dict(_near_misses(tuple(columns), table))


@lru_cache(maxsize=64)
def _near_misses(columns: tuple[str, ...], table: str) -> dict[str, str]:
    prefixes = tuple(f"{name}_" for name in (table, *_SINGULAR[table]))
    own: dict[str, str] = {}
    for column in columns:
        if column not in known_columns(table):
            plain = "_".join(column.strip().lower().replace("-", " ").replace("_", " ").split())
            own.setdefault(plain, column)
            for prefix in prefixes:
                if plain.startswith(prefix):
                    own.setdefault(plain.removeprefix(prefix), column)
    found = {}
    for name in SCHEMAS[table].names:
        if name not in columns:
            close = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
            close += [alias for alias in ALIASES.get(name, ()) if alias in own]
            if close:
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


def cast_key(frame: pl.DataFrame, table: str, name: str, first: int = 0) -> pl.Series:
    """Cast the key of some rows of a table that is read piece by piece; see `number_keys` for all pieces together.

    Args:
        frame: the rows.
        table: one of `KEYS`.
        name: what to call the table in errors.
        first: number of rows before these, for errors.

    Returns:
        int64, or text where one of these keys is no int64.

    Raises:
        ValueError: the column is absent, a value is missing, or neither an int64 nor text.
    """
    key = KEYS[table]
    if key not in frame.columns:
        raise ValueError(missing_column(frame.columns, table, key, name))
    refuse_nested(frame[key], name)
    keys = frame[key].cast(pl.String) if frame[key].dtype in (pl.Categorical, pl.Enum) else frame[key]
    has_text = IdColumn(name, keys).first_odd() is not None
    ids = keys if has_text else cast_column(keys, pl.Int64(), name, first)
    if ids.null_count():
        refuse_row(frame, name, key, ids.is_null(), "is missing; this column must have a value in every row", first)
    return ids


def number_keys(parts: Iterable[pl.Series], name: str, as_text: bool = False) -> tuple[pl.Series, ShopIds]:
    """Join what `cast_key` made of a table's pieces.

    Args:
        parts: at least one, of all rows in their order.
        name: what to call the table in errors.
        as_text: whether they are text even where each of them is an int64.

    Returns:
        The keys, int64 [N], and the shop's ids where they are text: the keys are their numbers then.

    Raises:
        ValueError: a key is blank, or all that are no int64 are integers that became floats.
    """
    parts = list(parts)
    if all(part.dtype == pl.Int64 for part in parts) and not as_text:
        return pl.concat(parts, rechunk=True), ShopIds()
    keys = IdColumn(name, pl.concat([part.cast(pl.String) for part in parts]))
    family = FAMILIES[keys.values.name]
    if not as_text:
        are_text(family, [keys])
    ids = IdMap.of([keys.values])
    return numbers_of(keys, ids), ShopIds({family: ids})


def cast_part(
    frame: pl.DataFrame, table: str, columns: Iterable[str], name: str, first: int = 0, made: Collection[str] = ()
) -> pl.DataFrame:
    """Cast some columns of some rows of a table to its schema: of a table that is read piece by piece.

    Args:
        frame: the rows.
        table: one of `SCHEMAS`.
        columns: what is wanted of them, without its key; columns that are not there are filled with nulls.
        name: what to call the table in errors.
        first: number of rows before these, for errors.
        made: columns of names that `moonlib.data.image_sources.StoredImages` made for pictures, which are right.

    Returns:
        The wanted columns, in the order of ``columns``.

    Raises:
        ValueError: as `validate`, for these columns.
    """
    target = _types(table)
    cast = []
    for column in columns:
        if column not in frame.columns:
            cast.append(pl.Series(column, [None] * frame.height, dtype=target[column]))
            continue
        cast.append(cast_column(frame[column], target[column], name, first))
    part = pl.DataFrame(cast)
    if "image" in part.columns and "image" not in made:
        refuse_encoded(part, name, "image", encoded(part["image"]), first)
    if IMAGES in part.columns:
        lists = image_lists(part["image"], part[IMAGES], name, first)
        part = part.with_columns(lists, image=lists.list.first())
    if "box" in part.columns:
        _check_boxes(part, name, first)
    return part


@cache
def _types(table: str) -> dict[str, pl.DataType]:
    """The type of each column of a table, and of `IMAGES`."""
    return {**empty(table).schema, IMAGES: pl.List(pl.String())}


def _check_boxes(frame: pl.DataFrame, name: str, first: int = 0) -> None:
    boxes = frame["box"]
    if boxes.null_count() == frame.height:
        return
    lists = boxes.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    starts, values = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)  # of nulls, NaN
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    four = there & (np.diff(starts) == 4)
    corners = values[starts[:-1][four, None] + np.arange(4)]
    low, high = corners[:, :2], corners[:, 2:]
    bad = there
    bad[four] = ~((low >= 0) & (low < high) & (high <= 1)).all(axis=1)
    if bad.any():
        problem = "is not [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1"
        refuse_row(frame, name, "box", pl.Series(bad), problem, first)


def _check_histories(tables: Tables, names: Mapping[str, str], earlier: Mapping[str, pl.Series]) -> None:
    frame, name = tables.histories, names["histories"]
    known = frame["user_id"].is_in(_keys(tables, "users", earlier).implode())
    _refuse_id(tables, names, "histories", "user_id", ~known, f"is the user_id of no row in {names['users']}")
    again = frame.select(~pl.struct("user_id", "ts").is_first_distinct()).to_series()
    _refuse_id(tables, names, "histories", "user_id", again, "appears a second time with the same ts")
    if frame.height and frame["item_ids"].explode(empty_as_null=False).null_count():
        holes = frame["item_ids"].list.eval(pl.element().is_null()).list.any()
        refuse_row(frame, name, "item_ids", holes, "holds an item_id that is missing")


def _cast_table(frame: pl.DataFrame, table: str, name: str) -> pl.DataFrame:
    target = empty(table).schema
    columns = []
    for schema_field in SCHEMAS[table]:
        column, dtype = schema_field.name, target[schema_field.name]
        if column in frame.columns:
            series = cast_column(frame[column], dtype, name)
            if column == "listed_at":
                series = series.fill_null(BEFORE_EVERYTHING)
            if not schema_field.nullable:
                refuse_row(
                    frame, name, column, series.is_null(), "is missing; this column must have a value in every row"
                )
            columns.append(series)
        elif schema_field.nullable:
            absent = BEFORE_EVERYTHING if column == "listed_at" else None
            columns.append(pl.Series(column, [absent], dtype=dtype).new_from_index(0, frame.height))
        else:
            hint = "moonlib data map prints which columns of a feed or a log are which, for moonlib data build --map"
            raise ValueError(f"{missing_column(frame.columns, table, column, name)}; {hint}")
    known = known_columns(table)
    own = [own_column(frame[column], table in SAMPLE_TABLES, name) for column in frame.columns if column not in known]
    cast = pl.DataFrame(columns)
    if table in SAMPLE_TABLES:
        refuse_encoded(cast, name, "image", encoded(cast["image"]))
        if IMAGES in frame.columns:
            lists = image_lists(cast["image"], frame[IMAGES], name)
            cast = cast.with_columns(image=lists.list.first())
            own = [lists, *own] if (lists.list.len() > 1).any() else own
    return cast.with_columns(own)
