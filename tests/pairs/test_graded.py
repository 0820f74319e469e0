from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moonlib.data.dataset import Dataset
from moonlib.filters.spu_merge import SpuMerge
from moonlib.pairs import GradedPairs, PairContext, Pairs, SearchPairs
from moonlib.testing import check_pairs, example_dataset

WEIGHTS = {"click": 1.0, "cart": 2.0, "order": 4.0}


def ask(source: Any, folder: Path) -> tuple[Dataset, Pairs]:
    dataset = example_dataset(folder / "dataset")
    (folder / "work").mkdir(exist_ok=True)
    pairs, _ = source.pairs(PairContext(dataset, folder / "work", True, None))  # type: ignore[arg-type]
    return dataset, pairs


@pytest.mark.parametrize("by", ["action", "count"])
def test_weights_are_those_of_the_actions_one_by_one(by: Any, tmp_path: Path) -> None:
    dataset, pairs = ask(GradedPairs(WEIGHTS, by), tmp_path)
    _, plain = ask(SearchPairs(), tmp_path)
    led: dict[tuple[int, int], list[float]] = {}
    for row in dataset.splits.select(dataset.searches, "behaviour").iter_rows(named=True):
        if row["query_id"] is not None:
            led.setdefault((row["query_id"], row["item_id"]), []).append(WEIGHTS[row["action"]])
    assert np.array_equal(pairs.query_id, plain.query_id) and np.array_equal(pairs.positives, plain.positives)
    assert pairs.weight is not None and len(set(pairs.weight.tolist())) > 1
    for query, item, weight in zip(pairs.query_id, pairs.item_id, pairs.weight, strict=True):
        found = led[query, item]
        assert weight == pytest.approx(max(found) if by == "action" else math.log2(1 + sum(found)))


def test_judgements_weigh_the_pairs_that_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, plain = ask(SearchPairs(until="train"), tmp_path)
    early = dataset.splits.train_until
    rows = [
        (int(plain.query_id[i]), int(plain.item_id[i]), grade) for i, grade in ((0, 1.0), (0, 2.0), (1, 0.0), (3, 3.0))
    ]
    judged = pl.DataFrame(rows, schema=["query_id", "item_id", "relevance"], orient="row")
    judged = judged.with_columns(ts=pl.lit(dataset.searches["ts"].min(), dtype=dataset.searches["ts"].dtype))
    late = judged.tail(1).with_columns(ts=pl.lit(early, dtype=judged["ts"].dtype), relevance=9.0)
    monkeypatch.setattr(Dataset, "impressions", pl.concat([judged, late]))
    source = GradedPairs(by="relevance", until="train")
    pairs, _ = source.pairs(PairContext(dataset, tmp_path, True, None))  # type: ignore[arg-type]
    assert pairs.query_id.tolist() == [plain.query_id[0], plain.query_id[3]]
    assert pairs.weight is not None and pairs.weight.tolist() == [0.5, 1.0]
    monkeypatch.setattr(Dataset, "impressions", judged.head(0))
    with pytest.raises(
        ValueError, match=r"none of .* pairs has a judgement above 0 .*: weigh them by action or by count"
    ):
        source.pairs(PairContext(dataset, tmp_path, True, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        GradedPairs,
        partial(GradedPairs, {"order": 2.0}, "count", "train"),
        partial(GradedPairs, WEIGHTS, "action", "behaviour", [SpuMerge()]),
    ],
)
def test_they_keep_the_promises_of_a_pair_source(make: Any) -> None:
    check_pairs(make)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(GradedPairs, {"view": 1.0}), "actions: 'view' is none of click, cart, order"),
        (partial(GradedPairs, {"click": 0.0}), "weights above 0"),
        (partial(GradedPairs, {}), "expected at least one action"),
        (partial(GradedPairs, WEIGHTS, "rank"), "by must be one of action, count, relevance"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
