"""TAOBAO-MM becomes a dataset in which everything is where the published files say, whichever layout they have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from moonlib.clicks.snapshots import HistorySnapshots
from moonlib.data.dataset import Dataset
from moonlib.representations.store import Representations
from moonlib.sources.taobao_mm.files import Files
from moonlib.sources.taobao_mm.source import TaobaoMM
from moonlib.testing import check_source

from .conftest import HIGH, LOW, Published, publish, rows_by

EVERYBODY = {"users": 1.0, "valid": 0.1}


@pytest.fixture(scope="module")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(TaobaoMM(raw, **EVERYBODY).prepare(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return publish().tables


def test_it_keeps_the_promises_of_a_source(raw: Path) -> None:
    check_source(lambda: TaobaoMM(raw, users=1.0, history=5))


def test_both_layouts_are_the_same_dataset(published: Published, dataset: Dataset, tmp_path: Path) -> None:
    joined = published.joined(tmp_path / "mm")
    assert Files.find(joined).layout == "joined"
    assert Dataset(TaobaoMM(joined, **EVERYBODY).prepare(tmp_path)).hash == dataset.hash
    both = published.raw(joined)
    assert Files.find(both).layout == "raw"
    assert Dataset(TaobaoMM(both, layout="joined", **EVERYBODY).prepare(tmp_path / "2")).hash == dataset.hash


def test_every_impression_is_there_with_its_label(dataset: Dataset, tables: dict[str, Any]) -> None:
    found = dataset.impressions
    day = dataset.splits.valid_until
    for period, part in (("train", found.filter(pl.col("ts") < day)), ("test", found.filter(pl.col("ts") >= day))):
        samples = tables[f"{period}_samples"]
        expected = zip(samples["129_1"], samples["205"], (label == [0, 1] for label in samples["label_0"]), strict=True)
        assert sorted(part.select("user_id", "item_id", "clicked").rows()) == sorted(expected)
    assert found["search_id"].to_list() == list(range(len(found)))


def test_validation_is_of_users_who_are_not_trained_on(dataset: Dataset) -> None:
    split = {name: dataset.splits.select(dataset.impressions, name) for name in ("train", "valid", "test")}
    users = {name: set(part["user_id"]) for name, part in split.items()}
    assert 4 <= len(users["valid"]) <= 20 and not users["valid"] & users["train"]
    assert users["valid"] & users["test"]


def test_histories_are_those_of_the_period_in_the_published_order(dataset: Dataset, tables: dict[str, Any]) -> None:
    snapshots = HistorySnapshots(dataset.arrow("histories"))
    for name, period in (("train", "train"), ("valid", "train"), ("test", "test")):
        part = dataset.splits.select(dataset.impressions, name)  # type: ignore[arg-type]
        columns = part["user_id"].to_numpy(), part["ts"].to_physical().to_numpy(), part["search_id"].to_numpy()
        places = snapshots.places(*columns, 1000)
        published = rows_by(tables[f"{period}_user_features"], "129_1")
        for user, row in zip(part["user_id"], places, strict=True):
            assert snapshots.ids[row[row >= 0]].tolist()[::-1] == published[user]["150_2_180"]


def test_only_the_latest_behaviours_are_kept(raw: Path, tables: dict[str, Any], tmp_path: Path) -> None:
    dataset = Dataset(TaobaoMM(raw, history=7, **EVERYBODY).prepare(tmp_path))
    published = rows_by(tables["train_user_features"], "129_1")
    first = dataset.histories.filter(pl.col("ts") == dataset.splits.behaviour_until)
    assert {user: items for user, _, items in first.rows()} == {
        user: row["150_2_180"][-7:] for user, row in published.items()
    }


def test_vectors_are_the_published_bytes_of_targets_and_behaviours(dataset: Dataset, tables: dict[str, Any]) -> None:
    assert dataset.representations is not None
    store = Representations.open(dataset.representations, "products")
    published = rows_by(tables["scl_embedding_int8_p90"], "205")
    named = {*dataset.products["item_id"], *dataset.histories["item_ids"].explode().drop_nulls()}
    assert store.vectors.dtype == np.int8
    assert set(store.ids.tolist()) == named & set(published)
    assert all(
        published[item]["205_c"] == vector.tolist() for item, vector in zip(store.ids, store.vectors, strict=True)
    )
    assert {LOW, HIGH} <= set(store.ids.tolist())
    np.testing.assert_allclose(store.gather(np.array([LOW]))[0], np.array(published[LOW]["205_c"]) / 127, rtol=1e-6)


def test_products_and_users_have_what_is_known_of_them(dataset: Dataset, tables: dict[str, Any]) -> None:
    items = rows_by(tables["item_features"], "205")
    shown = {*tables["train_samples"]["205"], *tables["test_samples"]["205"]}
    assert set(dataset.products["item_id"]) == shown
    for item, category, a, b in dataset.products.select("item_id", "category", "213", "214").rows():
        assert (int(category), a, b) == (items[item]["206"], items[item]["213"], items[item]["214"])
    people = rows_by(tables["test_user_features"], "129_1") | rows_by(tables["train_user_features"], "129_1")
    assert dataset.users["user_id"].to_list() == sorted(people)
    for user, *features in dataset.users.rows():
        assert features == [people[user][f"130_{i}"] for i in range(1, 6)]


def test_new_is_what_no_training_impression_shows(dataset: Dataset) -> None:
    trained = set(dataset.splits.select(dataset.impressions, "train")["item_id"])
    known = set(dataset.splits.known(dataset.products)["item_id"])
    assert known == trained and len(dataset.products) > len(known)


def test_a_larger_share_of_users_holds_a_smaller_one(raw: Path, tmp_path: Path) -> None:
    shares = (0.3, 0.6, 1.0)
    users = [set(Dataset(TaobaoMM(raw, users=share, valid=0.2).prepare(tmp_path)).users["user_id"]) for share in shares]
    assert users[0] < users[1] < users[2] and len(users[2]) == 120
    assert 20 <= len(users[0]) <= 55


def test_files_that_change_are_another_dataset(published: Published, tmp_path: Path) -> None:
    source = TaobaoMM(published.raw(tmp_path / "mm"), **EVERYBODY)
    first = source.prepare(tmp_path)
    assert source.prepare(tmp_path) == first
    published.tables["train_samples"] = {name: rows[:-50] for name, rows in published.tables["train_samples"].items()}
    published.raw(tmp_path / "mm")
    assert source.prepare(tmp_path) != first


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"users": 0.0}, "users 0.0 is no share"),
        ({"users": 1.5}, "users 1.5 is no share"),
        ({"valid": 1.0}, "valid 1.0 is no share"),
        ({"history": 0}, "keep at least 1"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TaobaoMM(**arguments)


def test_a_share_without_users(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the train users is among the share of 1e-09; raise users"):
        TaobaoMM(raw, users=1e-9).prepare(tmp_path)
    with pytest.raises(ValueError, match=r"none of 100 training users is in the valid split; raise users or valid"):
        TaobaoMM(raw, users=1.0, valid=1e-9).prepare(tmp_path)


def test_no_directory_says_where_the_data_set_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is no directory: put TAOBAO-MM there \(huggingface.co/"):
        TaobaoMM(tmp_path / "nowhere").prepare(tmp_path)


@pytest.mark.parametrize("name", ["item_features", "test_samples", "train_user_features", "scl_embedding_int8_p90"])
def test_a_missing_file_is_named(published: Published, tmp_path: Path, name: str) -> None:
    published.raw(tmp_path)
    (tmp_path / "raw" / f"{name}.parquet").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{name}.parquet is missing: the raw layout of TAOBAO-MM has .*found: "
    ):
        TaobaoMM(tmp_path).prepare(tmp_path / "cache")


def test_missing_shards_are_named(published: Published, tmp_path: Path) -> None:
    published.joined(tmp_path)
    for shard in (tmp_path / "test").iterdir():
        shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"test-shard-000000.parquet is missing: the joined layout"):
        TaobaoMM(tmp_path).prepare(tmp_path / "cache")


def test_a_file_that_is_cut_off_is_named(published: Published, tmp_path: Path) -> None:
    file = published.raw(tmp_path) / "raw/item_features.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"item_features.parquet can't be read \(.*\): download it again"):
        TaobaoMM(tmp_path, **EVERYBODY).prepare(tmp_path / "cache")


def _drop(table: str, column: str) -> Callable[[Published], None]:
    return lambda p: p.tables[table].pop(column) and None


def _retype(table: str, column: str, kind: pa.DataType) -> Callable[[Published], None]:
    def spoil(p: Published) -> None:
        p.schemas[table][column] = kind

    return spoil


def _put(table: str, column: str, row: int, value: Any) -> Callable[[Published], None]:
    def spoil(p: Published) -> None:
        p.tables[table][column][row] = value

    return spoil


def _again(table: str, **changes: Any) -> Callable[[Published], None]:
    """Repeat the first row, with changes."""

    def spoil(p: Published) -> None:
        for name, rows in p.tables[table].items():
            rows.append(changes.get(name.replace("_", ""), rows[0]))

    return spoil


@pytest.mark.parametrize(
    "spoil, told",
    [
        (_drop("train_samples", "205"), r"train_samples.parquet: column '205' is missing; expected int64 \(it has"),
        (_drop("test_user_features", "151_2_180"), r"test_user_features.*'151_2_180' is missing; expected list<int64>"),
        (_retype("samples", "129_1", pa.float64()), r"train_samples.*column '129_1' is double; expected int64"),
        (_retype("user_features", "150_2_180", pa.list_(pa.float64())), r"'150_2_180' is list<double>; expected list"),
        (
            _retype("scl_embedding_int8_p90", "205_c", pa.list_(pa.int16())),
            r"'205_c' is list<int16>; expected list<int8>",
        ),
        (
            _put("train_samples", "label_0", 40, [1, 1]),
            r"train_samples.*row 41, column 'label_0': \[1, 1\] is not \[1, 0\]",
        ),
        (_put("test_samples", "label_0", 3, [0, 2]), r"row 4, column 'label_0': \[0, 2\] is not"),
        (_put("test_samples", "label_0", 3, [2, -1]), r"row 4, column 'label_0': \[2, -1\] is not"),
        (_put("test_samples", "label_0", 3, [1]), r"row 4, column 'label_0': \[1\] is not"),
        (_put("item_features", "206", 3, None), r"item_features.*column '206' has missing values in rows 1 to 60"),
        (_put("train_user_features", "150_2_180", 9, [1, None]), r"column '150_2_180' has missing values"),
        (
            _put("train_user_features", "129_1", 0, 5),
            rf"train_samples.*'129_1': {LOW} is the user of no row in train_user",
        ),
        (
            _put("item_features", "205", 59, 5),
            rf"item_features.*column '205': {LOW} of the samples is the item of no row",
        ),
        (
            _again("train_user_features", **{"1305": 99}),
            rf"row 101, column '129_1': {LOW} appears a second time, with other",
        ),
        (_again("item_features", **{"206": 99}), r"column '205': item -?\d+ appears with different values"),
        (_again("scl_embedding_int8_p90"), r"scl_embedding.*column '205': -?\d+ appears a second time"),
        (
            _put("scl_embedding_int8_p90", "205_c", 8, [1, 2]),
            r"row 9, column '205_c': \[1, 2\] does not have 128 values",
        ),
    ],
)
def test_what_is_not_as_published_is_named(
    published: Published, tmp_path: Path, spoil: Callable[[Published], None], told: str
) -> None:
    spoil(published)
    with pytest.raises(ValueError, match=told):
        TaobaoMM(published.raw(tmp_path), **EVERYBODY).prepare(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if re.search(r"[0-9a-f]{12}$", path.name)]


def test_rows_that_are_joined_to_two_histories_of_one_user_are_refused(published: Published, tmp_path: Path) -> None:
    published.joined(tmp_path, shards=2)
    users = published.tables["train_user_features"]
    users["150_2_180"][4] = [*users["150_2_180"][4], 77]
    published.joined(tmp_path / "other", shards=2)
    (tmp_path / "other/train/train-shard-000001.parquet").replace(tmp_path / "train/train-shard-000001.parquet")
    told = (
        rf"train-shard-000001.parquet: row \d+, column '129_1': {users['129_1'][4]} appears a second time, with other"
    )
    with pytest.raises(ValueError, match=told):
        TaobaoMM(tmp_path, **EVERYBODY).prepare(tmp_path / "cache")
