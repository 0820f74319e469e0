from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.dataset import Dataset
from moonlib.metrics.auc import AUC
from moonlib.metrics.recall import ranks
from moonlib.representations.store import Representations
from moonlib.stages import retrieval
from moonlib.stages.represent import evaluation_searches, microseconds
from moonlib.stages.retrieval import Retrieval, RetrievalData, best_rank, mixed, ordered_searches, share_among
from moonlib.stages.stage import StageContext
from moonlib.testing import check_stage, example_representations

ALONE = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(root_device="cpu"))

Store = dict[int, np.ndarray]


def run(shop: Dataset, represented: Path, directory: Path, history: int = 20, **arguments: Any) -> dict[str, float]:
    context = StageContext(
        shop,
        RetrievalData(history=history),
        trainer=ALONE,  # type: ignore[arg-type]
        directory=directory,
        seed=3,
        representations=represented,
    )
    return Retrieval(**{"ks": [1, 10], **arguments}).run(context)


def vectors(directory: Path, name: str) -> Store:
    """Unit vectors by id, without those that say nothing."""
    store = Representations.open(directory, name)
    found = zip(store.ids.tolist(), np.asarray(store.vectors, dtype=np.float64), strict=True)
    return {id: vector / np.linalg.norm(vector) for id, vector in found if vector.any()}


def past(shop: Dataset, search: dict[str, Any], length: int) -> list[int]:
    """The items of the shopper's latest behaviours before a search began, newest first, by going through all."""
    began = min(row["ts"] for row in shop.searches.iter_rows(named=True) if row["search_id"] == search["search_id"])
    first: dict[tuple[int, int], Any] = {}
    for row in shop.searches.iter_rows(named=True):
        if row["user_id"] == search["user_id"] and row["search_id"] != search["search_id"]:
            key = row["search_id"], row["item_id"]
            first[key] = min(first.get(key, row["ts"]), row["ts"])
    before = sorted(((ts, *key) for key, ts in first.items() if ts < began), reverse=True)
    return [item for _, _, item in before[:length]]


def slow_scores(
    shop: Dataset, search: dict[str, Any], products: Store, queries: Store, weight: float, interest: str, length: int
) -> dict[int, float]:
    """Score of every product that the search may retrieve, one by one."""
    query = queries.get(search["query_id"])
    known = [products[item] for item in past(shop, search, length) if item in products]
    scores = {}
    for item, listed in shop.products.select("item_id", "listed_at").iter_rows():
        if listed > search["ts"] or item not in products or (query is None and not known):
            continue
        cosines = [float(behaviour @ products[item]) for behaviour in known]
        user = (max(cosines) if interest == "max" else sum(cosines) / len(cosines)) if cosines else None
        of_query = None if query is None else float(query @ products[item])
        if user is None or of_query is None:
            scores[item] = of_query if user is None else user
        else:
            scores[item] = (1 - weight) * of_query + weight * user
    return scores  # type: ignore[return-value]


def slow_rank(shop: Dataset, search: dict[str, Any], scores: dict[int, float]) -> int:
    spu = dict(shop.products.select("item_id", "spu_id").iter_rows())
    hits = [score for item, score in scores.items() if spu[item] == search["spu_id"]]
    if not hits:
        return len(spu)
    return sum(score >= max(hits) - 1e-6 for item, score in scores.items() if spu[item] != search["spu_id"])


def rows(directory: Path, split: str) -> Iterator[dict[str, Any]]:
    return pl.read_parquet(directory / "searches.parquet").filter(pl.col("split") == split).iter_rows(named=True)


