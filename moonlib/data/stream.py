"""Streams a dataset's samples in the order of its shards, for training loops of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import webdataset

from moonlib.data.dataset import Dataset
from moonlib.data.ids import ShopIds
from moonlib.data.reader import SampleReader
from moonlib.data.tables import SCHEMAS


def stream(directory: Path | str, table: str = "products", *, shuffle: int = 0, seed: int = 0) -> webdataset.WebDataset:
    """Iterate over products or queries with webdataset, reading each shard from its beginning to its end.

    A sample is a dict of ``__key__`` (its id), ``json`` (its row) and, if it has an image, ``jpg``, or if it has
    several, ``jpg``, ``1.jpg``, ``2.jpg`` and so on. All are bytes until ``decode`` is called on the result, which has
    all of webdataset's methods. Where the shop's ids are text, they are in the row, and the key is the number of the id
    within the dataset. Whole shards are shared out over the processes of a distributed run and the workers of a
    ``DataLoader``: there must be at least as many of them.

    Args:
        directory: a dataset's directory.
        table: ``products`` or ``queries``.
        shuffle: samples to shuffle among; the order of the shards is shuffled too. 0 leaves all in order.
        seed: of both; every process needs the same.

    Returns:
        An iterable that ends after one pass.

    Raises:
        ValueError: there is no dataset, or a shard is missing or cut off (`BrokenShard`).

    Example: ``for sample in stream("data/mine").decode("pil"): print(sample["json"]["title"])``
    """
    SampleReader(directory, table)  # whether all shards are there and whole
    described = Dataset(directory)
    shards = [str(path) for path in described.shard_files(table)]
    dataset = webdataset.WebDataset(
        shards,
        shardshuffle=len(shards) if shuffle else False,
        nodesplitter=webdataset.split_by_node,
        seed=seed,
    )
    if described.ids:
        dataset = dataset.map(_ShopsRow(Path(directory), table))
    return dataset.shuffle(shuffle, seed=seed) if shuffle else dataset


class _ShopsRow:
    """Puts the shop's ids into a sample's row. Picklable."""

    def __init__(self, directory: Path, table: str) -> None:
        self.directory, self.table = directory, table
        self._ids: ShopIds | None = None

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self._ids is None:
            self._ids = Dataset(self.directory).ids
        row = self._ids.row(json.loads(sample["json"]), SCHEMAS[self.table].names)
        return sample | {"json": json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ids": None}
