"""A dataset that grows by appending is the one that is built at once, and what is there is never changed."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moonlib
from moonlib.artifacts.checksums import Damaged
from moonlib.clicks.snapshots import HistorySnapshots
from moonlib.data import shards
from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.contact_sheet import contact_sheet
from moonlib.data.dataset import BrokenShard, Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.splits import Splits
from moonlib.data.stream import stream
from moonlib.data.tables import KEYS, SCHEMAS
from moonlib.testing.data import in_older_format
from moonlib.testing.processes import run_program

Frames = dict[str, pl.DataFrame]


def day(number: int, hour: int = 12) -> datetime:
    """A moment of January 2025; days after the 31st are of February."""
    return datetime(2025, 1, 1, hour, tzinfo=UTC) + timedelta(days=number - 1)


def searches(first: int, *days: int, item: Any = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "search_id": range(first, first + len(days)),
            "user_id": [5] * len(days),
            "query_id": [10] * len(days),
            "item_id": [item] * len(days),
            "action": ["order"] * len(days),
            "ts": [day(number) for number in days],
        }
    )


def impressions(first: int, *days: int, item: Any = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "search_id": range(first, first + len(days)),
            "user_id": [5] * len(days),
            "query_id": [10] * len(days),
            "item_id": [item] * len(days),
            "position": [0] * len(days),
            "clicked": [number % 2 == 0 for number in days],
            "ts": [day(number) for number in days],
        }
    )


def products(*rows: tuple[Any, str, float, str | None]) -> pl.DataFrame:
    """Products of (item_id, title, price, image)."""
    columns = ("item_id", "title", "price", "image")
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return frame.with_columns(spu_id=pl.col("item_id"), category=pl.lit("home/lamp"), listed_at=pl.lit(day(1)))


@pytest.fixture
def week1() -> Frames:
    return {
        "products": products((1, "lamp", 9.0, "a.jpg"), (2, "bowl", 3.0, "b.png"), (3, "cup", 2.0, None)),
        "queries": pl.DataFrame({"query_id": [10, 11], "text": ["lamp", None], "image": [None, "q.jpg"]}),
        "users": pl.DataFrame({"user_id": [5, 6], "age": [30, 40]}),
        "searches": searches(100, *range(1, 11)),
        "impressions": impressions(200, *range(1, 11)),
    }


@pytest.fixture
def week2() -> Frames:
    """A price and a picture changed, one product and one query are new, a user's age changed; seven days."""
    return {
        "products": products(
            (1, "lamp", 8.0, "a.jpg"), (2, "bowl", 3.0, "c.jpg"), (3, "cup", 2.0, None), (4, "mug", 4.0, "r.jpg")
        ),
        "queries": pl.DataFrame({"query_id": [12], "text": ["mug"], "image": [None]}),
        "users": pl.DataFrame({"user_id": [6, 7], "age": [41, 20]}),
        "searches": searches(120, *range(11, 18), item=4),
        "impressions": impressions(220, *range(11, 18), item=4),
    }


@pytest.fixture
def place(tmp_path: Path, image_folder: Path) -> Path:
    return tmp_path


def made(
    place: Path, name: str, frames: Mapping[str, pl.DataFrame], append: str | None = None, **options: Any
) -> Dataset:
    folder = place / f"tables-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for table, frame in frames.items():
        frame.write_parquet(folder / f"{table}.parquet")
    base = None if append is None else place / append
    options = {"images": place / "images", "workers": 1} | options
    images = options.pop("images")
    build(folder, images, place / name, append=base, **options)
    return Dataset(place / name)


def merged(*weeks: Frames) -> Frames:
    """The tables of several weeks as one: of a key given twice, the last row, in the place of that."""
    whole: Frames = {}
    for table in dict.fromkeys(table for week in weeks for table in week):
        frame = pl.concat([week[table] for week in weeks if table in week], how="diagonal_relaxed")
        whole[table] = frame.unique(KEYS[table], keep="last", maintain_order=True) if table in KEYS else frame
    return whole


