"""Products with several pictures: written, read, checked, and left out one by one where they can't be read."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import webdataset

from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.dataset import BrokenShard, Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.sample_shards import MORE_SIZES, OFFSETS
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate

LISTS = [["a.jpg", "x.jpg", "y.jpg"], None, ["c.jpg", "x.jpg"], None]


@pytest.fixture
def several(shop: Tables) -> Tables:
    """The shop, whose first product has three pictures and its third two, and whose first query has two photos."""
    products = shop.products.with_columns(images=pl.Series(LISTS, dtype=pl.List(pl.String)))
    photos = pl.Series([["q.jpg", "y.jpg"], None, None], dtype=pl.List(pl.String))
    return validate(
        Tables(products, shop.queries.with_columns(images=photos), shop.users, shop.searches, shop.impressions)
    )


@pytest.fixture
def pictures(encode: Callable[..., bytes]) -> dict[str, bytes]:
    names = ("a.jpg", "b.png", "c.jpg", "q.jpg", "r.jpg", "x.jpg", "y.jpg")
    return {name: encode(seed, size=(40 + seed, 30)) for seed, name in enumerate(names)}


class Reads:
    """Reads pictures of a dict; one that is not there can't be read."""

    def __init__(self, pictures: dict[str, bytes]) -> None:
        self.pictures = pictures

    def __call__(self, table: str, name: str) -> bytes:
        if name not in self.pictures:
            raise ValueError("it is gone")
        return self.pictures[name]


def write(tables: Tables, directory: Path, pictures: dict[str, bytes], splits: Splits, **options: Any) -> Dataset:
    directory.mkdir()
    write_dataset(directory, tables, Reads(pictures), splits, name="n", version="1", **{"workers": 0} | options)
    return Dataset(directory)


@pytest.fixture
def dataset(several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path) -> Dataset:
    return write(several, tmp_path / "d", pictures, splits)


def test_every_picture_is_read(dataset: Dataset, several: Tables, pictures: dict[str, bytes]) -> None:
    reader = SampleReader(dataset.directory, "products")
    assert reader.pictures.tolist() == [3, 1, 2, 0]
    for sample, names in zip(reader.read(reader.ids), several.products["images"].to_list(), strict=True):
        assert sample.row["images"] == names
        assert sample.row["image"] == (names or [None])[0]
        found = [] if sample.image is None else [sample.image, *sample.more]
        assert found == [pictures[name] for name in names or []]
    photo = SampleReader(dataset.directory, "queries").read(pl.Series([10]).to_numpy())[0]
    assert (photo.image, photo.more) == (pictures["q.jpg"], (pictures["y.jpg"],))


def test_a_view_is_the_product_with_one_of_its_pictures(dataset: Dataset, pictures: dict[str, bytes]) -> None:
    reader = SampleReader(dataset.directory, "products")
    sample = reader.read(reader.ids[:1])[0]
    main, other = sample.view(0), sample.view(2)
    assert (main.image, main.more, main.row["box"]) == (pictures["a.jpg"], (), [0.0, 0.0, 0.5, 1.0])
    assert (other.image, other.more, other.row["box"]) == (pictures["y.jpg"], (), None)
    assert sample.row["box"] == [0.0, 0.0, 0.5, 1.0] and other.row["title"] == "red lamp"


def test_the_table_has_the_lists_and_none_of_the_index(dataset: Dataset, several: Tables) -> None:
    assert dataset.products.equals(several.products)
    assert dataset.queries["images"].to_list() == [["q.jpg", "y.jpg"], None, ["r.jpg"]]


def test_webdataset_reads_the_shards(dataset: Dataset, pictures: dict[str, bytes]) -> None:
    shards = sorted(map(str, dataset.directory.glob("shards/products-*.tar")))
    found = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sorted(key for key in sample if not key.startswith("__")) for sample in found] == [
        ["1.jpg", "2.jpg", "jpg", "json"],
        ["jpg", "json"],
        ["1.jpg", "jpg", "json"],
        ["json"],
    ]
    assert [found[0][key] for key in ("jpg", "1.jpg", "2.jpg")] == [pictures[name] for name in LISTS[0] or ()]
    with tarfile.open(shards[0]) as tar:
        names = tar.getnames()
    id = SampleReader(dataset.directory, "products").ids[0]
    assert names[:4] == [f"{id}.jpg", f"{id}.1.jpg", f"{id}.2.jpg", f"{id}.json"]


