"""`moonlib data build --append`: a dataset grows by days, and by new and changed products, queries and users.

Nothing that is there is rewritten. The new dataset has the shards of the old one, as hard links, and shards of its own
behind them. A row of products, queries or users that is given again supersedes the earlier one, which stays in its
shard and is read by nobody; one that is given again and equal, its pictures too, is not written. Text ids keep their
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from moonlib.artifacts.checksums import Damaged, verify_all
from moonlib.artifacts.layout import QUARANTINE
from moonlib.data.dataset import Dataset
from moonlib.data.defaults import BEFORE_EVERYTHING
from moonlib.data.ids import FAMILIES, Family, ShopIds
from moonlib.data.image_lists import IMAGES, names
from moonlib.data.numbering import more_ids, number_ids
from moonlib.data.reader import verify
from moonlib.data.sample_shards import ReadImage, as_stored, digest_of, read_images
from moonlib.data.shards import Earlier, refuse_unreadable
from moonlib.data.splits import Splits
from moonlib.data.tables import KEYS, SAMPLE_TABLES, SCHEMAS, Tables, users_of, validate
from moonlib.system.remote import is_url, without_credentials

_DAY = timedelta(days=1)
_EVENTS = ("searches", "impressions")
_CHUNK = 4096
_SPLITS = ("behaviour", "train", "valid", "test")
_ONE_PICTURE = pl.when(pl.col("image").is_not_null()).then(pl.concat_list("image")).alias(IMAGES)
"""The column of several pictures, of rows that have at most one."""


@dataclass(frozen=True)
class Growth:
    """Rows that are appended to a dataset.

    Attributes:
        tables: the rows to write, with the ids of the whole.
        earlier: what is there already, for `moonlib.data.shards.write_dataset`.
        splits: of the whole.
        said: what is new, changed and unchanged, a line each.
    """

    tables: Tables
    earlier: Earlier
    splits: Splits
    said: list[str]


@dataclass(frozen=True)
class Comparison:
    """How appended rows are compared with those that are there.

    Attributes:
        read_image: see `moonlib.data.shards.write_dataset`.
        workers: processes that read images; None chooses.
        splits: of the new dataset; None moves those of the old one on.
        rejected: file that lists the images that can't be read where these are too many.
    """

    read_image: ReadImage
    workers: int | None
    splits: Splits | None
    rejected: Path


def open_base(append: str | Path, out: str | Path) -> Dataset:
    """Open the dataset to append to, and make sure that it is whole.

    Args:
        append: its directory.
        out: where the new one goes.

    Raises:
        ValueError: it is no dataset, at a URL, of an older format, or one that can't grow; or ``out`` is in it.
        Damaged: a file of it is not as it was written.
    """
    if is_url(append):
        raise ValueError(
            f"--append {without_credentials(str(append))}: a dataset at a URL can't be appended to, because the new "
            "one links its files; copy it to this machine and append to the copy"
        )
    place = Path(append)
    if not is_url(out) and Path(out).resolve().is_relative_to(place.resolve()):
        where = "are the same directory" if Path(out).resolve() == place.resolve() else "must not lie in --append"
        raise ValueError(f"--append and --out {where}, {out}: a dataset never changes; choose another --out")
    try:
        base = Dataset(place)
    except Damaged:
        raise
    except ValueError as error:
        raise ValueError(f"--append {place}: {error}") from error
    if base.shards is None:
        raise ValueError(
            f"--append {place}: it was built before datasets listed their shards, and can't grow; build it again from "
            "its tables with this version of moonlib, and append to that"
        )
    if base.representations is not None:
        raise ValueError(
            f"--append {place}: it came with representations, and appended rows would have none; build one dataset of "
            "all its tables"
        )
    verify(place)
    if problems := verify_all(place):
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise Damaged(f"--append {place}: {problems[0]}{more}")
    return base


def refuse_lost_columns(base: Dataset, columns: Mapping[str, Sequence[str]], files: Mapping[str, str]) -> None:
    """Refuse a table without a column in which rows of the dataset have values: new rows would have none.

    Args:
        base: the dataset that is appended to.
        columns: of each table that was given, as read.
        files: what to call each table.

    Raises:
        ValueError: naming the column.
    """
    for table, header in columns.items():
        before = base.columns(table)
        there = {"image", IMAGES} if {"image", IMAGES} & set(header) else set()
        if IMAGES in before:
            there.add("image")  # which is the first of them: it is the other column that is asked for
        for column in before:
            if column not in header and column not in there and _says_something(base, table, column):
                has = ", ".join(header) or "no columns"
                raise ValueError(
                    f"{files[table]}: column {column!r} is missing (it has {has}), and {base.directory} has values in "
                    "it; add the column, or build one dataset of all tables without it"
                )


def _says_something(base: Dataset, table: str, column: str) -> bool:
    """Whether a column of a dataset holds anything but nulls and defaults."""
    values = base.table(table, [column])[column]
    if (table, column) == ("products", "spu_id"):
        return not values.equals(base.table(table, ["item_id"])["item_id"], check_names=False)
    if (table, column) == ("products", "listed_at"):
        return bool((values != BEFORE_EVERYTHING).any())
    return bool(values.count())


def first_free_search(base: Dataset) -> int:
    """The least search_id that is above all of the dataset's: where searches that are called by row numbers go on.

    Raises:
        ValueError: its search_ids are text.
    """
    if "search" in base.ids:
        raise ValueError(
            f"search_id: row numbers can't be told from those of {base.directory}, whose search_ids are text; name a "
            "column of the file in the map"
        )
    last = [base.table(table, ["search_id"])["search_id"].max() for table in _EVENTS]
    return max((each + 1 for each in last if isinstance(each, int)), default=0)


def checked_after(base: Dataset, read: Tables, given: Collection[str], files: dict[str, str]) -> Tables:
    """Validate tables as what comes after a dataset's; see `moonlib.data.tables.validate`.

    Args:
        base: the dataset that is appended to.
        read: all tables, as read.
        given: those that were given. Without users, those are made whom the events name and the dataset does not have.
        files: what to call each table.

    Returns:
        The tables, whose text ids have numbers that go on after the dataset's.

    Raises:
        ValueError: see `moonlib.data.tables.validate`; or the type of a family's ids or of a column changed, a product
            is of another SPU now, or events are of days that are there.
    """
    columns = {table: [name for name in SCHEMAS[table].names if name in FAMILIES] for table in SCHEMAS}
    frames = {table: read[table] for table in SCHEMAS}
    ids = more_ids(frames, columns, files, base.ids, _integer_families(base), str(base.directory))
    earlier = {table: base.table(table, [key])[key] for table, key in KEYS.items()}
    numbered, ids = number_ids(frames, columns, files, ids)
    if "users" not in given:
        named = users_of({table: numbered[table] for table in (*_EVENTS, "histories")}, files)
        numbered["users"] = named.filter(~pl.col("user_id").is_in(earlier["users"].implode()))
    tables = validate(_tables(numbered, ids), files, earlier)
    tables = _tables({table: _typed_as_before(base, table, tables[table], files) for table in SCHEMAS}, ids)
    _refuse_other_spus(base, tables, files)
    for table in SAMPLE_TABLES:
        _refuse_lost_pictures(base, table, tables, files[table])
    for table in _EVENTS:
        _refuse_days_again(base, table, tables, files[table])
    _refuse_histories_again(base, tables, files["histories"])
    _refuse_searches_again(base, tables, files)
    return tables


def _tables(frames: Mapping[str, pl.DataFrame], ids: ShopIds) -> Tables:
    return Tables(*(frames[table] for table in SCHEMAS), ids=ids)


def _integer_families(base: Dataset) -> set[Family]:
    """The families of which the dataset has ids, all of them int64."""
    return {
        FAMILIES[column]
        for table in base.counts
        for column in SCHEMAS[table].names
        if column in FAMILIES and FAMILIES[column] not in base.ids and base.table(table, [column])[column].count()
    }


def _typed_as_before(base: Dataset, table: str, rows: pl.DataFrame, files: Mapping[str, str]) -> pl.DataFrame:
    """Give columns of the user's own the types that they have in the dataset, where every value can be had back."""
    before = base.table(table).head(0).schema
    for column in rows.columns:
        if column in SCHEMAS[table].names or column not in before or rows.schema[column] == before[column]:
            continue
        values, dtype = rows[column], before[column]
        if dtype == pl.Null:  # the dataset has no value there
            continue
        cast = _cast_back_and_forth(values, dtype)
        if cast is None:
            raise ValueError(
                f"{files[table]}: column {column!r} is {values.dtype}, and in {base.directory} it is {dtype}; write it "
                "as there, or under another name"
            )
        rows = rows.with_columns(cast)
    return rows


