"""The marketplace is frozen: whoever changes what it makes raises `VERSION` and runs every published table again."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest

from moonlib.data.dataset import Dataset
from moonlib.data.shards import EVENT_TABLES, SAMPLE_TABLES
from moonlib.sources.marketplace.records import Records
from moonlib.sources.marketplace.source import Marketplace
from moonlib.sources.marketplace.world import VERSION, World

FROZEN: dict[str, Any] = {
    "version": 2,
    "tiny": "bd1553951f991648785d8bd1cb3bf708ae23a6db0bb78048efb10b6437b800a6",
    "tiny's truth": "16aa5e688f98ab9c51fd2f856a0c7f0c54b13a006068abbd91c2e07817ecfad8",
    "small": "14cc7b05e58edebef0ac0cade30e3a04b79e563c43d6e1e1aef05ef8f9a4f035",
    "small's tables": "4a3ce3bc46d095223f9f759138258035a96f1054a7823f15268bc48453613c24",
    "small's pictures": "d45ad09a346a10b091655ce32b19658ae96b50f54c959b2f7ef45fc5b6764c5a",
}
"""Of seed 0."""

CHANGED = (
    "the marketplace makes something else than version {version} did. If that is meant: raise VERSION in "
    "moonlib/sources/marketplace/world.py, argue the change without any result of our models, put the new hashes here, "
    "and run every published table again"
).format(**FROZEN)


def digest(*frames: pl.DataFrame) -> str:
    """SHA-256 of the rows as JSON; float64 to six decimals, below which processors differ."""
    content = hashlib.sha256()
    for frame in frames:
        content.update(json.dumps(frame.columns).encode())
        plain = frame.with_columns(cs.temporal().to_physical(), cs.by_dtype(pl.Float64).round(6) + 0.0)
        for row in plain.iter_rows():
            content.update(json.dumps(row, ensure_ascii=False).encode())
    return content.hexdigest()


def content(dataset: Dataset) -> str:
    """SHA-256 of splits, every member of the samples' tars, and the rows of events, whatever the dataset's format.

    It is the hash that a dataset of format 1 had, so that the values above say that nothing has changed since.
    """
    found = hashlib.sha256(_json(dataset.splits.to_json()))
    for table in SAMPLE_TABLES:
        for shard in dataset.shard_files(table):
            with tarfile.open(shard) as tar:
                for member in tar:
                    found.update(f"{member.name}:{member.size}:".encode())
                    found.update(tar.extractfile(member).read())  # type: ignore[union-attr]
    for table in EVENT_TABLES:
        frame = dataset.table(table)
        found.update(_json([table, {column: str(dtype) for column, dtype in frame.schema.items()}]))
        found.update(frame.with_columns(cs.temporal().to_physical()).write_ndjson().encode())
    return found.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_the_version_is_the_one_that_these_hashes_are_of() -> None:
    assert FROZEN["version"] == VERSION, "put this version and its hashes here, and run every published table again"


def test_tiny(tiny: Dataset) -> None:
    assert content(tiny) == FROZEN["tiny"], CHANGED
    assert tiny.truth is not None
    truth = [pl.read_ipc(path) for path in sorted(tiny.truth.iterdir())]
    assert digest(*truth) == FROZEN["tiny's truth"], CHANGED


def test_the_tables_of_small_and_some_of_its_pictures() -> None:
    """In seconds, what `test_small` asks in minutes."""
    world = World.simulate("small", 0)
    shots = world.shots()
    everything = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (len(shots.listing), 1))
    records = Records(world, everything)
    tables = records.tables()
    events = (pl.concat(parts) for parts in records.events(tables).values())
    assert digest(*(tables[name] for name in (*SAMPLE_TABLES, "users")), *events) == FROZEN["small's tables"], CHANGED
    pictures = hashlib.sha256()
    for number in np.linspace(0, len(shots.listing) - 1, 64).astype(np.int64):
        jpeg, box = shots.take(int(number))
        pictures.update(jpeg)
        pictures.update(np.array(box, dtype=np.float32).tobytes())
    assert pictures.hexdigest() == FROZEN["small's pictures"], CHANGED


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small(tmp_path: Path) -> None:
    assert content(Dataset(Marketplace("small", seed=0).prepare(tmp_path))) == FROZEN["small"], CHANGED
