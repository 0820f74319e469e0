"""`moonlib.build` from frames: as the command line does from files, or with a word of what it would have lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import moonlib
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.frames import to_frame
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables

pandas = pytest.importorskip("pandas")
datasets = pytest.importorskip("datasets")


def plain(shop: Tables) -> dict[str, pl.DataFrame]:
    """The shop without pictures, and with what every library has a type for."""
    products = shop.products.drop("image", "box", "attributes")
    return {"products": products, "queries": shop.queries.drop("image", "box")} | {
        table: shop[table] for table in ("users", "searches", "impressions")
    }


def to_pandas(frame: pl.DataFrame) -> Any:
    return frame.to_pandas(use_pyarrow_extension_array=True)


KINDS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "lazy": lambda frame: frame.lazy(),
    "pandas": to_pandas,
    "arrow": lambda frame: frame.to_arrow(),
    "datasets": lambda frame: datasets.Dataset(frame.to_arrow(compat_level=pl.CompatLevel.oldest())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_make_the_dataset_that_files_make(shop: Tables, splits: Splits, tmp_path: Path, kind: str) -> None:
    (tmp_path / "tables").mkdir()
    for table, frame in plain(shop).items():
        frame.write_parquet(tmp_path / "tables" / f"{table}.parquet")
    expected = Dataset(build(tmp_path / "tables", None, tmp_path / "files", splits=splits))
    given = {table: KINDS[kind](frame) for table, frame in plain(shop).items()}
    found = Dataset(moonlib.build(**given, out=tmp_path / "frames", splits=splits))
    assert found.hash == expected.hash


def test_pictures_splits_and_paths(shop: Tables, splits: Splits, image_folder: Path, tmp_path: Path) -> None:
    shop.products.write_parquet(tmp_path / "p.parquet")
    (tmp_path / "q.csv").write_text("query_id,text\n10,lamp\n20,bowl\n30,\n")
    moments = [moment.removesuffix("+00:00") for moment in splits.to_json().values()]
    out = moonlib.build(
        tmp_path / "p.parquet",
        str(tmp_path / "q.csv"),
        searches=shop.searches,
        images=str(image_folder),
        out=str(tmp_path / "out"),
        splits=moments,
    )
    dataset = Dataset(out)
    assert dataset.splits == splits and dataset.products["image"].count() == 3
    assert dataset.users["user_id"].to_list() == [5, 6]


def test_pandas_as_it_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nullable integers, categoricals, times without zone, objects, and an index that a filter left."""
    frame = pandas.DataFrame(
        {
            "item_id": [1, 2, 2**63 - 1, 4],
            "spu_id": pandas.array([7, None, 2**62 + 1, 7], dtype="Int64"),
            "category": pandas.Categorical(["A > B", None, "A > C", "A > B"]),
            "title": ["mug", float("nan"), None, "lamp"],
            "size": pandas.Categorical([3, 4, None, 3]),
            "attributes": [{"colour": "red"}, None, {"colour": "blue", "size": "L"}, {}],
            "listed_at": pandas.to_datetime(["2025-01-01 00:00", None, "2025-01-02 10:00", "2025-01-01 00:00"]),
        }
    )
    with caplog.at_level(logging.INFO, "moonlib"):
        dataset = Dataset(moonlib.build(frame[frame["item_id"] != 4], out=tmp_path / "out"))
    products = dataset.products
    assert products["item_id"].to_list() == [1, 2, 2**63 - 1]
    assert products["spu_id"].to_list() == [7, 2, 2**62 + 1]
    assert products["category"].to_list() == ["A/B", None, "A/C"]
    assert products["title"].to_list() == ["mug", None, None]
    assert products["size"].to_list() == [3, 4, None]
    assert products["listed_at"].to_list()[1:] == [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 2, 10, tzinfo=UTC),
    ]
    assert "products: column 'listed_at': times without a zone are taken for UTC" in caplog.messages
    assert "products: rows without spu_id: 1 of 3; each of these items is its own SPU" in caplog.messages


