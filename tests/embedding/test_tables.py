from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.data import table_files
from moonlib.data.content import Modalities
from moonlib.embedding.embed import Views
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


def reader(
    tmp_path: Path, name: str, modalities: str = "title+image", images: str | None = "photos", views: Views = "main"
) -> TableReader:
    folder = None if images is None else tmp_path / images
    parsed = Modalities.parse(modalities)
    quarantine, copy = tmp_path / "q.jsonl", tmp_path / "copy.arrow"
    return TableReader(tmp_path / name, "products", folder, parsed, quarantine, copy, views)


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
    refused(catalogue, r"names 4 images, but no image folder was given \(--images DIR, or https", images=None)
    refused(catalogue.head(0), "no rows")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"t\.parquet can't be read"):
        reader(tmp_path, "t.parquet")
    with pytest.raises(ValueError, match=r"neither a \.parquet nor a \.csv"):
        reader(tmp_path, "t.xlsx")


@pytest.mark.parametrize("kind", [pl.String, pl.Categorical])
@pytest.mark.parametrize("last", ["5", "A-5"])
def test_ids_are_text_where_one_is_no_int64(
    catalogue: pl.DataFrame, tmp_path: Path, kind: type[pl.DataType], last: str
) -> None:
    ids = ["10", "9", "7", "8", last]
    catalogue.with_columns(item_id=pl.Series(ids, dtype=kind)).write_parquet(tmp_path / "t.parquet")
    found = reader(tmp_path, "t.parquet", "title")
    assert ("item" in found.shop_ids) == (last == "A-5")
    assert found.shop_ids.decode("item_id", found.ids).cast(pl.String).to_list() == ids
    titles = [sample.row["title"] for sample in found.read(found.ids)]
    assert titles == catalogue["title"].to_list()


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


def test_images_of_a_row_with_several(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    """Of the main one alone the next that can be opened takes the place, without the box."""
    (tmp_path / "photos" / "c.jpg").write_bytes(b"c.jpg")
    lists = [["a.jpg", "c.jpg"], None, ["gone.jpg", "b.jpg", "c.jpg"], [], ["gone.jpg"]]
    box = [[0.0, 0.0, 0.5, 0.5]] * 5
    frame = catalogue.drop("image").with_columns(images=pl.Series(lists, dtype=pl.List(pl.String)), box=pl.Series(box))
    frame.write_parquet(tmp_path / "t.parquet")
    main, every = reader(tmp_path, "t.parquet"), reader(tmp_path, "t.parquet", views="mean")
    expected = {3: [b"a.jpg", b"c.jpg"], -1: [b"b.jpg", b"c.jpg"], INT64.max: [], INT64.min: [], 2**53 + 1: []}
    for sample, whole in zip(main.read(np.array(IDS)), every.read(np.array(IDS)), strict=True):
        assert [sample.image, *sample.more] == (expected[sample.id][:1] or [None])
        assert [whole.image, *whole.more] == (expected[sample.id] or [None])
        assert (sample.row["box"] is None) == (whole.row["box"] is None) == (sample.id == -1)
    assert {id for _, id in main.quarantine.entries()} == {-1, 2**53 + 1}


@pytest.mark.parametrize("images", ["photos", None])
def test_images_in_the_table_itself(catalogue: pl.DataFrame, tmp_path: Path, images: str | None) -> None:
    """They are moved to a file beside the copy, in rows of whatever size, and need no folder."""
    struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    values = [[b"1", b"2"], None, [b"3"], [b"4", b"1"], []]
    lists = pl.Series([v and [{"bytes": b, "path": "x"} for b in v] for v in values], dtype=pl.List(struct))
    catalogue.drop("image").with_columns(images=lists).write_parquet(tmp_path / "t.parquet")
    found = pickle.loads(pickle.dumps(reader(tmp_path, "t.parquet", images=images, views="mean")))
    assert [[s.image, *s.more] for s in found.read(np.array(IDS))] == [v or [None] for v in values]
    single = pl.Series([v and v[0] for v in [*values[:4], None]], dtype=pl.Binary)
    catalogue.with_columns(image=single).write_parquet(tmp_path / "t.parquet")
    assert [s.image for s in reader(tmp_path, "t.parquet", images=images).read(np.array(IDS))] == single.to_list()
    assert (tmp_path / "copy.pictures").exists()


def test_images_in_tars(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos" / "00000.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg"):
            tar.add(tmp_path / "photos" / name, f"k{name}")
    keys = ["ka", "00000.tar/kb.jpg", "a.jpg", None, "kc"]
    catalogue.with_columns(image=pl.Series(keys)).write_parquet(tmp_path / "t.parquet")
    found = reader(tmp_path, "t.parquet")
    assert [s.image for s in found.read(np.array(IDS))] == [b"a.jpg", b"b.jpg", b"a.jpg", None, None]
    assert {id for _, id in found.quarantine.entries()} == {IDS[4]}


def test_a_mistake_in_a_list_names_file_row_and_column(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    frame = catalogue.drop("image").with_columns(images=pl.Series([["a"], ["b"], ["c"], ["d", "d"], ["e"]]))
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: row 4, column 'images': .* names a picture twice"):
        reader(tmp_path, "t.parquet")
    frame.with_columns(images=pl.lit("a.jpg")).write_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t\.csv: row 1, column 'images': 'a\.jpg' is not a list of image names"):
        reader(tmp_path, "t.csv")
    frame.with_columns(images=pl.lit('["a.jpg"]')).write_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"names 5 images, but no image folder was given"):
        reader(tmp_path, "t.csv", images=None)
    assert reader(tmp_path, "t.csv", "title", images=None).read(np.array([3]))[0].image is None
