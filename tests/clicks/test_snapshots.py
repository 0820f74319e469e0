"""Snapshots of histories agree with a slow oracle, whatever the ids, and copy nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.clicks.snapshots import HistorySnapshots
from moonlib.data.dataset import Dataset
from moonlib.data.shards import write_dataset
from moonlib.data.tables import Tables, empty, validate
from moonlib.testing.examples import EXAMPLE_SPLITS, example_tables

LOW, HIGH = -(2**63), 2**63 - 1
ids = st.sampled_from([LOW, LOW + 1, -1, 0, 1, 2, HIGH - 1, HIGH])
times = st.integers(-3, 3) | st.sampled_from([-(2**62), 2**62])


def table(snapshots: dict[tuple[int, int], list[int]]) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array([user for user, _ in snapshots], pa.int64()),
            "ts": pa.array([ts for _, ts in snapshots], pa.timestamp("us", "UTC")),
            "item_ids": pa.array(list(snapshots.values()), pa.large_list(pa.int64())),
        }
    )


@given(
    snapshots=st.dictionaries(st.tuples(ids, times), st.lists(ids, max_size=4), max_size=8),
    asked=st.lists(st.tuples(ids, times), max_size=6),
    length=st.integers(0, 6),
)
def test_the_latest_snapshot_newest_first(
    snapshots: dict[tuple[int, int], list[int]], asked: list[tuple[int, int]], length: int
) -> None:
    asked += list(snapshots)
    user, ts = (np.array([row[i] for row in asked], dtype=np.int64) for i in (0, 1))
    found = HistorySnapshots(table(snapshots))
    places = found.places(user, ts, np.zeros(len(asked), np.int64), length)
    assert places.shape == (len(asked), length) and places.dtype == np.int64
    for (user_id, moment), row in zip(asked, places, strict=True):
        before = [(when, items) for (owner, when), items in snapshots.items() if owner == user_id and when <= moment]
        expected = max(before, key=lambda entry: entry[0])[1][::-1][:length] if before else []
        assert found.ids[row[row >= 0]].tolist() == expected
        assert (row[len(expected) :] == -1).all()


def test_chunks_and_slices_of_a_table(tmp_path: Path) -> None:
    whole = table({(user, 0): [user, 10 * user] for user in range(6)})
    asked = np.arange(6), np.zeros(6, np.int64), np.zeros(6, np.int64)
    for part in (pa.concat_tables([whole.slice(3), whole.slice(0, 3)]), whole.slice(2, 3)):
        found = HistorySnapshots(part)
        places = found.places(*asked, 1)
        known = set(part["user_id"].to_pylist())
        assert [found.ids[p[0]] if p[0] >= 0 else None for p in places] == [
            10 * user if user in known else None for user in range(6)
        ]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """An example's products and three users, two of them with histories; no pictures."""
    shop = example_tables()
    users = pl.DataFrame({"user_id": [5, 6, 7]})
    rng = np.random.default_rng(0)
    histories = pl.DataFrame(
        {
            "user_id": [6, 5, 5],
            "ts": [EXAMPLE_SPLITS.behaviour_until, EXAMPLE_SPLITS.behaviour_until, EXAMPLE_SPLITS.valid_until],
            "item_ids": [rng.integers(LOW, HIGH, 50_000).tolist(), [], [HIGH, LOW]],
        }
    )
    tables = Tables(shop.products.with_columns(image=pl.lit(None, pl.String)), users=users, histories=histories)
    write_dataset(tmp_path / "d", validate(tables), lambda table, name: b"", EXAMPLE_SPLITS, name="shop", version="1")
    return Dataset(tmp_path / "d")


def test_what_is_mapped_from_a_dataset_is_not_copied(dataset: Dataset) -> None:
    before = pa.total_allocated_bytes()
    found = HistorySnapshots(dataset.arrow("histories"))
    assert pa.total_allocated_bytes() - before < 100_000 < found.ids.nbytes
    assert not found.ids.flags.owndata and not found.ids.flags.writeable
    asked = (
        np.array([5, 5, 6, 7]),
        pl.Series([EXAMPLE_SPLITS.valid_until, EXAMPLE_SPLITS.train_until] * 2).to_physical().to_numpy(),
    )
    places = found.places(*asked, np.zeros(4, np.int64), 3)
    assert found.ids[places[0, :2]].tolist() == [LOW, HIGH] and places[0, 2] == -1
    assert places[1].tolist() == places[3].tolist() == [-1, -1, -1]
    assert found.ids[places[2]].tolist() == dataset.histories["item_ids"][0].to_list()[:-4:-1]


def test_a_dataset_without_histories_has_empty_ones() -> None:
    assert empty("histories").columns == ["user_id", "ts", "item_ids"]
    places = HistorySnapshots(pa.table(empty("histories"))).places(np.array([1]), np.array([1]), np.array([1]), 2)
    assert places.tolist() == [[-1, -1]]