@pytest.mark.parametrize("interest", ["mean", "max"])
@pytest.mark.parametrize("budget", [2**22, 300])
def test_every_search_is_ranked_as_one_by_one(
    interest: str,
    budget: int,
    shop: Dataset,
    represented: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieval, "BUDGET", budget)
    metrics = run(shop, represented, tmp_path, history=3, weights=[0.3], ks=[1, 10], interest=interest)
    products, queries = vectors(represented, "products"), vectors(represented, "queries")
    new = {
        item for item, at in shop.products.select("item_id", "listed_at").iter_rows() if at >= shop.splits.train_until
    }
    found: dict[str, list[float]] = defaultdict(list)
    kinds = set()
    for row in [*rows(tmp_path, "valid"), *rows(tmp_path, "test")]:
        prefix = "retrieval" if row["split"] == "test" else "valid/retrieval"
        scores = slow_scores(shop, row, products, queries, 0.3, interest, 3)
        rank = slow_rank(shop, row, scores)
        assert row["rank"] == rank
        best = sorted(scores, key=scores.__getitem__, reverse=True)
        for k in (1, 10):
            share = sum(item in new for item in best[:k]) / k if best else None
            assert row[f"share_new@{k}"] == (None if share is None else pytest.approx(share))
            if share is not None:
                found[f"{prefix}/share_new@{k}"].append(share)
            found[f"{prefix}/recall@{k}"].append(rank < k)
            found[f"{prefix}/recall@{k}@{row['asked']}"].append(rank < k)
        listed = [item for item, at in shop.products.select("item_id", "listed_at").iter_rows() if at <= row["ts"]]
        found[f"{prefix}/share_new_gallery"].append(sum(item in new for item in listed) / len(listed))
        had = any(item in products for item in past(shop, row, 3))
        kinds.add((row["query_id"] in queries, had))
    assert {(True, True), (False, True)} <= kinds  # with and without a query's representation
    assert len(found["retrieval/recall@1"]) == len(evaluation_searches(shop, "test")) > 10
    for key, values in found.items():
        assert metrics[key] == pytest.approx(sum(values) / len(values)), key
    # Some of the validation days' searches came before the new products were listed, and some after.
    assert min(found["valid/retrieval/share_new_gallery"]) == 0 < max(found["valid/retrieval/share_new_gallery"])


class MeanRank(torchmetrics.MeanMetric):
    """The mean rank of what was ordered."""

    def update(self, ranks: torch.Tensor, gallery: int) -> None:
        super().update(ranks.clamp(max=gallery).double())


