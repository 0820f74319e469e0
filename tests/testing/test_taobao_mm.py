"""A shop written as TAOBAO-MM and read as such is the same: who was shown what, had done what, and the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

from moonlib.clicks.snapshots import HistorySnapshots
from moonlib.data.dataset import Dataset
from moonlib.representations.store import Representations, unit
from moonlib.sources.taobao_mm.source import TaobaoMM
from moonlib.testing import example_dataset, example_representations
from moonlib.testing.taobao_mm import item_hash, user_hash, write_layout


@pytest.mark.parametrize("layout", ["raw", "joined"])
def test_what_is_written_is_read_again(tmp_path: Path, layout: Literal["raw", "joined"]) -> None:
    shop = example_dataset(tmp_path / "example")
    known = shop.products["item_id"][5:]
    vectors = example_representations(known, shop.queries["query_id"])["random"][0]
    write_layout(shop, vectors, tmp_path / "mm", layout, rows=100)
    found = Dataset(TaobaoMM(tmp_path / "mm", users=1.0, valid=0.3).prepare(tmp_path))

    for split, splits in (("test", ["test"]), ("training", ["train", "valid"])):
        shown = [pl.concat(d.splits.select(d.impressions, s) for s in splits) for d in (shop, found)]  # type: ignore[arg-type]
        ids = user_hash(shown[0]["user_id"].to_numpy()), item_hash(shown[0]["item_id"].to_numpy())
        expected = zip(*(column.tolist() for column in ids), shown[0]["clicked"], strict=True)
        assert sorted(shown[1].select("user_id", "item_id", "clicked").rows()) == sorted(expected), split

    snapshots = HistorySnapshots(found.arrow("histories"))
    for split, name in (("train", "behaviour_until"), ("test", "valid_until")):
        users = shop.splits.select(shop.impressions, split)["user_id"].unique().to_numpy()  # type: ignore[arg-type]
        ts = np.full(len(users), getattr(found.splits, name).timestamp() * 1e6, np.int64)
        places = snapshots.places(user_hash(users), ts, np.zeros(len(users), np.int64), 40)
        for user, row in zip(users, places, strict=True):
            done = shop.searches.filter(pl.col("ts") < getattr(shop.splits, name), user_id=user).sort("ts", "search_id")
            expected = item_hash(done["item_id"].to_numpy())[::-1]
            assert len(expected) and snapshots.ids[row[row >= 0]].tolist() == expected.tolist()

    assert found.representations is not None
    store = Representations.open(found.representations, "products")
    items = shop.products["item_id"].to_numpy()
    there = store.rows(item_hash(items)) >= 0
    assert set(items[there]) <= set(known) and there.sum() > 50
    cosine = (unit(store.gather(item_hash(items[there]))) * unit(vectors.gather(items[there]))).sum(axis=1)
    assert (cosine > 0.999)[vectors.gather(items[there]).any(axis=1)].all()


def test_hashes_are_of_both_signs_and_all_different() -> None:
    ids = np.r_[np.arange(10_000), -(2**63), 2**63 - 1]
    for rename in (user_hash, item_hash):
        renamed = rename(ids)
        assert len(np.unique(renamed)) == len(ids) and 0.45 < (renamed < 0).mean() < 0.55
        assert (np.abs(renamed.astype(np.float64)) > 2**53).mean() > 0.99
