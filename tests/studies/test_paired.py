from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torchmetrics.classification import BinaryAUROC

from moonlib.metrics.auc import AUC, auc
from moonlib.metrics.calibration_curve import calibration_curve
from moonlib.metrics.ctr import ctr_metrics
from moonlib.metrics.log_loss import LogLoss
from moonlib.metrics.recall import Recall
from moonlib.studies.paired import (
    auc_gain,
    metric_gain,
    recall_gain,
    resampled_click_rates,
    resampled_ctr,
    resampled_metrics,
    show,
)


@pytest.fixture
def clicks() -> pl.DataFrame:
    """600 predictions of two models; ids beyond float, and users who clicked nothing."""
    rng = np.random.default_rng(3)
    clicked = rng.random(600) < 0.25
    good, poor = (
        np.clip(0.25 + weight * (clicked - 0.25) + rng.normal(0, 0.1, 600), 0.01, 0.99) for weight in (0.4, 0.1)
    )
    users = np.where(clicked, rng.integers(0, 30, 600), rng.integers(0, 40, 600)) + 2**60
    return pl.DataFrame({"user_id": users, "clicked": clicked, "good": good.round(3), "poor": poor.round(3)})


def of(clicks: pl.DataFrame, model: str) -> pl.DataFrame:
    return clicks.select("user_id", "clicked", probability=model)


def test_estimates_are_those_of_the_metrics(clicks: pl.DataFrame) -> None:
    models = np.stack([clicks["good"].to_numpy(), clicks["poor"].to_numpy()])
    found = resampled_ctr(models, clicks["clicked"].to_numpy(), clicks["user_id"].to_numpy(), samples=10)
    for i, model in enumerate(("good", "poor")):
        expected = ctr_metrics(of(clicks, model))
        assert {name: each.estimates[i] for name, each in found.items()} == pytest.approx(
            {name: value for name, value in expected.items() if name != "auc"}, rel=1e-12
        )


def test_resamples_are_the_metrics_of_the_users_drawn(clicks: pl.DataFrame) -> None:
    models = np.stack([clicks["good"].to_numpy(), clicks["poor"].to_numpy()])
    found = resampled_ctr(models, clicks["clicked"].to_numpy(), clicks["user_id"].to_numpy(), samples=8)
    rng = np.random.default_rng(0)
    users = clicks["user_id"].unique().sort().to_numpy()
    for sample in range(8):
        drawn = users[rng.integers(len(users), size=len(users))]
        # One and the same user drawn twice is two users, each with a GAUC of its own: weights, not new ids, do that.
        rows = pl.concat([clicks.filter(pl.col("user_id") == user) for user in drawn])
        expected = ctr_metrics(of(rows, "poor"))
        for metric in ("logloss", "ne", "pcoc"):
            assert found[metric].samples[1, sample] == pytest.approx(expected[metric], rel=1e-12)
        copies = pl.concat(
            [clicks.filter(pl.col("user_id") == user).with_columns(user_id=pl.lit(i)) for i, user in enumerate(drawn)]
        )
        expected = ctr_metrics(of(copies.cast({"user_id": pl.Int64}), "poor"))
        assert found["gauc"].samples[1, sample] == pytest.approx(expected["gauc"], rel=1e-12)


def test_a_better_model_is_surely_better_and_equal_ones_are_the_same(clicks: pl.DataFrame) -> None:
    models = np.stack([clicks[name].to_numpy() for name in ("good", "poor", "poor")])
    found = resampled_ctr(models, clicks["clicked"].to_numpy(), clicks["user_id"].to_numpy(), samples=200)
    assert found["gauc"].difference(0, 1).low > 0
    assert found["logloss"].difference(0, 1).high < 0
    same = found["ece"].difference(1, 2)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)


def test_recall_of_several_models_and_ks() -> None:
    models = [{"ranks": torch.tensor(ranks), "gallery": 100} for ranks in ([0, 3, 12, 1], [0, 0, 0, 0])]
    found = resampled_metrics([Recall(1), Recall(10)], models, np.array([7, 7, 8, 9]), samples=50)
    first, tenth = found["recall@1"], found["recall@10"]
    assert first.estimates.tolist() == [0.25, 1.0] and tenth.estimates.tolist() == [0.75, 1.0]
    assert tenth.difference(1, 0).low >= 0


