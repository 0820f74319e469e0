"""Streams a dataset's samples in the order of its shards, for training loops of one's own."""

from __future__ import annotations

from pathlib import Path

import webdataset

from moonlib.data.dataset import index_files
from moonlib.data.reader import SampleReader


def stream(directory: Path | str, table: str = "products", *, shuffle: int = 0, seed: int = 0) -> webdataset.WebDataset:
    """Iterate over products or queries with webdataset, reading each shard from its beginning to its end.

    A sample is a dict of ``__key__`` (its id), ``json`` (its row) and, if it has an image, ``jpg``, or if it has
    several, ``jpg``, ``1.jpg``, ``2.jpg`` and so on. All are bytes until ``decode`` is called on the result, which has
    all of webdataset's methods. Whole shards are shared out over the processes of a distributed run and the workers of
    a ``DataLoader``: there must be at least as many of them.

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
    shards = [str(path.with_suffix(".tar")) for path in index_files(Path(directory), table)]
    dataset = webdataset.WebDataset(
        shards,
        shardshuffle=len(shards) if shuffle else False,
        nodesplitter=webdataset.split_by_node,
        seed=seed,
    )
    return dataset.shuffle(shuffle, seed=seed) if shuffle else dataset
