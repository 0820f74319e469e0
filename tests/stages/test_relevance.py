from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from lightning import Trainer, seed_everything
from torchmetrics.classification import BinaryAUROC
from torchmetrics.retrieval import RetrievalNormalizedDCG

from moonlib.data.dataset import Dataset
from moonlib.metrics.auc import auc
from moonlib.predictors.mlp import MLP
from moonlib.representations.store import Representations
from moonlib.stages.relevance import JudgedData, Relevance, judged_impressions, pair_features
from moonlib.stages.stage import StageContext
from moonlib.testing import check_stage, example_representations


def run(
    shop: Dataset, represented: Path | None, directory: Path, epochs: int = 1, batch_size: int = 16, **arguments: Any
) -> dict[str, float]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=directory,
        )
        context = StageContext(
            shop, JudgedData(batch_size=batch_size), trainer, directory, seed=3, representations=represented
        )
        return Relevance(**arguments).run(context)


def judged(shop: Dataset, split: str) -> list[dict[str, Any]]:
    start, end = shop.splits.window(split)  # type: ignore[arg-type]
    return [
        row
        for row in shop.impressions.iter_rows(named=True)
        if row["relevance"] is not None and start <= row["ts"] < end  # type: ignore[operator]
    ]


def slow_ndcg(rows: list[dict[str, Any]], k: int, gain: str) -> float:
    """Search by search; rows of one score share the mean of their places' discounts."""
    values = []
    for search in {row["search_id"] for row in rows}:
        found = [row for row in rows if row["search_id"] == search]
        if len({row["relevance"] for row in found}) < 2:
            continue
        dcg = []
        for key in ("score", "relevance"):
            total = 0.0
            for row in found:
                above = sum(other[key] > row[key] for other in found)
                tied = sum(other[key] == row[key] for other in found)
                discount = sum(1 / math.log2(2 + place) for place in range(above, above + tied) if place < k) / tied
                total += discount * (2 ** row["relevance"] - 1 if gain == "exponential" else row["relevance"])
            dcg.append(total)
        values.append(dcg[0] / dcg[1])
    return sum(values) / len(values)


@pytest.mark.parametrize("gain", ["exponential", "linear"])
def test_the_cosine_alone_is_measured_as_by_hand(gain: str, shop: Dataset, represented: Path, tmp_path: Path) -> None:
    metrics = run(shop, represented, tmp_path, score="cosine", gain=gain, threshold=1.0, ks=[1, 3])
    products, queries = (Representations.open(represented, name) for name in ("products", "queries"))
    segments: dict[str, list[dict[str, Any]]] = {"": [], "@new": [], "@tail": []}
    listed = dict(shop.products.select("item_id", "listed_at").iter_rows())
    rows = judged(shop, "test")
    written = pl.read_parquet(tmp_path / "predictions.parquet").filter(pl.col("split") == "test")
    for row, tail in zip(rows, written["tail"], strict=True):
        query, item = (
            store.gather(np.array([row[key]]))[0].astype(np.float64)
            for store, key in ((queries, "query_id"), (products, "item_id"))
        )
        length = np.linalg.norm(query) * np.linalg.norm(item)
        row["score"] = float(query @ item / length) if length else 0.0
        segments[""].append(row)
        if listed[row["item_id"]] >= shop.splits.train_until:
            segments["@new"].append(row)
        if tail:
            segments["@tail"].append(row)
    assert sum(row["score"] == 0 for row in rows) > 3
    assert written["score"].to_list() == pytest.approx([row["score"] for row in rows], abs=1e-6)
    for suffix, part in segments.items():
        relevant = torch.tensor([row["relevance"] >= 1 for row in part])
        expected = auc(torch.tensor([row["score"] for row in part]), relevant).item()
        if math.isnan(expected):
            assert f"relevance/auc{suffix}" not in metrics
        else:
            assert metrics[f"relevance/auc{suffix}"] == pytest.approx(expected)
    for k in (1, 3):
        assert metrics[f"relevance/ndcg@{k}"] == pytest.approx(slow_ndcg(rows, k, gain))
    # All of the shop's impressions answer texts.
    assert metrics["relevance/auc@text"] == metrics["relevance/auc"] and "relevance/auc@photo" not in metrics
    assert not (tmp_path / "weights.safetensors").exists()