def test_click_rates_are_the_calibration_curve(clicks: pl.DataFrame) -> None:
    p, clicked, users = clicks["good"].to_numpy(), clicks["clicked"].to_numpy(), clicks["user_id"].to_numpy()
    curve = calibration_curve(torch.tensor(p), torch.tensor(clicked), bins=7)
    found = resampled_click_rates(p, clicked, users, bins=7)
    assert [promised for promised, _ in found] == pytest.approx(curve.prediction.tolist())
    assert [rate.estimate for _, rate in found] == pytest.approx(curve.click_rate.tolist())
    assert all(rate.low <= rate.estimate <= rate.high for _, rate in found)


def test_gains_are_read_from_the_files_of_runs(clicks: pl.DataFrame, tmp_path: Path) -> None:
    rows = clicks.with_row_index("item_id").with_columns(
        search_id=pl.col("item_id") // 4,
        split=pl.when(pl.col("item_id") < 500).then(pl.lit("test")).otherwise(pl.lit("valid")),
    )
    for model in ("good", "poor"):
        (tmp_path / model / "represent").mkdir(parents=True)
        predictions = rows.select("search_id", "item_id", "user_id", "clicked", "split", probability=model)
        predictions.sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / model / "predictions.parquet")
        rank = (1 - pl.col(model)) * 20
        searches = rows.select(
            "search_id", "item_id", "user_id", "split", rank=rank.cast(pl.Int64), task=pl.lit("image_search")
        )
        # Texts are found as badly as photos are found well.
        texts = searches.with_columns(rank=20 - pl.col("rank"), task=pl.lit("text_search"))
        pl.concat([searches, texts]).write_parquet(tmp_path / model / "represent/searches.parquet")
    test = rows.filter(split="test")
    aucs = [
        auc(torch.tensor(test[m].to_numpy()), torch.tensor(test["clicked"].to_numpy())).item() for m in ("good", "poor")
    ]
    gain = auc_gain(tmp_path / "good", tmp_path / "poor")
    assert gain.estimate == pytest.approx(aucs[0] - aucs[1])
    hits = [((1 - test[m].to_numpy()) * 20).astype(int) < 15 for m in ("good", "poor")]
    found = recall_gain(tmp_path / "good", tmp_path / "poor", k=15)
    assert found.estimate == pytest.approx(hits[0].mean() - hits[1].mean())
    assert show(found).count("+") + show(found).count("-") == 3
    hits = [20 - ((1 - test[m].to_numpy()) * 20).astype(int) < 5 for m in ("good", "poor")]
    texts = recall_gain(tmp_path / "good", tmp_path / "poor", k=5, task="text_search")
    assert texts.estimate == pytest.approx(hits[0].mean() - hits[1].mean()) and texts.estimate != found.estimate


def test_an_item_shown_twice_in_a_search_counts_twice_and_other_rows_are_refused(tmp_path: Path) -> None:
    scores = {"a": [0.9, 0.2, 0.4, 0.6], "b": [0.1, 0.2, 0.3, 0.4]}
    for name, probability in scores.items():
        (tmp_path / name).mkdir()
        rows = {"search_id": [1, 1, 2, 2], "item_id": [5, 5, 5, 6], "user_id": [7, 7, 8, 8]}
        table = pl.DataFrame(rows | {"clicked": [True, False, False, True], "probability": probability})
        table.with_columns(split=pl.lit("test")).write_parquet(tmp_path / name / "predictions.parquet")
    assert auc_gain(tmp_path / "a", tmp_path / "b").estimate == 1.0 - 0.5
    assert metric_gain(tmp_path / "a", tmp_path / "b", AUC()) == auc_gain(tmp_path / "a", tmp_path / "b")
    resampled = metric_gain(tmp_path / "a", tmp_path / "b", LogLoss())
    assert resampled.low <= resampled.estimate <= resampled.high and "[" in show(resampled)
    opaque = metric_gain(tmp_path / "a", tmp_path / "b", BinaryAUROC())
    assert show(opaque) == "+0.5000"  # it can't be resampled
    table.head(3).with_columns(split=pl.lit("test")).write_parquet(tmp_path / "b/predictions.parquet")
    with pytest.raises(ValueError, match="same rows"):
        auc_gain(tmp_path / "a", tmp_path / "b")