def test_metrics_of_the_recipe_are_measured_of_all_segments(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    metrics = run(shop, represented, tmp_path, weights=[0.3], ks=[1, 10], metrics=[MeanRank()])
    searches = pl.read_parquet(tmp_path / "searches.parquet")
    for split, prefix in (("test", ""), ("valid", "valid/")):
        rank = searches.filter(pl.col("split") == split)["rank"]
        assert metrics[f"{prefix}retrieval/mean_rank"] == pytest.approx(rank.mean())
    segments = {key.partition("recall@10")[2] for key in metrics if key.startswith("retrieval/recall@10")}
    assert {key.partition("mean_rank")[2] for key in metrics if key.startswith("retrieval/mean_rank")} == segments
    with pytest.raises(ValueError, match="metrics: auc reads 'scores', and here there are ranks, gallery, users"):
        Retrieval(metrics=[AUC()])


def test_query_only_ranks_as_the_image_search_does(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    run(shop, represented, tmp_path, reads="query", weights=[0.5])
    products, queries = (Representations.open(represented, name) for name in ("products", "queries"))
    searches = evaluation_searches(shop, "test")
    gallery = shop.products.filter(pl.Series(np.any(products.gather(shop.products["item_id"].to_numpy()) != 0, axis=1)))
    expected = ranks(
        torch.from_numpy(queries.gather(searches["query_id"].to_numpy())),
        torch.from_numpy(products.gather(gallery["item_id"].to_numpy())),
        searches["spu_id"].to_torch(),
        gallery["spu_id"].to_torch(),
        microseconds(searches["ts"]),
        microseconds(gallery["listed_at"]),
    )
    miss = expected == len(gallery)
    assert [row["rank"] for row in rows(tmp_path, "test")] == expected.masked_fill(miss, len(shop.products)).tolist()
    assert 0 < miss.sum() < len(miss)


def test_user_only_does_not_read_the_query(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    run(shop, represented, tmp_path, reads="user", weights=[0.0])
    products = vectors(represented, "products")
    for row in rows(tmp_path, "test"):
        assert row["rank"] == slow_rank(shop, row, slow_scores(shop, row, products, {}, 0.0, "mean", 20))


def test_popularity_counts_the_orders_so_far(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    metrics = run(shop, represented, tmp_path, representation="popularity", weights=[0.0], ks=[5])
    shares = []
    for row in rows(tmp_path, "test"):
        own = [event["ts"] for event in shop.searches.iter_rows(named=True) if event["search_id"] == row["search_id"]]
        scores = {item: 0 for item, at in shop.products.select("item_id", "listed_at").iter_rows() if at <= row["ts"]}
        for event in shop.searches.iter_rows(named=True):
            if event["action"] == "order" and event["ts"] < min(own) and event["item_id"] in scores:
                scores[event["item_id"]] += 1
        assert row["rank"] == slow_rank(shop, row, scores)
        shares.append(row["share_new@5"])
    # Of new products there was no order before; they come in only where a place is left among those without any.
    assert metrics["retrieval/share_new@5"] == pytest.approx(sum(shares) / len(shares))
    assert metrics["retrieval/share_new@5"] < metrics["retrieval/share_new_gallery"]


def test_a_search_that_says_nothing_is_counted_as_a_miss(shop: Dataset, tmp_path: Path) -> None:
    stores = example_representations(shop.products["item_id"], shop.queries["query_id"])["zero"]
    for store, name in zip(stores, ("products", "queries"), strict=True):
        store.save(tmp_path, name)
    metrics = run(shop, tmp_path, tmp_path, weights=[0.0, 0.5])
    assert metrics["retrieval/recall@10"] == 0 and metrics["retrieval/user_weight"] == 0
    assert "retrieval/share_new@10" not in metrics and "retrieval/share_new_gallery" in metrics
    assert len(list(rows(tmp_path, "test"))) == len(evaluation_searches(shop, "test"))


def test_the_weight_is_the_best_of_the_validation_days_and_the_first_of_equals(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    weights = [0.7, 0.0, 0.4, 1.0]
    metrics = run(shop, represented, tmp_path, weights=weights, ks=[10])
    alone = {}
    for weight in weights:
        (tmp_path / str(weight)).mkdir()
        alone[weight] = run(shop, represented, tmp_path / str(weight), weights=[weight], ks=[10])
        assert "retrieval/user_weight" not in alone[weight]
        key = "valid/retrieval/recall@10"
        assert metrics[f"{key}@user_weight={weight:g}"] == pytest.approx(alone[weight][key])
    best = max(weights, key=lambda weight: alone[weight]["valid/retrieval/recall@10"])
    assert metrics["retrieval/user_weight"] == best
    assert {key: metrics[key] for key in alone[best]} == alone[best]


def test_what_happens_later_changes_no_rank(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    """Neither the weight nor a search of the test days knows what a shopper did at its time or after it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(shop, represented, tmp_path / "a", weights=[0.5])
    whole = list(rows(tmp_path / "a", "test"))
    moment = whole[len(whole) // 2]["ts"]
    cut = Dataset(shop.directory)
    cut.__dict__["searches"] = shop.searches.filter(pl.col("ts") <= moment)
    run(cut, represented, tmp_path / "b", weights=[0.5])
    kept = list(rows(tmp_path / "b", "test"))
    assert 0 < len(kept) < len(whole)
    assert kept == [row for row in whole if row["ts"] <= moment]


def test_without_a_history_the_query_decides_alone(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert run(shop, represented, tmp_path / "none", history=0, weights=[0.9]) == run(
        shop, represented, tmp_path, reads="query", weights=[0.0]
    )


def test_mixing_by_hand() -> None:
    query, user = torch.tensor([[0.5, -0.5]] * 4), torch.tensor([[1.0, 0.0], [1.0, 0.0], [-torch.inf] * 2, [0.0] * 2])
    has_query, has_user = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    found = mixed(query, user, has_query, has_user, 0.25)
    assert found.tolist() == [[0.625, -0.375], [1.0, 0.0], [0.5, -0.5], [-torch.inf] * 2]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, None]), st.booleans()), min_size=1, max_size=9), st.data())
def test_shares_and_ranks_of_tied_scores(items: list[tuple[float | None, bool]], data: st.DataObject) -> None:
    """Places that are tied for are shared out; None cannot be retrieved."""
    k = data.draw(st.integers(1, len(items)))
    scores = torch.tensor([[-torch.inf if score is None else score for score, _ in items]])
    marked = torch.tensor([mark for _, mark in items])
    there = sorted((-score for score, _ in items if score is not None))[:k]
    share = 0.0
    for score, mark in items:
        if score is not None and mark:
            share += there.count(-score) / sum(other == score for other, _ in items)
    found = share_among(scores, marked, k)
    assert found.tolist() == ([pytest.approx(share / len(there))] if there else [pytest.approx(np.nan, nan_ok=True)])
    hits = [score for score, mark in items if mark and score is not None]
    ahead = sum(score is not None and score >= max(hits) for score, mark in items if not mark) if hits else len(items)
    assert best_rank(scores, marked.unsqueeze(0)).tolist() == [ahead]


def test_what_a_query_shows_and_when_its_search_began_is_told(tiny: Dataset) -> None:
    queries = {row["query_id"]: row for row in tiny.queries.iter_rows(named=True)}
    found = ordered_searches(tiny, "test")
    assert set(found["asked"]) == {"photo", "text", "both"}
    for query, asked in found.select("query_id", "asked").iter_rows():
        photo, text = queries[query]["image"] is not None, queries[query]["text"] is not None
        assert asked == {(True, True): "both", (True, False): "photo", (False, True): "text"}[photo, text]
    first: dict[int, Any] = {}
    for search, ts in tiny.searches.select("search_id", "ts").iter_rows():
        first[search] = min(first.get(search, ts), ts)
    began = pl.from_epoch(found["began"], "us").dt.replace_time_zone("UTC")
    assert began.to_list() == [first[search] for search in found["search_id"]]
    assert (began < found["ts"]).any()  # it was looked at before it was ordered


def test_the_oracle_finds_what_shuffled_vectors_do_not(tiny: Dataset, tmp_path: Path) -> None:
    context = StageContext(tiny, RetrievalData(), trainer=ALONE, directory=tmp_path, seed=0)  # type: ignore[arg-type]
    stage = Retrieval()
    assert [reference.prefix for reference in stage.references(tiny)][-1] == "oracle"
    oracle = Retrieval(representation="oracle", weights=[0.1]).run(context)
    popular = Retrieval(representation="popularity", weights=[0.0]).run(context)
    assert oracle["retrieval/recall@10"] > 2 * popular["retrieval/recall@10"]


def test_bad_arguments_and_data_are_refused(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights: expected .* in \[0, 1\], got \[0.5, 1.5\]"):
        Retrieval(weights=[0.5, 1.5])
    with pytest.raises(ValueError, match="ks: expected one K or more"):
        Retrieval(ks=[0])
    with pytest.raises(ValueError, match="ks: 500 of a gallery of 96 products; choose a smaller K"):
        run(shop, represented, tmp_path, ks=[10, 500])
    silent = Dataset(shop.directory)
    silent.__dict__["searches"] = shop.searches.filter(pl.col("ts") < shop.splits.train_until)
    with pytest.raises(ValueError, match=r"test days ended in an order.*--stages.retrieval null"):
        run(silent, represented, tmp_path)
    start, end = shop.splits.window("valid")
    silent.__dict__["searches"] = shop.searches.filter((pl.col("ts") < start) | (pl.col("ts") >= end))
    with pytest.raises(ValueError, match=r"validation days ended in an order.*give one"):
        run(silent, represented, tmp_path)
    assert "retrieval/recall@10" in run(silent, represented, tmp_path, weights=[0.1])


@pytest.mark.parametrize("interest", ["mean", "max"])
def test_keeps_the_promises_of_a_stage(interest: str) -> None:
    check_stage(lambda: Retrieval(ks=[1, 10], interest=interest))  # type: ignore[arg-type]


def test_with_representations_of_products_alone_the_shoppers_past_has_to_do(
    shop: Dataset, represented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = run(shop, represented, tmp_path, reads="user", weights=[0.0])
    given = tmp_path / "given"
    given.mkdir()
    Representations.open(represented, "products").save(given, "products")
    monkeypatch.setattr(Dataset, "representations", property(lambda dataset: given))
    assert run(shop, given, tmp_path, weights=[0.0]) == user