def rows_of(dataset: Dataset, table: str) -> list[dict[str, Any]]:
    """The rows, by key where they have one, with the shop's ids."""
    frame = dataset.table(table)
    frame = dataset.ids.decoded(frame, *frame.columns)
    return sorted(frame.to_dicts(), key=lambda row: str(row[KEYS[table]] if table in KEYS else list(row.values())))


def samples_of(dataset: Dataset, table: str) -> dict[Any, tuple[Any, ...]]:
    reader, key = SampleReader(dataset.directory, table), KEYS[table]
    assert reader.ids.tolist() == dataset.table(table)[key].to_list()
    found = {}
    for sample in reader.read(reader.ids):
        row = dataset.ids.row(sample.row, SCHEMAS[table].names)
        found[row[key]] = (dict(sorted(row.items())), sample.image, sample.more)
    return found


def assert_same_content(one: Dataset, other: Dataset) -> None:
    assert one.counts == other.counts and one.splits == other.splits
    for table in one.counts:
        assert rows_of(one, table) == rows_of(other, table), table
        assert sorted(one.table(table).columns) == sorted(other.table(table).columns)
    for table in ("products", "queries"):
        assert samples_of(one, table) == samples_of(other, table)
        digests = [
            dict(
                zip(dataset.ids.decoded(dataset.table(table), KEYS[table])[KEYS[table]], found.to_pylist(), strict=True)
            )
            for dataset in (one, other)
            if (found := dataset.image_digests(table)) is not None
        ]
        assert digests[0] == digests[1]


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_appended_is_what_is_built_at_once(place: Path, week1: Frames, week2: Frames) -> None:
    made(place, "week1", week1)
    appended = made(place, "week2", week2, append="week1")
    assert_same_content(appended, made(place, "whole", merged(week1, week2)))
    report = check(appended.directory)
    assert report.ok, report.problems
    assert not [line for line in report.warnings if "no part of the dataset" in line]


def test_new_rows_stand_after_the_old_ones(place: Path, week1: Frames, week2: Frames) -> None:
    made(place, "week1", week1)
    appended = made(place, "week2", week2, append="week1")
    assert appended.products["item_id"].to_list() == [3, 1, 2, 4]
    assert appended.users.rows() == [(5, 30), (6, 41), (7, 20)]
    assert appended.superseded("products").tolist() == [0, 1]


def test_shards_are_hard_links_and_the_old_dataset_is_untouched(place: Path, week1: Frames, week2: Frames) -> None:
    old = made(place, "week1", week1)
    before = files(old.directory)
    new = made(place, "week2", week2, append="week1")
    assert files(old.directory) == before
    for table in old.counts:
        for shard, linked in zip(old.shard_files(table), new.shard_files(table), strict=False):
            assert shard.stat().st_ino == linked.stat().st_ino
    assert new.hash != old.hash and Dataset(old.directory).products.height == 3