def test_metrics_of_the_recipe_are_measured_of_the_segments_that_their_rows_allow(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    plain = run(shop, represented, tmp_path, score="cosine", threshold=1.0, ks=[3])
    more = [BinaryAUROC(), RetrievalNormalizedDCG()]
    metrics = run(shop, represented, tmp_path, score="cosine", threshold=1.0, ks=[3], metrics=more)
    assert {key: metrics[key] for key in plain} == plain
    assert metrics["relevance/binary_auroc"] == pytest.approx(metrics["relevance/auc"], abs=1e-6)

    def segments(name: str) -> set[str]:
        return {key.partition(name)[2] for key in metrics if key.startswith(f"relevance/{name}")}

    # What ranks within searches is not measured of products: a search without some of its products is another.
    assert "@tail" in segments("binary_auroc") and segments("retrieval_normalized_dcg") == {"", "@text"}


def test_judged_impressions_are_those_with_a_label_on_the_days_of_the_split(shop: Dataset) -> None:
    for split in ("train", "valid", "test"):
        found = judged_impressions(shop, split)  # type: ignore[arg-type]
        keys = ("search_id", "user_id", "query_id", "item_id", "relevance")
        assert list(found.iter_rows()) == [tuple(row[key] for key in keys) for row in judged(shop, split)]
        assert 0 < len(found) < len(shop.splits.select(shop.impressions, split))  # type: ignore[arg-type]


def informative(shop: Dataset, directory: Path) -> Path:
    """Representations that tell colour and kind, and the kind louder, though the grades count the colour double."""
    colours, kinds = shop.products["title"].str.split(" ").list.get(0), shop.products["category"]
    of_colour = {colour: i for i, colour in enumerate(sorted(set(colours.drop_nulls())))}
    of_kind = {kind: i for i, kind in enumerate(sorted(set(kinds)))}
    items = np.zeros((len(colours), 16), dtype=np.float32)
    for row, (colour, kind) in enumerate(zip(colours, kinds, strict=True)):
        if colour is not None:
            items[row, of_colour[colour]] = 1
        items[row, 8 + of_kind[kind]] = 3
    queries = np.zeros((len(shop.queries), 16), dtype=np.float32)
    for row, text in enumerate(shop.queries["text"]):
        if text is not None:
            queries[row, of_colour[text.split(" ")[0]]] = 1
            queries[row, 8 + of_kind[f"goods/{text.split(' ')[2]}"]] = 3
    Representations(shop.products["item_id"].to_numpy(), items).save(directory, "products")
    Representations(shop.queries["query_id"].to_numpy(), queries).save(directory, "queries")
    return directory


def test_labels_teach_what_the_cosine_does_not_know(shop: Dataset, tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    vectors = informative(shop, tmp_path / "vectors")
    zero_shot = run(shop, vectors, tmp_path, score="cosine")
    learned = run(shop, vectors, tmp_path, epochs=40, learning_rate=0.05, predictor=MLP([]))
    for key in ("relevance/auc", "valid/relevance/auc"):
        assert learned[key] > zero_shot[key] + 0.03
    assert (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(("gain", "worth"), [("exponential", lambda r: 2**r - 1), ("linear", lambda r: r)])
def test_the_score_is_the_expected_gain_over_the_highest(gain: str, worth: Any, shop: Dataset, tmp_path: Path) -> None:
    """Vectors that say nothing leave the mean of the training days' gains, whatever the test days hold."""
    for store, name in zip(
        example_representations(shop.products["item_id"], shop.queries["query_id"])["zero"],
        ("products", "queries"),
        strict=True,
    ):
        store.save(tmp_path, name)
    run(shop, tmp_path, tmp_path, gain=gain, predictor=MLP([]), epochs=150, learning_rate=0.05, batch_size=64)
    gains = [worth(row["relevance"]) for row in judged(shop, "train")]
    scores = pl.read_parquet(tmp_path / "predictions.parquet")["score"]
    assert scores.to_list() == pytest.approx([sum(gains) / len(gains) / max(gains)] * len(scores), abs=0.01)


def test_features_tell_what_is_missing() -> None:
    query, item = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    found = pair_features(query, item)
    assert found[0].tolist() == pytest.approx([0.8, 0.0, 0.8 * math.sqrt(2), 1, 1])
    assert found[1:].tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]
    assert torch.allclose(pair_features(query * 7, item * 0.1), found)


def test_the_oracle_knows_what_shuffled_vectors_do_not(tiny: Dataset, tmp_path: Path) -> None:
    prefixes = [reference.prefix for reference in Relevance().references(tiny)]
    assert prefixes == ["baseline/cosine", "baseline/shuffled", "oracle"]
    oracle = run(tiny, None, tmp_path, representation="oracle", score="cosine")
    assert oracle["relevance/auc"] > 0.8 and oracle["relevance/ndcg@10"] > 0.85
    assert Relevance(representation="oracle").needs == frozenset()


def relabelled(shop: Dataset, split: str | None, value: pl.Expr) -> Dataset:
    """The shop with other grades on the days of a split, or on all days."""
    changed = Dataset(shop.directory)
    start, end = shop.splits.window(split) if split else (None, None)  # type: ignore[arg-type]
    there = pl.lit(True) if split is None else (pl.col("ts") >= start) & (pl.col("ts") < end)
    grade = pl.when(there & pl.col("relevance").is_not_null()).then(value).otherwise(pl.col("relevance"))
    changed.__dict__["impressions"] = shop.impressions.with_columns(relevance=grade)
    return changed


@pytest.mark.parametrize(
    ("split", "value", "message"),
    [
        (None, pl.lit(None), r"no impression of the train days has a relevance label.*--stages.relevance null"),
        ("test", pl.lit(None), r"no impression of the test days has a relevance label"),
        ("train", pl.lit(0.0), r"every grade of the training days is 0"),
        ("test", pl.col("relevance") / 3, r"grades of the test days run from 0 to 1, and 2 does not part them"),
        ("test", pl.lit(5.0), r"grades of the test days run from 5 to 5, and 2 does not part them"),
        ("valid", pl.lit(-1.0), r"column 'relevance': relevance must be a grade from 0 up, got -1"),
    ],
)
def test_labels_of_no_use_are_refused(
    split: str | None, value: pl.Expr, message: str, shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(relabelled(shop, split, value), represented, tmp_path)


def test_validation_days_without_labels_are_left_out(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    metrics = run(relabelled(shop, "valid", pl.lit(None)), represented, tmp_path)
    assert "relevance/auc" in metrics and not any(key.startswith("valid/") for key in metrics)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ks: each K must be at least 1, got \[5, 0\]"):
        Relevance(ks=[5, 0])


@pytest.mark.parametrize("score", ["predictor", "cosine"])
def test_keeps_the_promises_of_a_stage(score: str) -> None:
    check_stage(lambda: Relevance(score=score), JudgedData(batch_size=8), max_epochs=2)  # type: ignore[arg-type]


def test_representations_of_products_alone_are_refused(
    shop: Dataset, represented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Representations.open(represented, "products").save(tmp_path, "products")
    monkeypatch.setattr(Dataset, "representations", property(lambda dataset: tmp_path))
    with pytest.raises(ValueError, match=r"of its products alone, .* leave it out \(--stages.relevance null\)"):
        run(shop, tmp_path, tmp_path)