def _cast_back_and_forth(values: pl.Series, dtype: pl.DataType) -> pl.Series | None:
    """A column in another type, from which every value can be had back; None where one can't."""
    try:
        cast = values.cast(dtype)
        same = cast.cast(values.dtype).eq_missing(values).all()
    except pl.exceptions.PolarsError:
        return None
    return cast if same else None


def _refuse_other_spus(base: Dataset, tables: Tables, files: Mapping[str, str]) -> None:
    before = base.table("products", ["item_id", "spu_id"])
    both = (
        tables.products.select("item_id", "spu_id").with_row_index("row").join(before, on="item_id", suffix="_before")
    )
    other = both.filter(pl.col("spu_id") != pl.col("spu_id_before")).sort("row")
    if other.height:
        row, item, spu, spu_before = other.row(0)
        item, spu, spu_before = (
            tables.ids.value(column, id) for column, id in (("item_id", item), ("spu_id", spu), ("spu_id", spu_before))
        )
        more = f" (and {other.height - 1:,} more rows)" if other.height > 1 else ""
        raise ValueError(
            f"{files['products']}: row {row + 1}, column 'spu_id': item {item} is of SPU {spu}, and of {spu_before} in "
            f"{base.directory}{more}: an id is never given to another product; give it an id of its own, or, if the "
            "SPU was wrong, build one dataset of all tables"
        )


