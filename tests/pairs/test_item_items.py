from __future__ import annotations

import math
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.in_batch import InBatch
from moonlib.negatives.mined import Mined
from moonlib.pairs import ItemItemPairs, PairContext
from moonlib.pairs.item_items import pairs_by_weight, together
from moonlib.stages.contrastive import Contrastive, PairData
from moonlib.testing import check_pairs, example_dataset
from moonlib.testing.stages import Bench, small_encoder

START = datetime(2025, 1, 1)
Event = tuple[int, int, int]
"""Group, item and hour."""


def frame(events: list[Event]) -> pl.DataFrame:
    rows = [{"group": g, "item_id": i, "spu_id": i // 2, "ts": START + timedelta(hours=h)} for g, i, h in events]
    return pl.DataFrame(rows)


def one_at_a_time(
    events: list[Event], neighbours: int, window: float | None
) -> dict[tuple[int, int], tuple[float, int]]:
    """The definition: (query, item) → weight and the hour of the last time."""
    timed = sorted(events, key=lambda event: (event[0], event[2], event[1]))
    kept = [e for n, e in enumerate(timed) if n == 0 or timed[n - 1][:2] != e[:2]]
    count: dict[tuple[int, int], list[int]] = {}
    for a, (group, item, hour) in enumerate(kept):
        for other_group, other, later in kept[a + 1 : a + 1 + neighbours]:
            if other_group == group and other // 2 != item // 2 and (window is None or later - hour <= window):
                count.setdefault((item, other), []).append(later)
                count.setdefault((other, item), []).append(later)
    n = {item: sum(e[1] == item for e in kept) for item in {e[1] for e in kept}}
    return {pair: (len(hours) / math.sqrt(n[pair[0]] * n[pair[1]]), max(hours)) for pair, hours in count.items()}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 60)), min_size=1, max_size=30),
    st.integers(1, 4),
    st.sampled_from([None, 1.0, 24.0]),
)
def test_pairs_are_those_of_the_definition(events: list[Event], neighbours: int, window: float | None) -> None:
    found = {
        (row["query_id"], row["item_id"]): (row["weight"], int((row["ts"] - START) / timedelta(hours=1)))
        for row in together(frame(events), neighbours, window).iter_rows(named=True)
    }
    expected = one_at_a_time(events, neighbours, window)
    assert found.keys() == expected.keys()
    for pair, (weight, hour) in expected.items():
        assert found[pair] == (pytest.approx(weight), hour)


def test_positives_are_the_partners_of_the_highest_weight() -> None:
    rows = [(1, 10, 0.9), (1, 11, 0.5), (1, 12, 0.1), (2, 13, 1.0)]
    table = pl.DataFrame(rows, schema=["query_id", "item_id", "weight"], orient="row").with_columns(ts=pl.lit(START))
    pairs = pairs_by_weight(table, max_positives=2)
    assert pairs.positives.tolist() == [[10, 11], [11, 10], [12, 10], [13, 13]]
    assert pairs.query_side == "product" and pairs.weight is not None and pairs.weight.tolist()[3] == 1.0
    assert pairs_by_weight(table).positives.tolist()[:3] == [[10, 11, 12], [11, 10, 12], [12, 10, 11]]


def ask(source: ItemItemPairs, folder: Path) -> Any:
    dataset = example_dataset(folder / "dataset")
    (folder / "work").mkdir(exist_ok=True)
    return dataset, source.pairs(PairContext(dataset, folder / "work", True, None))[0]  # type: ignore[arg-type]


def test_weights_are_capped_and_products_keep_their_best(tmp_path: Path) -> None:
    dataset, whole = ask(ItemItemPairs(window=1000, per_item=10_000, cap=100), tmp_path)
    _, capped = ask(ItemItemPairs(window=1000, per_item=3, cap=1.5), tmp_path)
    assert whole.weight.mean() == pytest.approx(1, rel=1e-5) and whole.weight.max() > 1.5
    assert capped.weight.max() == pytest.approx(1.5)
    assert max(np.unique(capped.query_id, return_counts=True)[1]) == 3
    for query in np.unique(capped.query_id):
        left = whole.weight[whole.query_id == query]
        kept = capped.weight[capped.query_id == query]
        assert sorted(kept) == pytest.approx(sorted(np.sort(left)[::-1][:3].clip(max=1.5)))
    spus = dict(dataset.products.select("item_id", "spu_id").iter_rows())
    assert all(spus[a] != spus[b] for a, b in zip(whole.query_id, whole.item_id, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        partial(ItemItemPairs, window=2000.0),
        partial(ItemItemPairs, ["click", "order"], "train", window=2000.0, neighbours=2),
    ],
)
def test_they_keep_the_promises_of_a_pair_source(make: Any) -> None:
    check_pairs(make)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"within": "day"}, "within must be"),
        ({"window": 0}, "window must be above 0"),
        ({"cap": -1}, "cap must be above 0"),
        ({"neighbours": 0}, "neighbours must be at least 1"),
        ({"per_item": 0}, "per_item must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemItemPairs(**wrong)


def test_no_pair_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no shopper acted \(click, cart, order\) on two products within 1e-09 hours"):
        ask(ItemItemPairs(window=1e-9), tmp_path)
    with pytest.raises(ValueError, match="on two products in one session: set within: window, count more actions"):
        ask(ItemItemPairs(within="session"), tmp_path)


def test_a_session_is_a_search_with_all_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = example_dataset(tmp_path / "dataset")
    searches = dataset.splits.select(dataset.searches, "behaviour").sort("ts")
    joined = searches.with_columns(search_id=pl.int_range(pl.len()) // 3)  # of several shoppers, days apart
    monkeypatch.setitem(vars(dataset), "searches", joined)
    pairs, _ = ItemItemPairs(within="session").pairs(PairContext(dataset, tmp_path, True, None))  # type: ignore[arg-type]
    spu = dict(dataset.products.select("item_id", "spu_id").iter_rows())
    expected = set()
    for part in joined.partition_by("search_id"):
        items = part["item_id"].to_list()
        expected |= {(a, b) for a in items for b in items if spu[a] != spu[b]}
    assert set(zip(pairs.query_id.tolist(), pairs.item_id.tolist(), strict=True)) == expected


def test_a_product_is_no_negative_of_itself(tmp_path: Path) -> None:
    """Nor are the other SKUs of its SPU: neither in a batch nor among what is mined."""
    data = PairData({"image -> title+image": 1.0}, 24, workers=0)
    bench = Bench(tmp_path, data, {"max_steps": 2}, small_encoder)
    mined = Mined(refresh_every=64)
    stage = Contrastive(InfoNCE(), [InBatch(), mined], ItemItemPairs(window=2000.0))
    bench.run(stage, "run")
    spu = dict(bench.dataset.products.select("item_id", "spu_id").iter_rows())
    pairs = stage.training_data.pairs
    found = mined.candidates[1]
    assert (found >= 0).any()
    items = stage.training_data.catalogue.item_id
    for row, query in enumerate(pairs.query_id):
        assert spu[query] not in {spu[items[place]] for place in found[row].tolist() if place >= 0}
    for batch in stage.train_dataloader():
        assert batch.weight is not None and batch.weight.dtype == torch.float32
        assert batch.positive_spus.shape[1] == batch.positive_ids.shape[1] + 1
        break