def test_a_data_set_of_hugging_face_that_was_filtered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = datasets.Features(
        {
            "item_id": datasets.Value("int64"),
            "title": datasets.Value("string"),
            "category": datasets.ClassLabel(names=["mug", "lamp"]),
        }
    )
    rows = {"item_id": [1, 2, 3], "title": ["a", "b", "c"], "category": [0, 1, -1]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    with caplog.at_level(logging.INFO, "moonlib"):
        dataset = Dataset(moonlib.build(whole.select([2, 1]), out=tmp_path / "out"))
    assert dataset.products.select("item_id", "category").rows() == [(3, None), (2, "lamp")]
    assert "products: column 'category': class labels are read as their names, such as 'mug'" in caplog.messages
    with pytest.raises(TypeError, match=r"products: expected a datasets.Dataset, found a DatasetDict.*: train"):
        moonlib.build(datasets.DatasetDict({"train": whole}), out=tmp_path / "other")


def _products(**columns: Any) -> Any:
    return pandas.DataFrame({"item_id": [1, 2, 3], "title": ["a", "b", "c"]} | columns)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (_products(spu_id=[1, None, 3]), r"products: column 'spu_id' is float64, which pandas makes.*dtype=\"Int64\""),
        (_products(title=["a", 7, "c"]), "products: row 2, column 'title': 7 is int, and values before it are str"),
        (
            _products(title=[None, "a", b"c"]),
            "products: row 3, column 'title': b'c' is bytes, and values before it are",
        ),
        (_products(item_id=["1", " ", "3"]), "products: row 2, column 'item_id': ' ' is a blank id"),
        (_products(item_id=[1, 1, 3]), "products: row 2, column 'item_id': 1 appears a second time"),
        (_products(price=[1.0, float("inf"), 2]), "products: row 2, column 'price': inf is not finite"),
        (_products(shape=[1j, 2j, 3j]), "products: column 'shape': "),
        (_products(Title=1).rename(columns={"title": "name"}), "products: no column 'title'; did you mean 'Title'?"),
        (
            _products().set_index("item_id"),
            r"products: the index 'item_id' is no column; make it one with reset_index\(\)",
        ),
        (_products(**{"x": 1}).rename(columns={"x": "title"}), "products: column 'title' is there twice"),
        (_products().rename(columns={"title": 0}), "products: a column is called 0, which is no text; rename it"),
        (_products().drop(columns="item_id"), r"products: column 'item_id' is missing \(it has title"),
        (pl.DataFrame({"item_id": [1.0]}), "products: column 'item_id': Float64 is not an int64"),
        (pa.table([pa.array([1]), pa.array([2])], ["item_id", "item_id"]), "products: column 'item_id' is there twice"),
        (pl.DataFrame({"item_id": []}), "products: no rows; a dataset needs products"),
        ("none.csv", "none.csv can't be read: there is no such file"),
    ],
)
def test_what_would_be_lost_or_is_wrong(tmp_path: Path, frame: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moonlib.build(frame, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


_SEEN = {"user_id": ["u", "v"], "item_id": ["a", "b"], "action": "order", "ts": "2025-01-01"}


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("products", "item_id", [["a"], ["b"]], r"products: column 'item_id': List\(String\) is no id; write each as"),
        ("products", "spu_id", [["a"], ["b"]], r"products: column 'spu_id': List\(String\) is no id"),
        ("products", "merchant_id", [{"id": 1}, None], r"products: column 'merchant_id': Struct\(.*\) is no id"),
        ("products", "attributes", [["a"], ["b"]], r"products: column 'attributes': List\(String\) is not a mapping"),
        ("searches", "user_id", [["u"], ["v"]], r"searches: column 'user_id': List\(String\) is no id"),
        ("searches", "user_id", ["u", " "], "searches: row 2, column 'user_id': ' ' is a blank id"),
    ],
)
def test_a_column_of_another_type(tmp_path: Path, table: str, column: str, values: Any, message: str) -> None:
    tables = {
        "products": pl.DataFrame({"item_id": ["a", "b"]}),
        "searches": pl.DataFrame({"search_id": [1, 2], **_SEEN}),
    }
    tables[table] = tables[table].with_columns(pl.Series(column, values))
    with pytest.raises(ValueError, match=message):
        moonlib.build(**tables, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lists_of_categories(tmp_path: Path) -> None:
    items = pl.Series([["b", "gone", "a"]], dtype=pl.List(pl.Categorical))
    histories = pl.DataFrame({"user_id": [1], "ts": ["2025-01-01"], "item_ids": items})
    dataset = Dataset(moonlib.build(pl.DataFrame({"item_id": ["a", "b"]}), histories=histories, out=tmp_path / "out"))
    assert dataset.ids.decode("item_id", dataset.histories["item_ids"][0]).to_list() == ["b", "gone", "a"]


def test_floats_without_a_value_are_no_trouble(tmp_path: Path) -> None:
    nothing = _products(spu_id=[float("nan")] * 3, merchant_id=[None] * 3)
    dataset = Dataset(moonlib.build(nothing, out=tmp_path / "out"))
    assert dataset.products["spu_id"].to_list() == [1, 2, 3] and dataset.products["merchant_id"].null_count() == 3


@pytest.mark.parametrize("value", [7, [1, 2], {"item_id": [1]}, pandas.Series([1]), None])
def test_what_is_no_table(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="products: expected a frame"):
        moonlib.build(value, out=tmp_path / "out")
    with pytest.raises(TypeError, match="expected a frame"):
        to_frame(object(), "queries")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["2025-01-01"], "splits: expected four moments"),
        ("2025-01-01", "splits: expected four moments"),
        (["2025-01-01", "x", "2025-01-03", "2025-01-04"], "splits: 'x' is no moment in ISO 8601"),
        (["2025-01-02", "2025-01-01", "2025-01-03", "2025-01-04"], "train_until: .* is too early"),
    ],
)
def test_splits_that_are_none(tmp_path: Path, splits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moonlib.build(pl.DataFrame({"item_id": [1]}), out=tmp_path / "out", splits=splits)


def test_a_directory_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError, match="exists; remove it or choose another place"):
        moonlib.build(pl.DataFrame({"item_id": [1]}), out=tmp_path)