def _refuse_lost_pictures(base: Dataset, table: str, tables: Tables, name: str) -> None:
    """Refuse a table that names one picture of a row of which the dataset has several: the others would be lost."""
    key, rows = KEYS[table], tables[table]
    if IMAGES in rows.columns or IMAGES not in base.columns(table):
        return
    before = base.table(table, [key, IMAGES]).select(key, count=pl.col(IMAGES).list.len())
    both = rows.select(key).with_row_index("row").join(before.filter(pl.col("count") > 1), on=key).sort("row")
    if both.height:
        row, id, count = both.row(0)
        more = f" (and {both.height - 1:,} more rows)" if both.height > 1 else ""
        raise ValueError(
            f"{name}: row {row + 1}: {key} {tables.ids.value(key, id)} has {count} pictures in {base.directory}, and "
            f"here the column 'image' alone{more}; name all of its pictures in a column {IMAGES!r}"
        )


def _refuse_days_again(base: Dataset, table: str, tables: Tables, name: str) -> None:
    """Refuse events that are no later than the dataset's last one."""
    rows = tables[table]
    last = base.table(table, ["ts"])["ts"].max()
    if not isinstance(last, datetime) or rows.is_empty() or rows["ts"].min() > last:  # type: ignore[operator]
        return
    early = rows.with_row_index("row").filter(pl.col("ts") <= last)
    columns = SCHEMAS[table].names
    recent = base.table(table, columns).filter(pl.col("ts") >= early["ts"].min()).unique()
    again = early.join(recent, on=columns, how="semi", nulls_equal=True)
    early = early.filter((pl.col("ts") < last) | pl.col("row").is_in(again["row"].implode()))
    if early.is_empty():
        return
    row, moment = early.select("row", "ts").row(0)
    days = early["ts"].dt.date().unique().sort()
    between = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
    raise ValueError(
        f"{name}: {early.height:,} of {rows.height:,} rows are of days that {base.directory} has already ({between}, "
        f"UTC; the first is row {row + 1}, of {moment.isoformat()}): its {table} go on until {last.isoformat()}. "
        f"{again.height:,} of these rows are in it as they are. Remove them from {name} and append later rows alone; "
        "if they came late, build one dataset of all tables"
    )


