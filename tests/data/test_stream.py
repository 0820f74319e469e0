"""Samples in the order of the shards, as webdataset gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

from moonlib.data.build import ImageFolder
from moonlib.data.dataset import BrokenShard, Dataset
from moonlib.data.reader import SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.stream import stream
from moonlib.data.tables import Tables
from moonlib.testing.processes import process_group, run_processes


@pytest.fixture
def directory(tmp_path: Path, shop: Tables, splits: Splits, image_folder: Path) -> Path:
    """Four products in shards of one."""
    read_image = ImageFolder(image_folder, 512)
    write_dataset(tmp_path / "d", shop, read_image, splits, name="shop", version="1", samples_per_shard=1)
    return tmp_path / "d"


@pytest.mark.parametrize("table", ["products", "queries"])
def test_every_sample_is_there_as_the_reader_gives_it(table: str, tiny: Dataset) -> None:
    reader = SampleReader(tiny.directory, table)
    expected = reader.read(reader.ids)
    found = list(stream(tiny.directory, table))
    assert [sample["__key__"] for sample in found] == [str(sample.id) for sample in expected]
    assert [json.loads(sample["json"]) for sample in found] == [sample.row for sample in expected]
    assert [sample.get("jpg") for sample in found] == [sample.image for sample in expected]


def test_it_decodes_and_batches_as_webdataset_does(tiny: Dataset) -> None:
    dataset = stream(tiny.directory)
    assert isinstance(dataset, webdataset.WebDataset)
    sample = next(iter(dataset.decode("rgb8")))
    assert sample["json"]["item_id"] == int(sample["__key__"])
    if "jpg" in sample:
        assert sample["jpg"].dtype == np.uint8 and sample["jpg"].shape[2] == 3
    batch = next(iter(stream(tiny.directory).decode().to_tuple("json").map_tuple(lambda row: row["title"]).batched(5)))
    assert len(batch[0]) == 5


def test_shuffled_it_is_another_order_of_the_same_and_depends_on_the_seed_alone(tiny: Dataset) -> None:
    keys = [[sample["__key__"] for sample in stream(tiny.directory, shuffle=50, seed=seed)] for seed in (0, 0, 1)]
    ordered = [sample["__key__"] for sample in stream(tiny.directory)]
    assert keys[0] == keys[1] and keys[0] != keys[2] and keys[0] != ordered
    assert sorted(keys[0]) == sorted(keys[2]) == sorted(ordered)


def test_workers_share_the_shards(directory: Path) -> None:
    loader = DataLoader(stream(directory), batch_size=None, num_workers=2)
    keys = [sample["__key__"] for sample in loader]
    assert sorted(keys) == sorted(str(id) for id in SampleReader(directory, "products").ids)


def _process(rank: int, dataset: str, directory: str) -> None:
    with process_group(rank, directory):
        keys = [sample["__key__"] for sample in stream(dataset)]
        Path(directory, f"{rank}.json").write_text(json.dumps(keys))


def test_two_processes_share_the_shards(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    run_processes(_process, str(directory), str(tmp_path / "p"))
    parts = [json.loads((tmp_path / f"p/{rank}.json").read_text()) for rank in range(2)]
    assert all(parts)
    assert sorted([*parts[0], *parts[1]]) == sorted(str(id) for id in SampleReader(directory, "products").ids)


def test_a_missing_shard_is_named_before_anything_is_read(directory: Path) -> None:
    (directory / "shards/products-000002.tar").unlink()
    with pytest.raises(BrokenShard, match=r"products-000002\.tar is missing"):
        stream(directory)
