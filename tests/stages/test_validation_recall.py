"""Recall in training: what is asked, what is searched, and what is held out where nothing is asked."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from moonlib.data.content import Modalities, Side
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches
from moonlib.data.ids import Ids
from moonlib.pairs.pairs import Pairs
from moonlib.stages.validation_recall import ValidationRecall, asked_on_validation_days, hold_out
from moonlib.stages.validation_schedule import ValidationSchedule


def by_id(side: Side, ids: Ids, modalities: Modalities) -> NDArray[np.float32]:
    """A vector per id, the same for every modality."""
    return np.stack([np.random.default_rng([abs(int(i)), side == "query"]).standard_normal(4) for i in ids]).astype(
        np.float32
    )


def test_recall_equals_a_loop_over_searches(shop: Dataset) -> None:
    asked = asked_on_validation_days(shop, "query")
    recall = ValidationRecall(shop, asked, {"image -> image": 1.0}, ValidationSchedule(every=1, ks=[1, 7]), seed=0)
    found = recall.measure(by_id)
    searches = evaluation_searches(shop, "valid", "image_search").unique(["query_id", "item_id"], keep="first")
    products = shop.products.filter(pl.col("image").is_not_null())
    searches = searches.filter(pl.col("item_id").is_in(products["item_id"].implode()))
    hits = {1: 0, 7: 0}
    for row in searches.iter_rows(named=True):
        listed = products.filter((pl.col("listed_at") <= row["ts"]) | (pl.col("item_id") == row["item_id"]))
        vectors = by_id("product", listed["item_id"].to_numpy(), Modalities.parse("image"))
        scores = vectors @ by_id("query", np.array([row["query_id"]]), Modalities.parse("image"))[0]
        scores /= np.linalg.norm(vectors, axis=1)
        hit = (listed["spu_id"] == row["spu_id"]).to_numpy()
        rank = int((scores[~hit] >= scores[hit].max()).sum())
        for k in hits:
            hits[k] += rank < k
    assert len(searches) > 3
    assert found == {f"recall@{k}": pytest.approx(number / len(searches)) for k, number in hits.items()}


def test_what_had_no_query_asks_nothing(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the ids of queries int64: as floats they would be others."""
    searches = shop.searches
    asked = asked_on_validation_days(shop, "query")
    feed = searches.with_columns(query_id=pl.lit(None, pl.Int64))
    monkeypatch.setitem(vars(shop), "searches", pl.concat([feed, searches]))
    again = asked_on_validation_days(shop, "query")
    assert again.query_id.dtype == np.int64 and np.array_equal(again.query_id, asked.query_id)
    monkeypatch.setitem(vars(shop), "searches", pl.concat([feed, searches.with_columns(action=pl.lit("click"))]))
    assert len(asked_on_validation_days(shop, "query").query_id), "clicks count where no order had a query"


def test_samples_are_a_function_of_the_seed_and_hold_what_is_looked_for(shop: Dataset) -> None:
    asked = asked_on_validation_days(shop, "query")
    schedule = ValidationSchedule(every=1, rows=2, gallery=20, ks=[3])
    one, same, other = (
        ValidationRecall(shop, asked, {"text -> title": 1.0}, schedule, seed).tasks[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(one.gallery, same.gallery) and np.array_equal(one.query_id, same.query_id)
    assert not np.array_equal(one.gallery, other.gallery)
    assert len(one.query_id) == 2 and len(one.gallery) == 20 and set(one.spu_id) <= set(one.gallery_spu)


def test_a_product_does_not_look_for_itself(shop: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    asked = asked_on_validation_days(shop, "product")
    start, end = shop.splits.window("valid")
    new = shop.products.filter(pl.col("listed_at") >= start, pl.col("listed_at") < end)
    assert set(asked.query_id) == set(new["item_id"]) and np.array_equal(asked.query_id, asked.item_id)
    with pytest.raises(ValueError, match=r"none of the stage's tasks can be measured: 'image -> image' \(a product"):
        ValidationRecall(shop, asked, {"image -> image": 1.0}, ValidationSchedule(every=1), seed=0)


def test_a_product_that_looks_for_others_does_not_find_itself(shop: Dataset) -> None:
    """Neither it nor another SKU of it is in the gallery, where it would be first; a task may read one thing twice."""
    products = shop.products.filter(pl.col("image").is_not_null()).sort("item_id")
    ids, spus = products["item_id"].to_numpy(), products["spu_id"].to_numpy()
    one, other = (part.ravel() for part in np.meshgrid(ids[:6], ids[6:9]))
    pairs = Pairs(
        *(np.append(a, b) for a, b in ((one, other), (other, one))), np.append(other, one)[:, None], "product"
    )
    assert pairs.of_others
    _, asked = hold_out(pairs, seed=0)
    task, ks = {"image -> image": 1.0}, [1, 7]
    found = ValidationRecall(shop, asked, task, ValidationSchedule(every=1, ks=ks), seed=0).measure(by_id)
    vectors = by_id("product", ids, Modalities.parse("image"))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place = {item: row for row, item in enumerate(ids)}
    hits = {1: 0, 7: 0}
    for query, item in zip(asked.query_id, asked.item_id, strict=True):
        scores, wanted = vectors @ vectors[place[query]], spus == spus[place[item]]
        rank = int((scores[~wanted & (spus != spus[place[query]])] >= scores[wanted].max() - 1e-6).sum())
        for k in hits:
            hits[k] += rank < k
    assert found == {f"recall@{k}": pytest.approx(number / len(asked.query_id)) for k, number in hits.items()}


def test_a_gallery_smaller_than_k_is_refused(shop: Dataset) -> None:
    asked = asked_on_validation_days(shop, "query")
    with pytest.raises(ValueError, match=r"recall@1000 of 'image -> image' needs a gallery .* set validate\.ks"):
        ValidationRecall(shop, asked, {"image -> image": 1.0}, ValidationSchedule(every=1, ks=[1000]), seed=0)


def test_a_query_is_held_out_with_all_of_its_pairs() -> None:
    queries, items = np.repeat(np.arange(20), 3), np.arange(60)
    pairs = Pairs(queries, items, items[:, None], "query")
    left, asked = hold_out(pairs, seed=0)
    assert len(np.unique(asked.query_id)) == 2 and not set(left.query_id) & set(asked.query_id)
    assert sorted([*left.item_id, *asked.item_id]) == list(items)
    assert np.array_equal(hold_out(pairs, seed=0)[1].query_id, asked.query_id)
    with pytest.raises(ValueError, match="of one query none can be held out"):
        hold_out(pairs[np.arange(3)], seed=0)


def test_a_product_is_held_out_on_both_sides_of_its_pairs() -> None:
    """Or the other direction of a pair would teach what is asked."""
    one, other = (part.ravel() for part in np.triu_indices(12, 1))
    query, item = np.append(one, other), np.append(other, one)
    pairs = Pairs(query, item, item[:, None], "product")
    left, asked = hold_out(pairs, seed=0)
    held = set(asked.query_id.tolist())
    assert len(held) == 1 and asked.of_others
    assert not held & {*left.query_id.tolist(), *left.item_id.tolist()}
    assert len(left) + 2 * len(asked.query_id) == len(pairs)
    with pytest.raises(ValueError, match="none would be left to train on"):
        hold_out(pairs[np.flatnonzero((query < 2) & (item < 2))], seed=0)
