"""From a folder of tables and a folder of images to a dataset."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.splits import Splits
from moonlib.data.tables import SCHEMAS, Tables

PRODUCTS = """item_id,spu_id,title,category,attributes,price,listed_at,image,box
-9223372036854775808,1,red lamp,home/light/lamp,"{""colour"": ""red""}",9.99,2025-01-01T12:00:00Z,a.jpg,"[0, 0, 0.5, 1]"
9223372036854775807,1,红色 台灯,home/light/lamp,,,2025-01-01,b.png,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose only table is products.csv."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "products.csv").write_text(PRODUCTS, encoding="utf-8")
    return tmp_path / "tables"


@pytest.fixture
def parquet(tmp_path: Path, shop: Tables) -> Path:
    """A folder of all five tables."""
    (tmp_path / "parquet").mkdir()
    for table in SCHEMAS:
        shop[table].write_parquet(tmp_path / "parquet" / f"{table}.parquet")
    return tmp_path / "parquet"


def _products(folder: Path, old: str, new: str) -> None:
    assert old in PRODUCTS
    (folder / "products.csv").write_text(PRODUCTS.replace(old, new), encoding="utf-8")


def test_all_five_tables(parquet: Path, shop: Tables, splits: Splits, image_folder: Path, tmp_path: Path) -> None:
    assert build(parquet, image_folder, tmp_path / "out", splits=splits) == tmp_path / "out"
    dataset = Dataset(tmp_path / "out")
    assert (dataset.name, dataset.splits) == ("out", splits)
    for table in SCHEMAS:
        assert dataset.table(table).equals(shop[table])


def test_products_from_csv_alone(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset(build(folder, image_folder, tmp_path / "out"))
    assert dataset.counts == {"products": 2, "queries": 0, "users": 0, "searches": 0, "impressions": 0}
    assert dataset.products["item_id"].to_list() == [-(2**63), 2**63 - 1]
    assert dataset.products["attributes"].to_list() == [{"colour": "red"}, None]
    assert dataset.products["box"].to_list() == [[0.0, 0.0, 0.5, 1.0], None]
    assert dataset.splits.known(dataset.products).height == 2


def test_text_alone(folder: Path, tmp_path: Path) -> None:
    _products(folder, "a.jpg", "")
    (folder / "products.csv").write_text((folder / "products.csv").read_text().replace("b.png", ""))
    dataset = Dataset(build(folder, None, tmp_path / "out"))
    samples = SampleReader(dataset.directory, "products").read(dataset.products["item_id"].to_numpy())
    assert [sample.image for sample in samples] == [None, None]
    assert [sample.row["title"] for sample in samples] == ["red lamp", "红色 台灯"]


def test_images_alone(tmp_path: Path, image_folder: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "products.csv").write_text(
        "item_id,spu_id,category,listed_at,image\n1,1,x,2025-01-01,a.jpg\n"
    )
    dataset = Dataset(build(tmp_path / "tables", image_folder, tmp_path / "out"))
    assert dataset.products["title"].to_list() == [None]
    (sample,) = SampleReader(dataset.directory, "products").read(np.array([1]))
    assert sample.image == (image_folder / "a.jpg").read_bytes()


def test_missing_users_are_those_of_the_events(parquet: Path, image_folder: Path, tmp_path: Path) -> None:
    (parquet / "users.parquet").unlink()
    assert Dataset(build(parquet, image_folder, tmp_path / "out")).users["user_id"].to_list() == [5, 6]


@pytest.mark.parametrize("dtype", [pl.String, pl.UInt64, pl.Int32, pl.Int64])
@pytest.mark.parametrize("table", ["searches", "impressions"])
def test_missing_users_are_found_whatever_type_their_ids_have(
    dtype: type[pl.DataType], table: str, parquet: Path, shop: Tables, image_folder: Path, tmp_path: Path
) -> None:
    (parquet / "users.parquet").unlink()
    ids = shop[table]["user_id"].cast(dtype)
    shop[table].with_columns(user_id=ids).write_parquet(parquet / f"{table}.parquet")
    assert Dataset(build(parquet, image_folder, tmp_path / "out")).users["user_id"].to_list() == [5, 6]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["5", "five", "6"], "row 2, column 'user_id': 'five' is not an int64"),
        (["5", "6", "06"], "row 3, column 'user_id': '06' would lose its sign or leading zeros"),
        ([5.0, 6.0, 6.0], "column 'user_id': Float64 is not an int64"),
        (pl.Series([5, 6, 2**63], dtype=pl.UInt64), "row 3, column 'user_id': 9223372036854775808 is not an int64"),
        ([b"5", b"6", b"6"], "column 'user_id': Binary is not an int64"),
    ],
)
def test_users_that_no_int64_can_name_are_refused_without_a_users_table(
    ids: list[object], message: str, parquet: Path, shop: Tables, image_folder: Path, tmp_path: Path
) -> None:
    (parquet / "users.parquet").unlink()
    shop.searches.with_columns(user_id=pl.Series(ids)).write_parquet(parquet / "searches.parquet")
    _refused(f"searches.parquet: {message}", parquet, image_folder, tmp_path / "out")


