"""Samples come back by id, in any order, in any process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.build import ImageFolder
from moonlib.data.dataset import BrokenShard
from moonlib.data.reader import SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.testing.data import forget_checksums

LOWEST, HIGHEST = -(2**63), 2**63 - 1


@pytest.fixture
def reader(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> SampleReader:
    read_image = ImageFolder(image_folder, 512)
    write_dataset(tmp_path / "d", shop, read_image, splits, name="shop", version="1", samples_per_shard=2)
    return SampleReader(tmp_path / "d", "products")


def _ids(*ids: int) -> np.ndarray:
    return np.array(ids, np.int64)


def test_ids_are_in_the_order_of_the_table(reader: SampleReader) -> None:
    assert reader.ids.dtype == np.int64
    assert reader.ids.tolist() == [LOWEST, HIGHEST, 16777217, 0]
    assert len(reader) == 4


def test_any_order_with_repeats(reader: SampleReader, image_folder: Path) -> None:
    samples = reader.read(_ids(0, HIGHEST, LOWEST, 0, LOWEST))
    assert [sample.id for sample in samples] == [0, HIGHEST, LOWEST, 0, LOWEST]
    assert [sample.row["item_id"] for sample in samples] == [0, HIGHEST, LOWEST, 0, LOWEST]
    assert samples[0].image is None
    assert samples[2].image == samples[4].image == (image_folder / "a.jpg").read_bytes()
    assert samples[1].row["title"] == "红色 台灯"


def test_no_ids_no_samples(reader: SampleReader) -> None:
    assert reader.read(_ids()) == []


@pytest.mark.parametrize("id", [1, 16777216, LOWEST + 1, HIGHEST - 1])
def test_an_unknown_id_is_named(reader: SampleReader, id: int) -> None:
    with pytest.raises(KeyError, match=f"products has no item_id {id}"):
        reader.read(_ids(0, id))


def test_an_empty_table_knows_no_id(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> None:
    write_dataset(tmp_path / "d", Tables(shop.products), ImageFolder(image_folder, 512), splits, name="x", version="1")
    reader = SampleReader(tmp_path / "d", "queries")
    assert len(reader) == 0
    with pytest.raises(KeyError, match="queries has no query_id 1"):
        reader.read(_ids(1))


def test_events_have_no_samples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'searches' has no samples; expected one of products, queries"):
        SampleReader(tmp_path, "searches")


def test_it_survives_pickling_after_a_read(reader: SampleReader) -> None:
    expected = reader.read(reader.ids)
    assert pickle.loads(pickle.dumps(reader)).read(reader.ids) == expected


def test_forked_readers_share_no_position(reader: SampleReader) -> None:
    expected = reader.read(reader.ids)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(reader.read, [reader.ids] * 8) == [expected] * 8


def test_few_files_stay_open(reader: SampleReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonlib.data.reader._OPEN_FILES", 1)
    ids = _ids(0, LOWEST, 16777217, HIGHEST)
    assert [sample.row["item_id"] for sample in reader.read(ids)] == ids.tolist()


def test_a_truncated_shard_is_named(reader: SampleReader, tmp_path: Path) -> None:
    path = tmp_path / "d" / "shards" / "products-000001.tar"
    path.write_bytes(path.read_bytes()[:600])
    assert reader.read(_ids(LOWEST))[0].id == LOWEST
    with pytest.raises(BrokenShard, match=r"products-000001\.tar: item_id 0: the file is shorter than its index says"):
        reader.read(_ids(0))


@pytest.mark.parametrize("part", ["jpg_offset", "json_offset"])
def test_a_flipped_bit_of_a_sample_is_noticed(reader: SampleReader, tmp_path: Path, part: str) -> None:
    """The picture could still be decoded, and the row be parsed; nothing but their checksum tells."""
    index = pl.read_ipc((tmp_path / "d/shards/products-000000.arrow").read_bytes())
    path = tmp_path / "d/shards/products-000000.tar"
    data = bytearray(path.read_bytes())
    start = index[part][0]
    place = start + 300 if part == "jpg_offset" else data.index(b"red lamp", start)
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        BrokenShard, match=rf"item_id {LOWEST}: it is damaged: its CRC-32 is .*; copy the dataset again"
    ):
        reader.read(_ids(HIGHEST, LOWEST))
    assert reader.read(_ids(HIGHEST))[0].row["title"] == "红色 台灯"
    forget_checksums(tmp_path / "d")
    assert SampleReader(tmp_path / "d", "products").read(_ids(LOWEST))[0].id == LOWEST


@settings(max_examples=20)
@given(ids=st.lists(st.integers(LOWEST, HIGHEST), unique=True, min_size=1, max_size=20), data=st.data())
def test_any_int64_ids(ids: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    listed = datetime(2025, 1, 1, tzinfo=UTC)
    products = pl.DataFrame(
        {"item_id": ids, "spu_id": ids, "category": ["x"] * len(ids), "listed_at": [listed] * len(ids)},
        schema_overrides={"item_id": pl.Int64, "spu_id": pl.Int64},
    )
    directory = tmp_path_factory.mktemp("ids")
    read_image = ImageFolder(directory, 512)
    tables, splits = validate(Tables(products)), Splits.all_training(products)
    write_dataset(directory, tables, read_image, splits, name="x", version="1", samples_per_shard=7)
    wanted = data.draw(st.lists(st.sampled_from(ids)))
    samples = SampleReader(directory, "products").read(_ids(*wanted))
    assert [sample.row["spu_id"] for sample in samples] == wanted


def test_a_reader_that_outlives_the_modules_closes_its_files(
    reader: SampleReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.read(reader.ids[:1])
    (descriptor,) = reader._open.values()
    monkeypatch.setattr("moonlib.data.reader.os", None)  # as the interpreter leaves a module while it ends
    reader.__del__()
    reader._open.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