def _refuse_histories_again(base: Dataset, tables: Tables, name: str) -> None:
    if not tables.histories.height or not base.counts.get("histories"):
        return
    keys = ["user_id", "ts"]
    rows = tables.histories.select(keys).with_row_index("row")
    again = rows.join(base.table("histories", keys), on=keys, how="semi").sort("row")
    if again.height:
        row, user, ts = again.row(0)
        raise ValueError(
            f"{name}: {again.height:,} rows are of a user and a moment that {base.directory} has a history of already; "
            f"the first is row {row + 1}: user_id {tables.ids.value('user_id', user)}, {ts.isoformat()}. Remove them"
        )


def _refuse_searches_again(base: Dataset, tables: Tables, files: Mapping[str, str]) -> None:
    """Refuse a search_id of the dataset whose last event was a day or more ago: it is used a second time."""
    new = [tables[table].select("search_id", "ts").with_columns(of=pl.lit(table)) for table in _EVENTS]
    begun = pl.concat(new).group_by("search_id").agg(pl.col("ts").min(), pl.col("of").first())
    if begun.is_empty():
        return
    before = pl.concat(
        base.table(table, ["search_id", "ts"]).join(begun.select("search_id"), on="search_id", how="semi")
        for table in _EVENTS
    )
    both = begun.join(before.group_by("search_id").agg(last=pl.col("ts").max()), on="search_id").sort("search_id")
    again = both.filter(pl.col("ts") - pl.col("last") >= _DAY)
    if again.height:
        search, ts, table, last = again.row(0)
        raise ValueError(
            f"{files[table]}: search_ids that {base.directory} has already: {again.height:,}, such as "
            f"{tables.ids.value('search_id', search)}, there until {last.isoformat()} and here from {ts.isoformat()}: "
            "a search_id is of one search or page; give new ones ids of their own"
        )


def grow(base: Dataset, tables: Tables, files: Mapping[str, str], growing: Comparison) -> Growth:
    """Find what tables add to a dataset.

    Args:
        base: the dataset that is appended to.
        tables: what `checked_after` returned.
        files: what to call each.
        growing: how pictures are read, and the splits.

    Raises:
        ValueError: nothing is new, or too many pictures can't be read.
    """
    kept: dict[str, pl.DataFrame] = {}
    superseded: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
    said, changed_ids = _days(base, tables), dict[str, pl.Series]()
    for table, key in KEYS.items():
        rows = tables[table]
        places = _places(base, table, rows)
        new = places.is_null()
        changed, why = _changed(base, table, rows.filter(~new), places.drop_nulls(), growing, tables.ids)
        write = new.clone().scatter(new.not_().arg_true(), changed)  # which changes a series in place
        kept[table] = _with_lists(base, table, rows.filter(write))
        changed_ids[table] = rows.filter(write & ~new)[key]
        superseded[table] = np.union1d(base.superseded(table), _stored_rows(base, table, places.filter(write & ~new)))
        if rows.height:
            count = int(changed.sum())
            by = f" ({', '.join(f'{column}: {n:,}' for column, n in why.items())})" if count else ""
            same = len(changed) - count
            line = f"{files[table]}: {int(new.sum()):,} new, {count:,} changed{by}"
            said.append(line + (f", {same:,} as they are there, which are not written again" if same else ""))
            said += _new_columns(base, table, kept[table], files[table])
    left = _tables({table: kept.get(table, tables[table]) for table in SCHEMAS}, tables.ids)
    if not any(tables[table].height for table in SCHEMAS):
        given = [files[table] for table in SCHEMAS if files[table] != table]  # one without a file has its own name
        raise ValueError(
            f"nothing to append: {', '.join(given) or 'the tables'} {'has' if len(given) == 1 else 'have'} no rows"
        )
    if not any(left[table].height for table in SCHEMAS):
        raise ValueError(
            f"nothing to append: {base.directory} has all of these rows already, as they are; give new days or changed "
            "rows, or use that dataset"
        )
    splits, moved = (growing.splits, "") if growing.splits else moved_splits(base, tables)
    if moved:
        said.append(moved)
    if base.truth is not None:
        said.append(f"{base.directory} has the truth of a simulation, which the new dataset has not")
    earlier = Earlier(
        base.directory,
        base.shards or {},
        base.id_parts,
        dict(superseded),
        _quarantined(base, changed_ids),
    )
    return Growth(left, earlier, splits, said)