def test_splits_default_to_fractions_of_the_events(
    parquet: Path, shop: Tables, image_folder: Path, tmp_path: Path
) -> None:
    dataset = Dataset(build(parquet, image_folder, tmp_path / "out"))
    assert dataset.splits == Splits.by_fractions(shop.searches["ts"], shop.impressions["ts"])


def test_searches_that_begin_after_behaviour_ends_are_told_of(
    parquet: Path, shop: Tables, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other way round, a shop with months of impressions and days of actions."""
    last = shop.impressions["ts"].max()
    shop.searches.with_columns(ts=pl.lit(last).cast(shop.searches.schema["ts"])).write_parquet(
        parquet / "searches.parquet"
    )
    build(parquet, image_folder, tmp_path / "out")
    assert "warning: the behaviour split of searches is empty" in caplog.text


def test_large_images_are_scaled_down(
    folder: Path, image_folder: Path, encode: Callable[..., bytes], tmp_path: Path
) -> None:
    (image_folder / "a.jpg").write_bytes(encode(0, size=(600, 300)))
    directory = build(folder, image_folder, tmp_path / "out", max_side=200)
    sample = SampleReader(directory, "products").read(np.array([-(2**63)]))[0]
    assert sample.image is not None
    assert Image.open(io.BytesIO(sample.image)).size == (200, 100)


def test_extra_csv_columns_are_typed(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (folder / "users.csv").write_text("user_id,age,city\n1,33,杭州\n2,,\n")
    users = Dataset(build(folder, image_folder, tmp_path / "out")).users
    assert users.to_dict(as_series=False) == {"user_id": [1, 2], "age": [33, None], "city": ["杭州", None]}


def _refused(message: str, *args: object, **options: object) -> None:
    with pytest.raises(ValueError) as error:
        build(*args, **options)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not args[2].exists()  # type: ignore[attr-defined]


def test_errors_name_the_file(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    _products(folder, "9.99", '"9,99 €"')
    message = "products.csv: row 1, column 'price': '9,99 €' is not a number"
    _refused(message, folder, image_folder, tmp_path / "out")


def test_a_duplicate_item(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    _products(folder, "9223372036854775807", "-9223372036854775808")
    message = "products.csv: row 2, column 'item_id': -9223372036854775808 appears a second time"
    _refused(message, folder, image_folder, tmp_path / "out")


def test_a_dangling_id(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (folder / "queries.csv").write_text("query_id,text\n1,lamp\n")
    (folder / "searches.csv").write_text(
        "search_id,user_id,query_id,item_id,action,ts\n1,1,1,42,order,2025-01-02T00:00:00Z\n"
    )
    message = "searches.csv: row 1, column 'item_id': 42 is the item_id of no row in products.csv"
    _refused(message, folder, image_folder, tmp_path / "out")


def test_a_missing_column(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    _products(folder, "spu_id", "spu")
    _refused("products.csv: no column 'spu_id'; did you mean 'spu'?", folder, image_folder, tmp_path / "out")
    _products(folder, "item_id", "number")
    _refused("products.csv: column 'item_id' is missing (it has number, spu", folder, image_folder, tmp_path / "out")


@pytest.mark.parametrize("near", ["product_title", " title", "Title", "titel", "item-title", "TITLE "])
def test_a_near_miss_of_a_column_is_not_taken_for_an_absent_one(
    near: str, folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    _products(folder, "spu_id,title,", f"spu_id,{near},")
    message = f"products.csv: no column 'title'; did you mean {near!r}? If so, rename it to 'title'"
    _refused(message, folder, image_folder, tmp_path / "out")


def test_a_near_miss_in_another_table_and_of_a_required_column(
    folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    (folder / "queries.csv").write_text("query_id,query_text\n1,lamp\n")
    _refused("queries.csv: no column 'text'; did you mean 'query_text'?", folder, image_folder, tmp_path / "out")
    (folder / "queries.csv").write_text("Query ID,text\n1,lamp\n")
    _refused("is missing (it has Query ID, text); did you mean 'Query ID'?", folder, image_folder, tmp_path / "out")


def test_what_each_table_holds_is_logged(
    folder: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="moonlib")
    (folder / "queries.csv").write_text("query_id,text,shop_title,size\n1,lamp,a,1\n2,,b,2\n")
    build(folder, image_folder, tmp_path / "out")
    printed = caplog.text
    counts = "2 rows, 2 with an image, 2 with a title, 1 with a price, 1 with attributes\n"
    assert f"products.csv: {counts}" in printed
    assert "queries.csv: 2 rows, 0 with an image, 1 with a text; columns of your own: shop_title, size\n" in printed


def test_text_that_says_there_is_none_is_warned_of(
    folder: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="moonlib")
    _products(folder, "red lamp", "\\N")
    build(folder, image_folder, tmp_path / "out")
    assert (
        "warning: products: column 'title': values that say that there is no text: 1, such as '\\\\N'; "
        "leave the field empty\n"
    ) in caplog.text


def test_no_products(tmp_path: Path) -> None:
    (tmp_path / "queries.csv").write_text("query_id\n1\n")
    message = "holds no products.parquet or products.csv (it has queries.csv)"
    _refused(message, tmp_path, None, tmp_path / "out")
    (tmp_path / "products.csv").write_text("item_id,spu_id,category,listed_at\n")
    _refused("products.csv: no rows; a dataset needs products", tmp_path, None, tmp_path / "out")
    _refused("nowhere is no folder", tmp_path / "nowhere", None, tmp_path / "out")


def test_a_misspelt_table_is_not_taken_for_a_missing_one(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (folder / "search.csv").write_text("")
    message = "search.csv is no table of ours; rename it to searches.csv, or move it elsewhere"
    _refused(message, folder, image_folder, tmp_path / "out")


def test_a_table_given_twice(folder: Path, parquet: Path, image_folder: Path, tmp_path: Path) -> None:
    (parquet / "products.parquet").rename(folder / "products.parquet")
    _refused("holds both products.csv and products.parquet; keep one", folder, image_folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["users.csv", "users.parquet"])
def test_a_file_that_is_no_table(folder: Path, image_folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    _refused(f"{name} can't be read", folder, image_folder, tmp_path / "out")


def test_images_without_a_folder(folder: Path, tmp_path: Path) -> None:
    message = "products.csv names 2 images, but no image folder was given (--images DIR, or https where they are URLs)"
    _refused(message, folder, None, tmp_path / "out")
    _refused("names 2 images, but", folder, tmp_path / "nowhere", tmp_path / "out")


def test_unreadable_images_stop_the_build_and_are_listed(
    folder: Path, image_folder: Path, bomb: Callable[[int, int], bytes], tmp_path: Path
) -> None:
    (image_folder / "a.jpg").write_bytes(bomb(10_000, 7_000))
    _products(folder, "b.png", "../b.png")
    _refused("2 of 2 images can't be read, and only 1% may be", folder, image_folder, tmp_path / "out")
    rejected = tmp_path / "out.quarantine.jsonl"
    lines = [json.loads(line) for line in rejected.read_text(encoding="utf-8").splitlines()]
    assert [(line["table"], line["id"], line["image"]) for line in lines] == [
        ("products", -(2**63), "a.jpg"),
        ("products", 2**63 - 1, "../b.png"),
    ]
    assert "10000 x 7000 pixels are more than the 64,000,000 allowed" in lines[0]["reason"]
    assert "the name leads out of" in lines[1]["reason"]


def test_one_unreadable_image_is_logged(
    folder: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="moonlib")
    (image_folder / "a.jpg").unlink()
    directory = build(folder, image_folder, tmp_path / "out")
    printed = " ".join(caplog.text.split())
    assert "images that can't be read: 1; their rows were kept without them" in printed
    assert "products.csv: 2 rows, 1 with an image" in printed
    entry = json.loads((directory / "quarantine.jsonl").read_text(encoding="utf-8"))
    assert "a.jpg: No such file or directory" in entry["reason"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link out", "linked folder", "circle"])
def test_what_is_no_file_of_the_folder_is_not_read(kind: str, folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (image_folder / "a.jpg").rename(tmp_path / "private/a.jpg")
    match kind:
        case "pipe":
            os.mkfifo(image_folder / "a.jpg")
        case "folder":
            (image_folder / "a.jpg").mkdir()
        case "device":
            (image_folder / "a.jpg").symlink_to("/dev/zero")
        case "link out":
            (image_folder / "a.jpg").symlink_to(tmp_path / "private/a.jpg")
        case "linked folder":
            (image_folder / "more").symlink_to(tmp_path / "private")
            _products(folder, "a.jpg", "more/a.jpg")
        case "circle":
            (image_folder / "a.jpg").symlink_to("a.jpg")
    entry = json.loads((build(folder, image_folder, tmp_path / "out") / "quarantine.jsonl").read_text())
    assert entry["id"] == -(2**63) and "a.jpg: " in entry["reason"]


def test_links_within_the_folder_are_followed(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "a.jpg").rename(image_folder / "stored.jpg")
    (image_folder / "a.jpg").symlink_to("stored.jpg")
    (tmp_path / "linked").symlink_to(image_folder)
    assert Dataset(build(folder, tmp_path / "linked", tmp_path / "out")).products["image"].count() == 2


def test_an_existing_place_is_never_overwritten(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    build(folder, image_folder, tmp_path / "out")
    with pytest.raises(FileExistsError, match="out exists; remove it or choose another place"):
        build(folder, image_folder, tmp_path / "out")


def test_histories_bring_their_users(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (folder / "histories.csv").write_text('user_id,ts,item_ids\n7,2025-01-02,"[1, -9223372036854775808]"\n')
    dataset = Dataset(build(folder, image_folder, tmp_path / "out"))
    assert dataset.counts["histories"] == 1 and dataset.users["user_id"].to_list() == [7]
    assert dataset.histories["item_ids"].to_list() == [[1, -(2**63)]]