def test_where_nothing_can_be_linked_files_are_copied_and_that_is_said(
    place: Path, week1: Frames, week2: Frames, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made(place, "week1", week1)
    linked = made(place, "week2", week2, append="week1")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(shards.os, "link", refuse)
    caplog.clear()
    copied = made(place, "copied", week2, append="week1")
    assert "7 of 7 files of" in caplog.text and "no hard links" in caplog.text
    assert copied.hash == linked.hash
    assert copied.shard_files("products")[0].stat().st_nlink == 1


def test_what_is_new_changed_and_unchanged_is_said(
    place: Path, week1: Frames, week2: Frames, caplog: pytest.LogCaptureFixture
) -> None:
    made(place, "week1", week1)
    caplog.clear()
    with caplog.at_level(logging.INFO, "moonlib"):
        made(place, "week2", week2, append="week1")
    lines = caplog.messages
    assert f"appended to {place / 'week1'}: 7 days (2025-01-11 to 2025-01-17), 7 searches, 7 impressions" in lines
    same = "1 as they are there, which are not written again"
    assert f"products.parquet: 1 new, 2 changed (price: 1, pictures: 1), {same}" in lines
    assert "queries.parquet: 1 new, 0 changed" in lines
    assert "users.parquet: 1 new, 1 changed (age: 1)" in lines
    assert any(line.startswith("splits (UTC): the default ones of all days: ") for line in lines)


def test_a_picture_of_the_same_name_that_changed_is_another(
    place: Path, week1: Frames, encode: Callable[..., bytes]
) -> None:
    old = made(place, "week1", week1)
    (place / "images/a.jpg").write_bytes(encode(99))
    new = made(place, "week2", {"products": week1["products"]}, append="week1")
    assert new.shards is not None and [shard.rows for shard in new.shards["products"]] == [3, 1]
    reader = SampleReader(new.directory, "products")
    assert reader.read(np.array([1]))[0].image == encode(99)
    assert SampleReader(old.directory, "products").read(np.array([1]))[0].image != encode(99)


def test_no_reader_sees_a_superseded_row(place: Path, week1: Frames, week2: Frames) -> None:
    made(place, "week1", week1)
    new = made(place, "week2", week2, append="week1")
    streamed = [(sample["__key__"], json.loads(sample["json"])["price"]) for sample in stream(new.directory)]
    assert streamed == [("3", 2.0), ("1", 8.0), ("2", 3.0), ("4", 4.0)]
    assert new.table("products", ["item_id"]).height == len(SampleReader(new.directory, "products")) == 4
    with pytest.raises(KeyError, match="products has no item_id 5"):
        SampleReader(new.directory, "products").read(np.array([5]))
    assert contact_sheet(new, place / "sheet.png").exists()


@pytest.mark.parametrize("change", ["flip", "cut", "gone", "another"])
def test_a_damaged_list_of_superseded_rows_is_noticed(place: Path, week1: Frames, week2: Frames, change: str) -> None:
    made(place, "week1", week1)
    new = made(place, "week2", week2, append="week1")
    file = new.directory / "superseded/products.npy"
    data = file.read_bytes()
    if change == "gone":
        file.unlink()
    elif change == "another":
        np.save(file, np.array([1, 0]))
    else:
        file.write_bytes(data[:-4] if change == "cut" else data[:-1] + b"\1")
    for read in (lambda: Dataset(new.directory).products, lambda: SampleReader(new.directory, "products")):
        with pytest.raises(ValueError, match=r"superseded.products\.npy is (damaged|missing)"):
            read()
    assert any("products.npy" in problem for problem in check(new.directory).problems)
    (new.directory / "moonlib.sha256").unlink()
    with pytest.raises(BrokenShard, match=r"superseded.products\.npy|of 4 rows of products are there"):
        _ = Dataset(new.directory).products


def test_two_weeks_in_a_row(place: Path, week1: Frames, week2: Frames) -> None:
    week3 = {
        "products": products((1, "lamp", 7.0, "a.jpg"), (4, "mug", 4.5, "r.jpg"), (9, "jug", 1.0, "b.png")),
        "searches": searches(140, *range(18, 25), item=9),
        "impressions": impressions(240, *range(18, 25), item=9),
    }
    made(place, "week1", week1)
    made(place, "week2", week2, append="week1")
    appended = made(place, "week3", week3, append="week2")
    assert_same_content(appended, made(place, "whole", merged(week1, week2, week3)))
    assert check(appended.directory).ok
    assert appended.shard_files("products")[0].stat().st_nlink == 3


def texted(frames: Frames) -> Frames:
    """The same tables with text ids of items."""
    return {
        table: frame.with_columns(
            pl.format("sku {}", pl.col(name)).alias(name) for name in ("item_id", "spu_id") if name in frame.columns
        )
        for table, frame in frames.items()
    }


def test_text_ids_keep_their_numbers(place: Path, week1: Frames, week2: Frames) -> None:
    week1, week2 = texted(week1), texted(week2)
    more = products(("A first in order", "x", 1.0, None))
    week2["products"] = pl.concat([week2["products"], more])
    old = made(place, "week1", week1)
    new = made(place, "week2", week2, append="week1")
    known = pl.Series("item_id", ["sku 1", "sku 2", "sku 3"])
    assert new.ids["item"].encode(known).to_list() == old.ids["item"].encode(known).to_list() == [0, 1, 2]
    assert new.ids["item"].encode(pl.Series(["A first in order", "sku 4"])).to_list() == [3, 4]
    assert_same_content(new, made(place, "whole", merged(week1, week2)))
    assert check(new.directory).ok
    assert (new.directory / "ids/item-000000.arrow").stat().st_nlink == 2


def test_days_alone_need_no_products_and_new_users_are_those_whom_the_events_name(place: Path, week1: Frames) -> None:
    made(place, "week1", {name: frame for name, frame in week1.items() if name != "users"})
    events = {"impressions": impressions(220, 11, 12).with_columns(user_id=pl.Series([5, 77]))}
    new = made(place, "week2", events, append="week1", images=None)
    assert new.users["user_id"].to_list() == [5, 77]
    assert new.counts["impressions"] == 12 and new.products.equals(Dataset(place / "week1").products)


def test_histories_are_appended(place: Path, week1: Frames) -> None:
    def histories(*rows: tuple[int, int, list[int]]) -> pl.DataFrame:
        moments = [(user, day(number), items) for user, number, items in rows]
        return pl.DataFrame(moments, schema=["user_id", "ts", "item_ids"], orient="row")

    made(place, "week1", week1 | {"histories": histories((5, 3, [1, 2]), (6, 3, [7]))})
    new = made(place, "week2", {"histories": histories((5, 12, [2, 3, 1]))}, append="week1")
    assert new.histories["item_ids"].to_list() == [[1, 2], [7], [2, 3, 1]]
    snapshots = HistorySnapshots(new.arrow("histories"))
    moment = np.array([int(day(13).timestamp() * 1e6)])
    places = snapshots.places(np.array([5]), moment, np.array([0]), 3)
    assert snapshots.ids[places[0]].tolist() == [1, 3, 2]
    with pytest.raises(ValueError, match=r"histories.parquet: 1 rows .* the first is row 2: user_id 6, 2025-01-03T12"):
        made(place, "week3", {"histories": histories((5, 13, [1]), (6, 3, [7]))}, append="week2")


def test_frames_of_a_program_are_appended(place: Path, week1: Frames, week2: Frames) -> None:
    made(place, "week1", week1)
    at_once = made(place, "files", week2, append="week1")
    moonlib.build(**week2, images=place / "images", out=place / "week2", append=place / "week1", workers=1)
    assert Dataset(place / "week2").hash == at_once.hash
    with pytest.raises(TypeError, match="expected a table to append"):
        moonlib.build(out=place / "none", append=place / "week1")


class TestSplits:
    """The days of training, validation and test move on."""

    def test_default_ones_are_the_default_ones_of_the_whole(self, place: Path, week1: Frames, week2: Frames) -> None:
        made(place, "week1", week1)
        assert made(place, "week2", week2, append="week1").splits == Splits.by_fractions(
            pl.Series([day(1), day(17)]), pl.Series([day(1)])
        )

    def test_others_move_on_by_whole_days(self, place: Path, week1: Frames, week2: Frames) -> None:
        made(place, "week1", week1, splits=Splits(*(day(n, 0) for n in (5, 8, 9, 11))))
        assert made(place, "week2", week2, append="week1").splits == Splits(*(day(n, 0) for n in (12, 15, 16, 18)))

    def test_given_ones_are_taken(self, place: Path, week1: Frames, week2: Frames) -> None:
        made(place, "week1", week1)
        given = Splits(*(day(n, 0) for n in (8, 12, 14, 18)))
        assert made(place, "week2", week2, append="week1", splits=given).splits == given

    def test_products_alone_move_nothing(self, place: Path, week1: Frames) -> None:
        base = made(place, "week1", week1, splits=Splits(*(day(n, 0) for n in (5, 8, 9, 11))))
        new = made(place, "week2", {"products": products((8, "x", 1.0, None))}, append="week1")
        assert new.splits == base.splits


class TestColumns:
    """Columns that come, that change their type, or that are lacking."""

    def test_a_new_column_is_null_in_the_old_rows(
        self, place: Path, week1: Frames, caplog: pytest.LogCaptureFixture
    ) -> None:
        made(place, "week1", week1)
        more = products((4, "mug", 4.0, "r.jpg")).with_columns(brand=pl.lit("moon"), region=pl.lit("north"))
        with caplog.at_level(logging.INFO, "moonlib"):
            new = made(place, "week2", {"products": more}, append="week1")
        assert new.products["brand"].to_list() == [None, None, None, "moon"]
        for column in ("brand", "region"):
            line = f"products.parquet: column {column!r} is new: it is null in the rows of {place / 'week1'}"
            assert line in caplog.messages
        assert_same_content(new, made(place, "whole", merged(week1, {"products": more})))
        rows = [json.loads(sample["json"]) for sample in stream(new.directory)]
        assert [row["brand"] for row in rows] == [None, None, None, "moon"]

    def test_several_pictures_come(self, place: Path, week1: Frames) -> None:
        more = (
            products((4, "mug", 4.0, None), (1, "lamp", 9.0, None))
            .with_columns(images=pl.Series([["r.jpg", "c.jpg"], ["a.jpg"]]))
            .drop("image")
        )
        made(place, "week1", week1)
        new = made(place, "week2", {"products": more}, append="week1")
        assert new.products["images"].to_list() == [["a.jpg"], ["b.png"], None, ["r.jpg", "c.jpg"]]
        assert [len(sample.more) for sample in SampleReader(new.directory, "products").read(np.array([4, 1]))] == [1, 0]
        assert SampleReader(new.directory, "products").read(np.array([2]))[0].row["images"] == ["b.png"]
        week3 = products((5, "jar", 4.0, "q.jpg"), (2, "bowl", 3.0, "b.png"))
        last = made(place, "week3", {"products": week3}, append="week2")
        assert last.products["images"].to_list()[-1] == ["q.jpg"] and check(last.directory).ok
        assert last.products["item_id"].to_list() == [1, 2, 3, 4, 5]

    def test_a_column_that_is_lacking(self, place: Path, week1: Frames, week2: Frames) -> None:
        made(place, "week1", week1)
        for table, column in (("products", "price"), ("products", "image"), ("users", "age")):
            without = week2 | {table: week2[table].drop(column)}
            with pytest.raises(ValueError, match=f"{table}.parquet: column '{column}' is missing .* has values in it"):
                made(place, "week2", without, append="week1")
        assert not (place / "week2").exists()

    def test_a_column_of_another_type(self, place: Path, week1: Frames, week2: Frames) -> None:
        made(place, "week1", week1)
        floats = week2 | {"users": week2["users"].with_columns(pl.col("age").cast(pl.Float64))}
        assert made(place, "week2", floats, append="week1").users["age"].to_list() == [30, 41, 20]
        words = week2 | {"users": pl.DataFrame({"user_id": [7], "age": ["young"]})}
        with pytest.raises(ValueError, match=r"users\.parquet: column 'age' is String, and in .*week1 it is Int64"):
            made(place, "words", words, append="week1")


class TestBadInput:
    """What can't be appended is refused, and nothing is written."""

    @pytest.fixture(autouse=True)
    def base(self, place: Path, week1: Frames) -> Dataset:
        return made(place, "week1", week1)

    def refused(self, place: Path, frames: Frames, message: str, **options: Any) -> None:
        before = {path.name for path in place.iterdir()} | {"tables-week2"}
        with pytest.raises(ValueError, match=message):
            made(place, "week2", frames, **{"append": "week1"} | options)
        assert {path.name for path in place.iterdir()} == before

    def test_days_that_are_there(self, place: Path, week1: Frames) -> None:
        message = (
            r"searches.parquet: 3 of 5 rows are of days that .*week1 has already \(2025-01-08 to 2025-01-10, UTC; the "
            r"first is row 1, of 2025-01-08.*\): its searches go on until 2025-01-10T12.*\. 2 of these rows are in it "
            r"as they are\. Remove them"
        )
        rows = pl.concat([searches(500, 8), week1["searches"].tail(2), searches(510, 11, 12)])
        self.refused(place, {"searches": rows}, message)
        again = pl.concat([week1["impressions"].tail(1), impressions(520, 11)])
        self.refused(place, {"impressions": again}, "1 of 2 rows are of days that .*; the first is row 1.* 1 of these")

    def test_an_event_of_the_last_moment_is_later_unless_it_is_there(self, place: Path) -> None:
        assert made(place, "week2", {"searches": searches(500, 10)}, append="week1").counts["searches"] == 11

    def test_another_spu(self, place: Path, week1: Frames) -> None:
        other = week1["products"].with_columns(spu_id=pl.Series([1, 2, 77]))
        message = "products.parquet: row 3, column 'spu_id': item 3 is of SPU 77, and of 3 in .*week1: an id is never"
        self.refused(place, {"products": other}, message)

    def test_an_id_that_became_text(self, place: Path) -> None:
        frames = {"products": products(("A7", "x", 1.0, None))}
        message = "'A7' is not an int64, and the item ids of .*week1 are int64"
        self.refused(place, frames, message)

    def test_one_picture_of_several(self, place: Path, week1: Frames) -> None:
        several = pl.Series([["a.jpg"], ["b.png", "c.jpg"], None])
        made(place, "several", week1 | {"products": week1["products"].with_columns(images=several).drop("image")})
        again = products((4, "mug", 4.0, "r.jpg"), (1, "lamp", 9.0, "q.jpg"), (2, "bowl", 3.0, "b.png"))
        message = "row 3: item_id 2 has 2 pictures in .*several, and here the column .image. alone; name all"
        self.refused(place, {"products": again}, message, append="several")
        self.refused(place, {"products": again.drop("image")}, "column 'images' is missing", append="several")
        new = made(place, "week2", {"products": again.head(2)}, append="several")
        assert new.products["images"].to_list() == [["b.png", "c.jpg"], None, ["r.jpg"], ["q.jpg"]]

    def test_an_id_that_became_an_integer(self, place: Path, week1: Frames) -> None:
        made(place, "texts", texted(week1))
        message = "column 'item_id' is Int64, and the item ids of .*texts are text"
        self.refused(place, {"products": products((7, "x", 1.0, None))}, message, append="texts")

    def test_a_search_id_that_is_used_again(self, place: Path) -> None:
        message = "searches.parquet: search_ids that .*week1 has already: 1, such as 100, there until 2025-01-01"
        self.refused(place, {"searches": searches(100, 11)}, message)

    def test_an_item_that_nobody_knows(self, place: Path) -> None:
        self.refused(place, {"searches": searches(500, 11, item=99)}, "99 is the item_id of no row in products")

    def test_nothing_new(self, place: Path, week1: Frames) -> None:
        again = {table: week1[table] for table in ("products", "queries", "users")}
        self.refused(place, again, "nothing to append: .*week1 has all of these rows already")
        empty = week1["searches"].clear()
        self.refused(place, {"searches": empty}, r"nothing to append: searches\.parquet has no rows")
        nothing = {"searches": empty, "products": week1["products"].clear()}
        self.refused(place, nothing, r"products\.parquet, searches\.parquet have no rows")

    def test_no_table(self, place: Path) -> None:
        self.refused(place, {}, "holds no table to append, such as searches.parquet")

    def test_no_folder(self, place: Path) -> None:
        with pytest.raises(ValueError, match="nosuch is no folder; expected one that holds a table to append, such as"):
            build(place / "nosuch", None, place / "out", append=place / "week1")

    def test_no_dataset(self, place: Path, week2: Frames) -> None:
        self.refused(place, week2, "--append .*images: .*is no dataset: it has no dataset.json", append="images")

    def test_a_url(self, place: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--append s3://shop/week1: a dataset at a URL can't be appended to"):
            build(tmp_path, None, tmp_path / "out", append="s3://shop/week1")

    def test_itself(self, place: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--append and --out are the same directory"):
            build(tmp_path, None, place / "week1", append=place / "week1")
        with pytest.raises(ValueError, match="--append and --out must not lie in --append"):
            build(tmp_path, None, place / "week1/week2", append=place / "week1")

    @pytest.mark.parametrize("name", ["shards/products-000000.tar", "shards/impressions-000000.tar", "dataset.json"])
    def test_a_damaged_dataset(self, place: Path, week2: Frames, name: str) -> None:
        file = place / "week1" / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(Damaged, match=f"{name} is damaged"):
            made(place, "week2", week2, append="week1")
        assert not (place / "week2").exists()

    def test_an_older_format(self, place: Path, week2: Frames) -> None:
        in_older_format(place / "week1")
        self.refused(place, week2, "was built before datasets listed their shards, and can't grow; build it again")

    def test_too_many_pictures_that_can_not_be_read(self, place: Path, week1: Frames) -> None:
        for name in ("a.jpg", "b.png"):
            (place / "images" / name).write_bytes(b"no picture")
        message = r"2 of 2 images can't be read, .* all are listed in .*week2\.quarantine\.jsonl"
        with pytest.raises(ValueError, match=message):
            made(place, "week2", {"products": week1["products"]}, append="week1")
        assert not (place / "week2").exists() and not (place / "week2.partial").exists()
        listed = (place / "week2.quarantine.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in listed] == [1, 2]


def test_pictures_that_can_not_be_read_are_listed_for_the_rows_that_are_left(place: Path, week1: Frames) -> None:
    (place / "images/b.png").write_bytes(b"no picture")
    made(place, "week1", week1)
    more = products((2, "bowl", 3.0, "c.jpg"), (4, "mug", 4.0, "lost.jpg"))
    new = made(place, "week2", {"products": more}, append="week1")
    listed = [json.loads(line) for line in (new.directory / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["id"], line["image"]) for line in listed] == [(4, "lost.jpg")]
    assert new.products.select("item_id", "image").rows() == [(1, "a.jpg"), (3, None), (2, "c.jpg"), (4, None)]


def test_searches_called_by_row_numbers_go_on_after_those_that_are_there(place: Path) -> None:
    maps = """
products: {file: feed.csv, columns: {item_id: id, title: title}}
searches:
  file: orders.csv
  columns: {search_id: {row_number: true}, user_id: user, item_id: id, action: {constant: order}, ts: at}
"""
    folder = place / "shop"
    folder.mkdir()
    (folder / "map.yaml").write_text(maps)
    (folder / "feed.csv").write_text("id,title\nA1,lamp\nB2,bowl\n")
    (folder / "orders.csv").write_text("user,id,at\nu1,A1,2025-01-01\nu2,B2,2025-01-02\n")
    build(folder, None, place / "first", map=folder / "map.yaml")
    (folder / "orders.csv").write_text("user,id,at\nu1,C3,2025-01-05\nu3,A1,2025-01-06\n")
    (folder / "feed.csv").write_text("id,title\nA1,lamp\nC3,cup\n")
    build(folder, None, place / "second", map=folder / "map.yaml", append=place / "first")
    new = Dataset(place / "second")
    assert new.searches["search_id"].to_list() == [0, 1, 2, 3]
    assert new.ids.decode("item_id", new.searches["item_id"]).to_list() == ["A1", "B2", "C3", "A1"]
    assert new.ids.decode("user_id", new.users["user_id"]).to_list() == ["u1", "u2", "u3"]


KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from moonlib.data import shards
from moonlib.data.build import build

place, module, name, calls = Path(sys.argv[1]), import_module(sys.argv[2]), sys.argv[3], int(sys.argv[4])
shards.write_dataset.__kwdefaults__["samples_per_shard"] = 1
real = getattr(module, name)

def until_killed(*arguments, **options):
    global calls
    found = real(*arguments, **options)
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(module, name, until_killed)
build(place / "tables-week2", place / "images", place / "week2", append=place / "week1", workers=1)
"""

MOMENTS = [
    ("moonlib.data.shards", "_link", 1),
    ("moonlib.data.sample_shards", "write_json", 2),
    ("moonlib.data.shards", "write_text", 1),
    ("moonlib.artifacts.directories", "seal", 1),
]
"""When the build is killed: module, function, and after how many calls of it."""


def test_an_append_that_is_killed_goes_on_to_the_same_bytes(
    place: Path, week1: Frames, week2: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shards.write_dataset.__kwdefaults__, "samples_per_shard", 1)
    old = made(place, "week1", week1)
    before = files(old.directory)
    unbroken = files(made(place, "week2", week2, append="week1").directory)
    for moment in MOMENTS:
        shutil.rmtree(place / "week2")
        killed = run_program(["-c", KILLED, place, *map(str, moment)])
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        assert not (place / "week2").exists() and (place / "week2.partial").exists()
        assert files(made(place, "week2", week2, append="week1").directory) == unbroken, moment
        assert not (place / "week2.partial").exists()
    assert files(old.directory) == before


ROW = st.fixed_dictionaries(
    {
        "title": st.sampled_from(["x", "y", None]),
        "price": st.sampled_from([1.0, 2.0, None]),
        "image": st.sampled_from(["a.jpg", "b.png", "c.jpg", None]),
        "own": st.sampled_from([1, 2, None]),
    }
)
WEEK = st.tuples(
    st.dictionaries(st.integers(0, 6), ROW, max_size=5), st.lists(st.integers(0, 6), max_size=3), st.booleans()
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.dictionaries(st.integers(0, 6), ROW, min_size=1, max_size=5),
    weeks=st.lists(WEEK, min_size=1, max_size=2),
    text=st.booleans(),
)
def test_any_weeks_appended_are_what_is_built_at_once(
    first: dict[int, Any], weeks: list[Any], text: bool, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("weeks")
    (place / "images").symlink_to(image_folder)
    schema = {"item_id": pl.Int64, "title": pl.String, "price": pl.Float64, "image": pl.String, "own": pl.Int64}
    known, frames = set[int](), list[Frames]()
    for number, (rows, items, asked) in enumerate([(first, [], True), *weeks]):
        known |= set(rows)
        listed = pl.DataFrame([{"item_id": id} | row for id, row in rows.items()], schema=schema)
        bought = [item for item in items if item in known]
        frame: Frames = {
            "products": listed.with_columns(spu_id=pl.col("item_id"), category=pl.lit("c"), listed_at=pl.lit(day(1)))
        }
        if asked:
            frame["queries"] = pl.DataFrame({"query_id": [10], "text": [f"in week {number // 2}"]})
        if bought:
            parts = [searches(100 * number + i, 10 * number + i + 1, item=item) for i, item in enumerate(bought)]
            frame["searches"] = pl.concat(parts)
        frames.append(texted(frame) if text else frame)
    name, used = "week0", [frames[0]]
    made(place, name, frames[0])
    for number, frame in enumerate(frames[1:], 1):
        try:
            made(place, f"week{number}", frame, append=name)
        except ValueError as error:
            assert "nothing to append" in str(error)
            assert not (place / f"week{number}").exists()
            continue
        name = f"week{number}"
        used.append(frame)
    whole = made(place, "whole", merged(*used))
    assert_same_content(Dataset(place / name), whole)