def _days(base: Dataset, tables: Tables) -> list[str]:
    events = [tables[table] for table in _EVENTS]
    days = pl.concat([frame["ts"].dt.date() for frame in events]).unique().sort()
    counts = ", ".join(f"{tables[table].height:,} {table}" for table in (*_EVENTS, "histories") if tables[table].height)
    if not len(days):
        return [f"appended to {base.directory}: no day" + (f", {counts}" if counts else "")]
    between = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return [f"appended to {base.directory}: {len(days)} {'day' if len(days) == 1 else 'days'} ({between}), {counts}"]


def _places(base: Dataset, table: str, rows: pl.DataFrame) -> pl.Series:
    """Where the dataset's table has the id of each row; null where it does not."""
    key = KEYS[table]
    there = base.table(table, [key]).with_columns(place=pl.int_range(pl.len(), dtype=pl.Int64))
    return rows.select(key).join(there, on=key, how="left", maintain_order="left")["place"]


def _stored_rows(base: Dataset, table: str, places: pl.Series) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of rows over all shards, superseded ones too, of rows of the table."""
    shards = (base.shards or {}).get(table, ())
    masks = base.live(table, [shard.rows for shard in shards])
    live = np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *masks]))
    return live[places.to_numpy()].astype(np.int64)


def _changed(
    base: Dataset, table: str, rows: pl.DataFrame, places: pl.Series, growing: Comparison, ids: ShopIds
) -> tuple[pl.Series, dict[str, int]]:
    """Which rows differ from those that are there, bool [rows], and how many rows differ in which column."""
    changed = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
    if rows.is_empty():
        return changed, {}
    before = base.table(table)[places]
    why: dict[str, int] = {}
    pictures = changed
    if table in SAMPLE_TABLES:
        rows = _with_lists(base, table, rows)
        rows, digests = _stored(table, rows, growing, ids)
        there = base.image_digests(table)
        assert there is not None, "shards that are listed have digests"
        pictures = ~_binary(digests).eq_missing(_binary(there.take(pa.array(places))))
    for column in dict.fromkeys((*before.columns, *rows.columns)):
        after, earlier = (_plain(frame, column) for frame in (rows, before))
        if column == IMAGES and column not in before.columns:
            earlier = before.select(_ONE_PICTURE).to_series()
        same_type = earlier.dtype == after.dtype
        differs = ~after.eq_missing(earlier) if same_type else after.is_not_null() | earlier.is_not_null()
        if column in ("image", IMAGES):
            pictures |= differs
        elif differs.any():
            why[column] = int(differs.sum())
            changed |= differs
    if pictures.any():
        why["pictures"] = int(pictures.sum())
    return changed | pictures, why


def _plain(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column to compare; nulls where the table does not have it."""
    if column not in frame.columns:
        return pl.repeat(None, frame.height, dtype=pl.Null, eager=True)
    return frame[column].to_physical() if column == "attributes" else frame[column]


def _stored(table: str, rows: pl.DataFrame, growing: Comparison, ids: ShopIds) -> tuple[pl.DataFrame, pa.ChunkedArray]:
    """Rows as they would be stored, without pictures that can't be read, and digests of their pictures."""
    wanted = [(table, image) for image in names(rows)]
    images = read_images(wanted, growing.read_image, growing.workers)
    bad: list[dict[str, Any]] = []
    stored, every = [], []
    for part in rows.iter_slices(_CHUNK):
        digests, kept = [], []
        for row, pictures, unread in as_stored(table, part.iter_rows(named=True), images):
            bad += [{**line, "id": ids.value(KEYS[table], line["id"])} for line in unread]
            digests.append(digest_of(pictures))
            kept.append({column: row[column] for column in ("image", "box", IMAGES) if column in row})
        schema = {column: rows.schema[column] for column in kept[0]}
        stored.append(part.with_columns(pl.DataFrame(kept, schema=schema, orient="row")))
        every.append(pa.array(digests, pa.binary(16)))
    refuse_unreadable(bad, len(wanted), growing.rejected)
    return pl.concat(stored), pa.chunked_array(every)


