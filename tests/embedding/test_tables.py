from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.data import table_files
from moonlib.data.content import Modalities
from moonlib.embedding.tables import TableReader

INT64 = np.iinfo(np.int64)
IDS = [3, INT64.max, -1, INT64.min, 2**53 + 1]


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """Five products in random order of their ids, read two at a time."""
    monkeypatch.setattr(table_files, "_ROWS", 2)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    titles = ['a "quoted",\nbroken title', None, "红色", "d", "e"]
    return pl.DataFrame({"item_id": IDS, "title": titles, "image": ["a.jpg", None, "b.jpg", "gone.jpg", "../x"]})


def reader(tmp_path: Path, name: str, modalities: str = "title+image", images: str | None = "photos") -> TableReader:
    folder = None if images is None else tmp_path / images
    parsed = Modalities.parse(modalities)
    return TableReader(tmp_path / name, "products", folder, parsed, tmp_path / "q.jsonl", tmp_path / "copy.arrow")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_rows_and_images_by_id_in_any_order(catalogue: pl.DataFrame, tmp_path: Path, name: str) -> None:
    catalogue.write_parquet(tmp_path / name) if name.endswith("t.parquet") else catalogue.write_csv(tmp_path / name)
    found = pickle.loads(pickle.dumps(reader(tmp_path, name)))
    assert found.ids.tolist() == IDS
    asked = [2**53 + 1, -1, INT64.min, 3, -1, INT64.max]
    samples = found.read(np.array(asked))
    assert [sample.id for sample in samples] == asked
    titles = dict(catalogue.select("item_id", "title").iter_rows())
    assert [sample.row["title"] for sample in samples] == [titles[id] for id in asked]
    assert [sample.image for sample in samples] == [None, b"b.jpg", None, b"a.jpg", b"b.jpg", None]
    reasons = found.quarantine.entries()
    assert set(reasons) == {("products", INT64.min), ("products", 2**53 + 1)}
    assert "gone.jpg" in reasons["products", INT64.min] and "leads out" in reasons["products", 2**53 + 1]
    with pytest.raises(KeyError, match="no item_id 4"):
        found.read(np.array([4]))


def test_rich_text_reads_category_and_attributes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": [1], "title": ["t"], "category": ["A/B"], "attributes": ['{"colour": "red"}']})
    frame.write_csv(tmp_path / "t.csv")
    (sample,) = reader(tmp_path, "t.csv", "rich").read(np.array([1]))
    assert sample.row["category"] == "A/B" and sample.row["attributes"] == {"colour": "red"}


def test_rows_without_category_are_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"item_id": [1, 2, 3], "title": ["t"] * 3, "category": ["A > B/C", None, "A/B"]})
    frame.write_parquet(tmp_path / "t.parquet")
    samples = reader(tmp_path, "t.parquet", "rich").read(np.array([1, 2, 3]))
    assert [sample.row["category"] for sample in samples] == ["A/B／C", None, "A/B"]
    assert "t.parquet: rows without category: 1 of 3; the run's modalities read it" in caplog.text


def test_mistakes_name_file_row_and_column(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    def refused(frame: pl.DataFrame, message: str, images: str | None = "photos") -> None:
        frame.write_parquet(tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=message):
            reader(tmp_path, "t.parquet", images=images)
        assert not (tmp_path / "copy.arrow").exists()

    refused(catalogue.with_columns(item_id=pl.lit("x")), r"t\.parquet: row 2, column 'item_id': 'x' appears a second")
    refused(catalogue.with_columns(item_id=pl.lit(" ")), r"t\.parquet: row 1, column 'item_id': ' ' is a blank id")
    broken = catalogue.with_columns(item_id=pl.Series(["1", "2", "3", "4.0", "5"]))
    refused(broken, "row 4, column 'item_id': '4.0' is not an int64")
    refused(catalogue.with_columns(item_id=pl.Series([1, 2, 3, None, 5])), "row 4, column 'item_id': .* is missing")
    refused(catalogue.with_columns(item_id=pl.col("item_id").cast(pl.Float64)), "Float64 is not an int64")
    refused(catalogue.drop("item_id"), "column 'item_id' is missing")
    refused(catalogue.rename({"item_id": "itemid"}), "column 'item_id' is missing .*; did you mean 'itemid'?")
    refused(catalogue.rename({"title": "product_title"}), "no column 'title'; did you mean 'product_title'?")
    refused(catalogue, r"names 4 images, but no image folder was given \(--images DIR\)", images=None)
    refused(catalogue.head(0), "no rows")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"t\.parquet can't be read"):
        reader(tmp_path, "t.parquet")
    with pytest.raises(ValueError, match=r"neither a \.parquet nor a \.csv"):
        reader(tmp_path, "t.xlsx")


def test_an_id_twice_is_told_with_its_row(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    catalogue.with_columns(item_id=pl.Series([5, 6, 7, 5, 8])).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="row 4, column 'item_id': 5 appears a second time"):
        reader(tmp_path, "t.parquet")


def test_a_folder_as_spark_leaves_it_is_read_in_the_order_of_its_parts(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "t.parquet"
    folder.mkdir()
    for part, rows in enumerate((catalogue.head(2), catalogue.tail(3))):
        rows.write_parquet(folder / f"part-{part:05d}.snappy.parquet")
        (folder / f".part-{part:05d}.snappy.parquet.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    assert reader(tmp_path, "t.parquet").ids.tolist() == IDS