def test_only_a_dataset_with_several_pictures_has_their_sizes_in_its_index(
    shop: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    single = write(shop, tmp_path / "single", pictures, splits)
    index = pa.ipc.open_file(next(single.directory.glob("shards/products-*.arrow"))).read_all()
    assert MORE_SIZES not in index.column_names


def test_lists_of_one_picture_make_the_same_dataset_to_the_bit(
    shop: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    lists = pl.Series([["a.jpg"], ["b.png"], ["c.jpg"], []], dtype=pl.List(pl.String))
    listed = validate(
        Tables(
            shop.products.drop("image").with_columns(images=lists),
            shop.queries,
            shop.users,
            shop.searches,
            shop.impressions,
        )
    )
    one, other = write(shop, tmp_path / "one", pictures, splits), write(listed, tmp_path / "other", pictures, splits)
    files = sorted(path.relative_to(one.directory) for path in one.directory.rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        assert (one.directory / file).read_bytes() == (other.directory / file).read_bytes(), file


def test_the_number_of_workers_changes_nothing_and_the_size_of_shards_no_sample(
    dataset: Dataset, several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    again = write(several, tmp_path / "again", pictures, splits, workers=2)
    for file in (path for path in dataset.directory.rglob("*") if path.is_file()):
        assert (again.directory / file.relative_to(dataset.directory)).read_bytes() == file.read_bytes()
    small = write(several, tmp_path / "small", pictures, splits, samples_per_shard=1)
    assert small.products.equals(dataset.products)
    reader = SampleReader(small.directory, "products")
    assert [len(sample.more) for sample in reader.read(reader.ids)] == [2, 0, 1, 0]


def test_another_picture_is_another_dataset(
    dataset: Dataset, several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    other = write(several, tmp_path / "other", pictures | {"y.jpg": pictures["x.jpg"]}, splits)
    assert other.hash != dataset.hash


def test_a_picture_that_cannot_be_read_leaves_the_others(
    several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    del pictures["x.jpg"]  # the second of the first product, the second of the third
    with pytest.raises(ValueError, match="2 of 9 images can't be read"):
        write(several, tmp_path / "many", pictures, splits)
    tables = Tables(several.products[:2], several.queries, several.users)
    dataset = write(tables, tmp_path / "d", pictures, splits)
    reader = SampleReader(dataset.directory, "products")
    sample = reader.read(reader.ids[:1])[0]
    assert (sample.image, sample.more) == (pictures["a.jpg"], (pictures["y.jpg"],))
    assert sample.row["images"] == ["a.jpg", "y.jpg"] == dataset.products["images"][0].to_list()
    assert sample.row["box"] is not None
    lost = json.loads((dataset.directory / "quarantine.jsonl").read_text())
    assert (lost["table"], lost["id"], lost["image"]) == ("products", sample.id, "x.jpg")


def test_the_next_picture_takes_the_place_of_a_main_one_that_cannot_be_read(
    several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    del pictures["a.jpg"]
    dataset = write(several, tmp_path / "d", pictures, splits)
    reader = SampleReader(dataset.directory, "products")
    sample = reader.read(reader.ids[:1])[0]
    assert (sample.image, sample.more) == (pictures["x.jpg"], (pictures["y.jpg"],))
    assert (sample.row["image"], sample.row["images"], sample.row["box"]) == ("x.jpg", ["x.jpg", "y.jpg"], None)
    assert dataset.products["image"][0] == "x.jpg" and dataset.products["box"][0] is None


def test_a_row_that_loses_all_pictures_has_none(
    several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    del pictures["b.png"]  # the only one of the second product
    dataset = write(several, tmp_path / "d", pictures, splits)
    assert dataset.products["images"][1] is None and dataset.products["image"][1] is None
    assert SampleReader(dataset.directory, "products").pictures.tolist() == [3, 0, 2, 0]


def test_check_counts_and_decodes_all_pictures(
    several: Tables, pictures: dict[str, bytes], splits: Splits, tmp_path: Path
) -> None:
    report = check(write(several, tmp_path / "d", pictures, splits).directory)
    assert report.images == {"products": 6, "queries": 3}
    assert "3 with an image" in report.contents["products"] and "6 images in all" in report.contents["products"]
    assert "columns of your own: shelf" in report.contents["products"]
    assert not [problem for problem in report.problems if "broken" in problem or "WebDataset" in problem]
    torn = pictures["y.jpg"][:-200]  # as no build would write it
    report = check(write(several, tmp_path / "torn", pictures | {"y.jpg": torn}, splits).directory)
    assert [problem for problem in report.problems if problem.startswith("broken products")]


def test_damage_to_any_picture_shows(dataset: Dataset, pictures: dict[str, bytes]) -> None:
    tar = dataset.directory / "shards" / "products-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(pictures["y.jpg"]) + 50] ^= 1
    tar.write_bytes(data)
    reader = SampleReader(dataset.directory, "products")
    with pytest.raises(BrokenShard, match="it is damaged: its CRC-32"):
        reader.read(reader.ids[:1])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (pa.array([[1], [], [], []], pa.list_(pa.int64())), "its offsets are of no tar that moonlib wrote"),
        (pa.array([None, [], [], []], pa.list_(pa.int64())), "not all lists"),
        (pa.array([[1.0], [], [], []], pa.list_(pa.float64())), "not of int64"),
        (pa.array([1, 2, 3, 4]), "not all lists"),
        (pa.array([[], [], [], [7]], pa.list_(pa.int64())), "its offsets are of no tar that moonlib wrote"),
    ],
)
def test_an_index_that_is_not_of_its_tar_is_refused(dataset: Dataset, sizes: pa.Array, message: str) -> None:
    path = dataset.directory / "shards" / "products-000000.arrow"
    index = pa.ipc.open_file(path.read_bytes()).read_all()
    index = index.set_column(index.column_names.index(MORE_SIZES), MORE_SIZES, sizes)
    with pa.ipc.new_file(path, index.schema) as writer:
        writer.write_table(index)
    with pytest.raises(BrokenShard, match=message):
        SampleReader(dataset.directory, "products")


def test_names_of_the_index_are_taken(shop: Tables, splits: Splits, tmp_path: Path) -> None:
    for name in (*OFFSETS, MORE_SIZES):
        with pytest.raises(ValueError, match=f"column '{name}': this name is taken"):
            write_dataset(
                tmp_path,
                Tables(shop.products.with_columns(pl.lit(1).alias(name))),
                Reads({}),
                splits,
                name="",
                version="",
            )


def test_csv_and_parquet_build_the_same(several: Tables, image_folder: Path, encode: Any, tmp_path: Path) -> None:
    for seed, name in enumerate(("x.jpg", "y.jpg")):
        (image_folder / name).write_bytes(encode(10 + seed))
    hashes = []
    for kind in ("csv", "parquet"):
        folder = tmp_path / kind
        folder.mkdir()
        products = several.products.drop("attributes", "shelf", "image")
        if kind == "parquet":
            products.write_parquet(folder / "products.parquet")
        else:
            as_json = [pl.col(column).map_elements(to_json, pl.String) for column in ("images", "box")]
            products.with_columns(as_json).write_csv(folder / "products.csv")
        build(folder, image_folder, tmp_path / f"{kind}.out", workers=0)
        hashes.append(Dataset(tmp_path / f"{kind}.out").hash)
        shutil.rmtree(folder)
    assert hashes[0] == hashes[1]


def to_json(values: pl.Series) -> str:
    return json.dumps(values.to_list())