def _binary(digests: pa.ChunkedArray) -> pl.Series:
    found = pl.from_arrow(digests.cast(pa.binary()))
    assert isinstance(found, pl.Series)
    return found


def _with_lists(base: Dataset, table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the column of several pictures, if the dataset's have it."""
    if table not in SAMPLE_TABLES or IMAGES in rows.columns or IMAGES not in base.table(table).columns:
        return rows
    return rows.select(*SCHEMAS[table].names, _ONE_PICTURE, pl.exclude(SCHEMAS[table].names))


def _new_columns(base: Dataset, table: str, rows: pl.DataFrame, name: str) -> list[str]:
    """Say which columns have values now that had none."""
    before = base.table(table)
    return [
        f"{name}: column {column!r} is new: it is null in the rows of {base.directory}"
        for column in rows.columns
        if column != IMAGES and rows[column].count() and (column not in before.columns or not before[column].count())
        if before.height
    ]


def _quarantined(base: Dataset, changed: Mapping[str, pl.Series]) -> bytes:
    """The lines about the dataset's images that can't be read, without those of rows that are given again."""
    file = base.directory / QUARANTINE
    if not file.exists():
        return b""
    gone = {(table, base.ids.value(KEYS[table], id)) for table, ids in changed.items() for id in ids.to_list()}
    lines = file.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if (about := json.loads(line)) and (about["table"], about["id"]) not in gone)


def moved_splits(base: Dataset, tables: Tables) -> tuple[Splits, str]:
    """Move the splits of a dataset on by the days that are appended.

    Splits that are the default ones of the dataset become the default ones of the whole. Others move on by whole days,
    as many as it takes until the appended events end before the last split does.

    Args:
        base: the dataset.
        tables: what is appended.

    Returns:
        The splits, and a line that says what they are.

    Example: train days of the 21st to the 27th and seven appended days → train days of the 28th to the 3rd
    """
    before, after = _ends(base.table), _ends(lambda table, columns: tables[table].select(columns))
    whole = [pl.concat(ends) for ends in zip(before, after, strict=True)]
    listed = base.table("products", ["listed_at"])
    default = Splits.by_fractions(*before) if any(map(len, before)) else Splits.all_training(listed)
    if base.splits == default:
        more = pl.concat([listed, tables.products.select("listed_at")])
        splits = Splits.by_fractions(*whole) if any(map(len, whole)) else Splits.all_training(more)
        moved = "the default ones of all days"
    else:
        end = pl.concat(after).max()
        assert end is None or isinstance(end, datetime)
        days = 0 if end is None else max(0, (end - base.splits.test_until) // _DAY + 1)
        splits = Splits(*(moment + days * _DAY for moment in _moments(base.splits)))
        moved = f"those of {base.directory}, moved on by {days} {'day' if days == 1 else 'days'}"
    named = zip(_SPLITS, _moments(splits), strict=True)
    ends = ", ".join(f"{name} until {moment:%Y-%m-%d %H:%M}" for name, moment in named)
    return splits, f"splits (UTC): {moved}: {ends}; --splits sets others"


def _moments(splits: Splits) -> list[datetime]:
    return [splits.behaviour_until, splits.train_until, splits.valid_until, splits.test_until]


def _ends(table: Callable[[str, Sequence[str]], pl.DataFrame]) -> list[pl.Series]:
    """The first and the last time of each table of `_EVENTS`, in their order; empty for one without rows."""
    times = (table(name, ["ts"])["ts"] for name in _EVENTS)
    return [pl.Series([each.min(), each.max()], dtype=each.dtype).drop_nulls() for each in times]
