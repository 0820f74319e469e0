"""Streams a dataset's samples in the order of its shards, for training loops of one's own."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import webdataset

from moonlib.data.dataset import Dataset, read_index
from moonlib.data.ids import ShopIds
from moonlib.data.reader import SampleReader, absent_columns, complete_row
from moonlib.data.tables import KEYS, SCHEMAS


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
    rows = _Rows(Path(directory), table)
    if len(described.superseded(table)):
        dataset = dataset.select(rows.is_live)
    if described.ids or any(absent_columns([read_index(path) for path in described.shard_files(table, ".arrow")])):
        dataset = dataset.map(rows.complete)
    return dataset.shuffle(shuffle, seed=seed) if shuffle else dataset


class _Rows:
    """Tells which samples of the shards are rows of the table, and completes their rows. Picklable.

    A shard that was written before others may hold samples that a later one supersedes, and lack columns.
    """

    def __init__(self, directory: Path, table: str) -> None:
        self.directory, self.table = directory, table

    def is_live(self, sample: dict[str, Any]) -> bool:
        """Whether no later sample has the same id."""
        return int(sample["__key__"]) not in self._superseded.get(sample["__url__"], ())

    def complete(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample with all columns and the shop's ids in its row."""
        row = complete_row(json.loads(sample["json"]), self._absent[sample["__url__"]])
        row = self._ids.row(row, SCHEMAS[self.table].names)
        return sample | {"json": json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()}

    @cached_property
    def _ids(self) -> ShopIds:
        return Dataset(self.directory).ids

    @cached_property
    def _absent(self) -> dict[str, tuple[str, ...]]:
        dataset = Dataset(self.directory)
        indexes = [read_index(path) for path in dataset.shard_files(self.table, ".arrow")]
        files = map(str, dataset.shard_files(self.table))
        return dict(zip(files, absent_columns(indexes), strict=True))

    @cached_property
    def _superseded(self) -> dict[str, frozenset[int]]:
        dataset = Dataset(self.directory)
        ids = [
            read_index(path).column(KEYS[self.table]).to_numpy() for path in dataset.shard_files(self.table, ".arrow")
        ]
        masks = dataset.live(self.table, [len(part) for part in ids])
        files = map(str, dataset.shard_files(self.table))
        return {file: frozenset(part[~mask].tolist()) for file, part, mask in zip(files, ids, masks, strict=True)}

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "table": self.table}
