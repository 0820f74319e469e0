"""Content hashes of a dataset are those of its samples, and of a table of the same content."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from moonlib.data.content import Modalities
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample, SampleReader
from moonlib.embedding.content_hash import DatasetHashes, content_hashes, sample_hash
from moonlib.embedding.embed import Contents, hash_contents
from moonlib.embedding.tables import TableReader
from moonlib.testing.examples import example_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return example_dataset(tmp_path_factory.mktemp("content") / "data")


@pytest.mark.parametrize("views", ["main", "mean"])
@pytest.mark.parametrize("words", ["title", "rich", "image", "rich+image"])
@pytest.mark.parametrize("table", ["products", "queries"])
def test_digests_give_what_samples_give(dataset: Dataset, table: str, words: str, views: str) -> None:
    reader, modalities = SampleReader(dataset.directory, table), Modalities.parse(words)
    ids = np.random.default_rng(0).permutation(reader.ids)
    expected = content_hashes(reader.read(ids), modalities, views)  # type: ignore[arg-type]
    hashes = DatasetHashes(dataset, reader, modalities, views)  # type: ignore[arg-type]
    np.testing.assert_array_equal(hashes.hashes(ids), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(hashes)).hashes(ids[:7]), expected[:7])
    assert len(np.unique(expected, axis=0)) > 1


def test_a_few_hashes_from_digests_start_no_process(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, modalities = SampleReader(dataset.directory, "products"), Modalities.parse("rich+image")
    hashes = DatasetHashes(dataset, reader, modalities, "main")
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=len(reader))
    chunk = -(-len(reader) // 8)
    contents = Contents(reader, "product", reader.ids, modalities, quarantine, chunk, stored_hashes=hashes)
    stored, where = hashes.hashes, list[int]()

    def noted(ids: np.ndarray) -> np.ndarray:
        where.append(os.getpid())
        return stored(ids)

    monkeypatch.setattr(hashes, "hashes", noted)
    found = hash_contents(contents, tmp_path / "hashes.npy", workers=4)
    np.testing.assert_array_equal(found, content_hashes(reader.read(contents.ids), modalities, "main"))
    assert where == [os.getpid()] * len(contents)


def test_a_table_of_the_same_content_has_the_same_hashes(dataset: Dataset, tmp_path: Path) -> None:
    reader, modalities = SampleReader(dataset.directory, "products"), Modalities.parse("rich+image")
    (tmp_path / "photos").mkdir()
    names = dict(dataset.products.select("item_id", "image").iter_rows())
    for sample in reader.read(reader.ids):
        if sample.image is not None:
            (tmp_path / "photos" / names[sample.id]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / names[sample.id]).write_bytes(sample.image)
    columns = ["item_id", "title", "category", "attributes", "box", "image"]
    dataset.products.select(columns).write_parquet(tmp_path / "products.parquet")
    rows = TableReader(
        tmp_path / "products.parquet",
        "products",
        tmp_path / "photos",
        modalities,
        tmp_path / "quarantine.jsonl",
        tmp_path / "copy.arrow",
    )
    ids = np.sort(reader.ids)
    np.testing.assert_array_equal(
        content_hashes(rows.read(ids), modalities, "main"), content_hashes(reader.read(ids), modalities, "main")
    )


def test_where_one_text_ends_and_what_is_missing_are_part_of_the_hash() -> None:
    rich, row = Modalities.parse("rich+image"), {"title": "mug", "category": None, "attributes": None}
    samples = [
        Sample(1, row, None),
        Sample(1, row, None, unread=1),
        Sample(1, row, b""),
        Sample(1, row, b"a", (b"b",)),
        Sample(1, row, b"ab"),
        Sample(1, row | {"title": None}, None),
        Sample(1, row, b"a", (b"b", b"c")),
        Sample(1, row, b"a", (b"bc",)),
        Sample(1, row | {"box": [0.0, 0.0, 1.0, 1.0]}, b"ab"),
    ]
    assert len({sample_hash(sample, rich, "mean") for sample in samples}) == len(samples)
    title = Modalities.parse("title")
    assert {sample_hash(sample, title, "mean") for sample in samples if sample.row["title"]} == {
        sample_hash(samples[0], title, "main")
    }
