"""A dataset gives back what was written, or says why it can't."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from moonlib.data.build import ImageFolder
from moonlib.data.dataset import Dataset
from moonlib.data.existing import Shards
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import SCHEMAS, Tables


@pytest.fixture
def directory(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> Path:
    read_image = ImageFolder(image_folder, 512)
    write_dataset(tmp_path / "d", shop, read_image, splits, name="shop", version="7", samples_per_shard=3)
    return tmp_path / "d"


def test_tables_come_back_as_they_were(directory: Path, shop: Tables) -> None:
    dataset = Dataset(directory)
    for table in SCHEMAS:
        assert dataset.table(table).equals(shop[table])
        assert dataset.table(table).schema == shop[table].schema
        assert getattr(dataset, table).equals(shop[table])


def test_identity_and_splits(directory: Path, splits: Splits) -> None:
    dataset = Dataset(str(directory))
    assert (dataset.name, dataset.version, len(dataset.hash)) == ("shop", "7", 64)
    assert dataset.splits == splits
    assert dataset.counts == {"products": 4, "queries": 3, "users": 2, "searches": 3, "impressions": 4}
    assert "shop 7" in repr(dataset)


def test_truth_is_there_only_for_simulations(directory: Path) -> None:
    assert Dataset(directory).truth is None
    (directory / "truth").mkdir()
    assert Dataset(directory).truth == directory / "truth"


def test_a_directory_without_dataset_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no dataset.json; build one with `moonlib data build .* `moonlib data make"):
        Dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "name": "imagenet"}'])
def test_a_foreign_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset.json was not written by moonlib .* build the dataset again"):
        Dataset(tmp_path)


def test_another_format_is_refused(directory: Path) -> None:
    file = directory / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="this moonlib reads format 1, not 99"):
        Dataset(directory)


def test_a_missing_shard_is_noticed(directory: Path) -> None:
    (directory / "shards" / "products-000001.arrow").unlink()
    (directory / "shards" / "searches-000000.tar").unlink()
    with pytest.raises(ValueError, match="3 of 4 rows of products are there; shards are missing"):
        _ = Dataset(directory).products
    with pytest.raises(ValueError, match="0 of 3 rows of searches are there"):
        _ = Dataset(directory).searches


@pytest.mark.parametrize("name", ["products-000000.arrow", "searches-000000.tar"])
def test_a_broken_file_is_named(directory: Path, name: str) -> None:
    path = directory / "shards" / name
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=f"{name} is broken"):
        Dataset(directory).table(name.split("-")[0])


def test_an_unknown_table(directory: Path) -> None:
    with pytest.raises(KeyError, match="no table 'orders'; the tables are products"):
        Dataset(directory).table("orders")


def test_the_source_of_existing_shards(directory: Path, tmp_path: Path) -> None:
    assert Shards(directory).prepare(tmp_path / "cache") == directory
    with pytest.raises(ValueError, match="is no dataset"):
        Shards(tmp_path / "nowhere").prepare(tmp_path / "cache")


def test_tables_can_be_joined(directory: Path) -> None:
    dataset = Dataset(directory)
    joined = dataset.searches.join(dataset.products, on="item_id").filter(pl.col("title") == "red lamp")
    assert joined["search_id"].to_list() == [100]
