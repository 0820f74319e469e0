"""A dataset gives back what was written, or says why it can't."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from moonlib.artifacts.checksums import Damaged, seal
from moonlib.data.build import ImageFolder
from moonlib.data.check import check
from moonlib.data.dataset import BrokenShard, Dataset, _read_events
from moonlib.data.reader import SampleReader
from moonlib.data.sample_shards import digest_of
from moonlib.data.shards import Given, _to_arrow, write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import SCHEMAS, Tables, validate
from moonlib.representations.store import Representations
from moonlib.sources.shards import Shards
from moonlib.testing.data import forget_checksums, in_older_format


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


def test_the_description_lists_the_shards(directory: Path) -> None:
    described = json.loads((directory / "dataset.json").read_text())
    assert described["format"] == 2
    for table, listed in described["shards"].items():
        assert [shard["name"] for shard in listed] == [path.stem for path in Dataset(directory).shard_files(table)]
        assert sum(shard["rows"] for shard in listed) == described["counts"][table]
        assert all(len(shard["sha256"]) == 64 for shard in listed)
    assert [shard["rows"] for shard in described["shards"]["products"]] == [3, 1]


def test_a_shard_that_is_not_listed_is_not_read(directory: Path, shop: Tables) -> None:
    for ending in ("tar", "arrow"):
        copied = (directory / f"shards/products-000001.{ending}").read_bytes()
        (directory / f"shards/products-000002.{ending}").write_bytes(copied)
    assert Dataset(directory).products.equals(shop.products)
    assert len(SampleReader(directory, "products")) == 4


def test_digests_are_of_the_stored_pictures(directory: Path, shop: Tables) -> None:
    digests = Dataset(directory).image_digests("products")
    assert digests is not None and digests.type == pa.binary(16)
    samples = SampleReader(directory, "products").read(shop.products["item_id"].to_numpy())
    assert digests.to_pylist() == [digest_of([s.image, *s.more] if s.image else []) for s in samples]
    assert digests[3].as_py() is None and digests[0].as_py() != digests[1].as_py()


def test_a_dataset_of_an_older_format_is_read_as_it_was(directory: Path, shop: Tables) -> None:
    ids = shop.products["item_id"].to_numpy()
    samples = SampleReader(directory, "products").read(ids)
    in_older_format(directory)
    dataset = Dataset(directory)
    assert dataset.shards is None and dataset.image_digests("products") is None
    assert dataset.products.equals(shop.products) and dataset.impressions.equals(shop.impressions)
    assert SampleReader(directory, "products").read(ids) == samples
    assert check(directory).ok


def test_truth_is_there_only_for_simulations(directory: Path) -> None:
    assert Dataset(directory).truth is None
    (directory / "truth").mkdir()
    assert Dataset(directory).truth == directory / "truth"


def test_a_directory_without_dataset_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no dataset.json; build one with `moonlib data build .* `moonlib data make"):
        Dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", "\0\xff", '{"format":'])
def test_a_description_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"dataset.json (is no JSON file|holds no JSON object).*; copy the"):
        Dataset(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"format": 1, "name": "imagenet"}'])
def test_a_foreign_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset.json was not written by moonlib .* build the dataset again"):
        Dataset(tmp_path)


def test_another_format_is_refused(directory: Path) -> None:
    file = directory / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="this moonlib reads formats 1 and 2, not 99"):
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


@pytest.fixture
def built(directory: Path) -> Path:
    """The dataset as a build leaves it, with a list of checksums."""
    seal(directory)
    return directory


def flip(file: Path, place: int = 0, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= bit
    file.write_bytes(data)


def test_labels_that_a_disk_flipped_are_noticed(built: Path, shop: Tables) -> None:
    """Nothing but their checksum knows of them: the file is as valid as before."""
    assert Dataset(built).impressions.equals(shop.impressions)
    file = built / "shards/impressions-000000.tar"
    table = pl.from_arrow(_read_events(file)[0])
    with tarfile.open(file) as tar:
        (member,) = tar.getmembers()
    flipped = io.BytesIO()
    _to_arrow(table.with_columns(~pl.col("clicked")), flipped)
    assert len(flipped.getvalue()) == member.size
    data = bytearray(file.read_bytes())
    data[member.offset_data : member.offset_data + member.size] = flipped.getvalue()
    file.write_bytes(data)
    with pytest.raises(Damaged, match=r"impressions-000000.tar is damaged: .*; copy the dataset again, or remove it"):
        _ = Dataset(built).impressions
    assert Dataset(forget_checksums(built)).impressions["clicked"].to_list() == [False, True, True, False]


@pytest.mark.parametrize("name", ["dataset.json", "shards/products-000001.arrow", "shards/users-000000.tar"])
def test_any_file_is_compared_when_it_is_opened(built: Path, tmp_path: Path, name: str) -> None:
    file = built / name
    flip(file, file.stat().st_size // 2)
    for read in (lambda: Shards(built).prepare(tmp_path), lambda: [Dataset(built).table(name) for name in SCHEMAS]):
        with pytest.raises(Damaged, match=f"{name} is damaged: its SHA-256 .*; copy the dataset again"):
            read()


def test_a_dataset_older_than_checksums_is_read_as_before(built: Path, shop: Tables) -> None:
    samples = SampleReader(built, "products").read(shop.products["item_id"].to_numpy())
    forget_checksums(built)
    assert Dataset(built).products.equals(shop.products)
    assert SampleReader(built, "products").read(shop.products["item_id"].to_numpy()) == samples


def test_damaged_texts_of_an_older_dataset_are_refused(built: Path) -> None:
    """Their offsets would lead a reader astray, to the end of the process."""
    file = forget_checksums(built) / "shards/searches-000000.tar"
    data = file.read_bytes()
    flip(file, data.index(b"ordercli"), 0x80)
    with pytest.raises(BrokenShard, match=r"searches-000000.tar is broken \(.*UTF8"):
        _ = Dataset(built).searches
    file.write_bytes(data)
    flip(file, data.index(np.array([0, 5, 10, 15], "<i8").tobytes()) + 8, 0x40)
    with pytest.raises(BrokenShard, match=r"searches-000000.tar is broken .*; copy the dataset again"):
        _ = Dataset(built).searches


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


@pytest.fixture
def given(shop: Tables) -> dict[Given, Representations]:
    vectors = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int8)
    return {"products": Representations(np.array([-(2**63), 7, 2**63 - 1]), vectors)}


def test_what_a_data_set_comes_with_is_part_of_its_hash(
    shop: Tables, splits: Splits, image_folder: Path, tmp_path: Path, given: dict[Given, Representations]
) -> None:
    lists = [[1, 2], [3]], [[1], [2, 3]]
    histories = [
        validate(
            replace(shop, histories=pl.DataFrame({"user_id": [5, 6], "ts": ["2025-01-07"] * 2, "item_ids": items}))
        )
        for items in lists
    ]
    changed = given["products"].vectors.copy()
    changed[2, 1] = 7
    datasets: list[tuple[Tables, dict[Given, Representations] | None]] = [
        (shop, None),
        (shop, {}),
        (histories[0], None),
        (histories[1], None),
        (shop, given),
        (shop, {"products": Representations(given["products"].ids, changed)}),
        (shop, {"queries": given["products"]}),
    ]
    hashes = []
    for number, (tables, representations) in enumerate(datasets):
        place, images = tmp_path / str(number), ImageFolder(image_folder, 512)
        write_dataset(place, tables, images, splits, name="x", version="1", representations=representations)
        hashes.append(Dataset(place).hash)
        assert ("histories" in Dataset(place).counts) == (place / "shards/histories-000000.tar").exists()
    assert hashes[0] == hashes[1] and len(set(hashes)) == len(hashes) - 1
    assert (tmp_path / "0/dataset.json").read_bytes() == (tmp_path / "1/dataset.json").read_bytes()


def test_given_representations_come_back_and_their_loss_is_noticed(
    shop: Tables, splits: Splits, image_folder: Path, tmp_path: Path, given: dict[Given, Representations]
) -> None:
    read_image = ImageFolder(image_folder, 512)
    write_dataset(tmp_path / "d", shop, read_image, splits, name="x", version="1", representations=given)
    place = Dataset(tmp_path / "d").representations
    assert place == tmp_path / "d/representations"
    store = Representations.open(place, "products")
    assert store.vectors.dtype == np.int8 and store.gather(np.array([2**63 - 1])).tolist() == [
        (np.array([5, 6], np.float32) * np.float32(1 / 127)).tolist()
    ]
    assert Shards(tmp_path / "d").prepare(tmp_path) == tmp_path / "d" and check(tmp_path / "d").ok
    file = place / "products.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"products.npy is missing or broken \(.*\); copy the dataset again"):
        Shards(tmp_path / "d").prepare(tmp_path)
    Representations(store.ids[:2], store.vectors[:2]).save(place, "products")
    with pytest.raises(ValueError, match=r"products.npy holds 2 of 3 representations"):
        Shards(tmp_path / "d").prepare(tmp_path)
    file.unlink()
    assert "is missing or broken" in check(tmp_path / "d").problems[0]


@pytest.mark.parametrize("name", ["products.npy", "products.ids.npy"])
def test_given_representations_are_compared(
    shop: Tables, splits: Splits, image_folder: Path, tmp_path: Path, given: dict[Given, Representations], name: str
) -> None:
    read_image = ImageFolder(image_folder, 512)
    write_dataset(tmp_path / "d", shop, read_image, splits, name="x", version="1", representations=given)
    seal(tmp_path / "d")
    flip(tmp_path / "d/representations" / name, -1)
    with pytest.raises(Damaged, match=f"{name} is damaged: its SHA-256 .*; copy the dataset again"):
        Shards(tmp_path / "d").prepare(tmp_path)


def test_a_lost_shard_of_histories_is_noticed(shop: Tables, splits: Splits, image_folder: Path, tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": [5], "ts": ["2025-01-07"], "item_ids": [[1]]})
    tables = validate(replace(shop, histories=rows))
    write_dataset(tmp_path / "d", tables, ImageFolder(image_folder, 512), splits, name="x", version="1")
    assert check(tmp_path / "d").counts["histories"] == 1
    (tmp_path / "d/shards/histories-000000.tar").unlink()
    with pytest.raises(ValueError, match="0 of 1 rows of histories are there"):
        Shards(tmp_path / "d").prepare(tmp_path)


def test_a_view_has_more_queries_and_changes_nothing(directory: Path) -> None:
    dataset = Dataset(directory)
    more = pl.DataFrame({"query_id": [2**62, -5], "text": ["one", None]})
    view = dataset.with_queries(more)
    assert view.queries.schema == dataset.queries.schema
    assert view.queries.head(len(dataset.queries)).equals(dataset.queries)
    assert view.queries.tail(2).select("query_id", "text").equals(more)
    assert view.queries.tail(2)["image"].is_null().all()
    assert view.hash == dataset.hash and view.products.equals(dataset.products)
    assert Dataset(directory).queries.equals(dataset.queries)
