from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything

from moonlib.adapters.concat import Concat
from moonlib.adapters.cube import Cube
from moonlib.adapters.id_only import IdOnly
from moonlib.adapters.interaction import Interaction
from moonlib.adapters.make import Make
from moonlib.adapters.semantic_id import SemanticId
from moonlib.adapters.simtier import SimTier
from moonlib.data.dataset import Dataset
from moonlib.metrics.auc import auc
from moonlib.metrics.gauc import GAUC, gauc
from moonlib.metrics.rce import RCE
from moonlib.predictors.dcnv2 import DCNv2
from moonlib.predictors.mlp import MLP
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.stage import StageContext
from moonlib.stages.tune import Tune
from moonlib.testing import check_stage


class Watch(Callback):
    """Remembers weights at the start of every epoch, before its first step, and at the end of it."""

    def __init__(self) -> None:
        self.begin: list[dict[str, torch.Tensor]] = []
        self.end: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.begin.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def run(
    shop: Dataset, represented: Path | None, directory: Path, stage: Application, epochs: int = 1, **data: Any
) -> tuple[dict[str, float], Watch]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[watch],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=directory,
        )
        settings = ImpressionData(**{"batch_size": 16, **data})
        context = StageContext(shop, settings, trainer, directory, seed=3, representations=represented)
        return stage.run(context), watch


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_pretrained_adapter_learns_alone_first_and_is_frozen_then(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    stage = Application(Concat([Make(epochs=2, width=4, hidden=[6, 3]), SimTier()]), MLP([8, 5]))
    _, watch = run(shop, represented, tmp_path, stage, epochs=1)
    assert len(watch.begin) == 3  # two of the adapter and one of the click model
    for epoch in (0, 1):
        changed = moved(watch.begin[epoch], watch.end[epoch])
        assert changed and all("adapter.adapters.1." in name for name in changed)
    changed = moved(watch.begin[2], watch.end[2])
    assert not any("adapter.adapters.1." in name for name in changed)
    assert {"model.item.weight", "model.adapter.adapters.0.scale", "model.predictor.matched_scale"} <= changed


def test_matched_outputs_are_joined_and_no_inputs(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    stage = Application(Make(epochs=1, width=4, hidden=[6, 3]), MLP([8, 5]), id_dim=2)
    run(shop, represented, tmp_path, stage)
    layers = [p for p in stage.model.predictor.parameters() if p.ndim == 2]
    inputs = 6 * 2 + 1 + (4 * 4 + 3)
    assert [tuple(layer.shape) for layer in layers] == [(8, inputs), (5, 8 + 6), (1, 5 + 3)]


def test_ids_begin_anew_after_their_epochs_and_nothing_else_does(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    _, watch = run(shop, represented, tmp_path, Application(SimTier(), MLP([8]), id_epochs=2), epochs=5)
    tables = {f"model.{name}.weight" for name in ("user", "item", "category", "merchant")}
    for epoch in range(1, 5):
        changed = moved(watch.end[epoch - 1], watch.begin[epoch])
        assert changed == (tables if epoch in (2, 4) else set())
    fresh = watch.begin[2]["model.item.weight"]
    assert 0.005 < fresh.std() < 0.02 and not torch.equal(fresh, watch.begin[4]["model.item.weight"])


@pytest.mark.parametrize("sparse", [False, True])
def test_ids_that_begin_anew_take_their_first_step_as_new_ones(
    sparse: bool, shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    """Adam's first step is as long as the learning rate, whatever the gradient: its moments were forgotten."""
    stage = Application(IdOnly(), MLP([8]), learning_rate=0.01, id_epochs=1, sparse=sparse)
    _, watch = run(shop, represented, tmp_path, stage, epochs=2, batch_size=10_000)
    step = (watch.end[1]["model.user.weight"] - watch.begin[1]["model.user.weight"]).abs()
    assert step.max() == pytest.approx(0.01, rel=1e-3)
    assert step[step > 1e-4].min() > 0.005  # of the smallest gradient, Adam's epsilon takes a part


@pytest.mark.parametrize(
    "make",
    [
        lambda: Application(Make(epochs=1, width=4, hidden=[6]), MLP([8]), id_epochs=1),
        lambda: Application(
            Cube(),
            DCNv2(cross_layers=1, hidden=[8]),
            id_epochs=1,
            features={
                "products.attributes": "multi_valued",
                "products.price": "log_numeric",
                "users.user_id": "categorical",
            },
            min_count=2,
            sparse=True,
        ),
        lambda: Application(SemanticId(levels=2, codes=4), MLP([8]), buckets=7),
        lambda: Application(Concat([Interaction(width=4), SimTier()]), MLP([8]), tune=Tune(rank=2)),
    ],
    ids=["make", "features and sparse", "semantic_id and hashed", "tuned"],
)
def test_it_keeps_the_promises_of_a_stage(make: Any) -> None:
    """Among them: killed and continued, the same bits."""
    check_stage(make, ImpressionData(batch_size=32, history=6, query_history=3), max_epochs=3)


def test_metrics_of_the_recipe_stand_beside_the_own_and_change_nothing_of_them(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    own, _ = run(shop, represented, tmp_path, Application(IdOnly(), MLP()))
    stage = Application(IdOnly(), MLP(), metrics=[RCE(), GAUC("unweighted")])
    more, _ = run(shop, represented, tmp_path / "more", stage)
    assert {key for key in own if "/gauc" not in key} <= more.keys()
    assert all(more[key] == value for key, value in own.items() if "/gauc" not in key)
    added = {key.replace("rce", "ne") for key in more if "/rce" in key}
    assert added == {key for key in own if "/ne" in key}
    assert more["ctr/rce"] == pytest.approx(100 * (1 - own["ctr/ne"]))
    predictions = pl.read_parquet(tmp_path / "more/predictions.parquet").filter(pl.col("split") == "test")
    columns = (predictions[name].to_torch() for name in ("probability", "clicked", "user_id"))
    assert more["ctr/gauc"] == gauc(*columns, "unweighted").item()
    assert list(stage.meanings())[-1] == "ctr/rce"


def test_segments_are_those_of_the_column_and_its_values(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    stage = Application(SimTier(), MLP([8]))
    metrics, _ = run(shop, represented, tmp_path, stage, segments=["products.category"])
    predictions = pl.read_parquet(tmp_path / "predictions.parquet").filter(pl.col("split") == "test")
    category = dict(shop.products.select("item_id", "category").iter_rows())
    assert predictions["category"].to_list() == [category[item] for item in predictions["item_id"]]
    found = 0
    for value in set(category.values()):
        part = predictions.filter(pl.col("category") == value)
        if part["clicked"].n_unique() == 2:
            expected = auc(torch.tensor(part["probability"].to_list()), torch.tensor(part["clicked"].to_list())).item()
            assert metrics[f"ctr/auc@category={value}"] == pytest.approx(expected)
            found += 1
        else:
            assert f"ctr/auc@category={value}" not in metrics
    assert found > 2


def test_searches_and_feed_are_measured_apart_where_there_are_both(
    shop: Dataset, tiny: Dataset, tmp_path: Path
) -> None:
    for name in ("both", "all"):
        (tmp_path / name).mkdir()
    metrics, _ = run(tiny, None, tmp_path / "both", Application(IdOnly(), MLP([8])), batch_size=1024)
    predictions = pl.read_parquet(tmp_path / "both/predictions.parquet").filter(pl.col("split") == "test")
    queries = tiny.splits.select(tiny.impressions, "test")["query_id"]
    assert predictions["feed"].to_list() == queries.is_null().to_list()
    assert json.loads((tmp_path / "both/rows.json").read_text())["ctr/n@feed"] == queries.null_count() > 0
    for segment, rows in (("feed", queries.is_null()), ("searches", queries.is_not_null())):
        part = predictions.filter(rows)
        expected = auc(torch.tensor(part["probability"].to_list()), torch.tensor(part["clicked"].to_list())).item()
        assert metrics[f"ctr/auc@{segment}"] == pytest.approx(expected)
    assert {"valid/ctr/gauc@feed", "ctr/logloss@searches"} <= metrics.keys()
    assert shop.impressions["query_id"].null_count() == 0
    metrics, _ = run(shop, None, tmp_path / "all", Application(IdOnly(), MLP([8])))
    assert not [key for key in metrics if "@feed" in key or "@searches" in key]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (["users.ages"], "segments: users has no column 'ages'; it has "),
        (["searches.action"], "'searches.action' is no column of users or products"),
        (["category"], "'category' is no column of users or products, such as users.region"),
        (["products.attributes"], "products.attributes is .*, and not a text, a number or true or false"),
        (["products.feed"], "segments: products.feed: 'feed' is a segment of every application; rename the column"),
        (["products.spu_id", "products.spu_id"], "two columns are called 'spu_id'"),
    ],
)
def test_segments_that_are_none_are_told_before_training(
    segments: list[str], message: str, shop: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(shop, None, tmp_path, Application(IdOnly(), MLP([8])), segments=segments)


def test_sparse_tables_and_pretraining_on_several_devices_are_refused() -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="set sparse: false, or train on one device"):
        Application(Make(epochs=1), MLP([8]), sparse=True).add_epochs(trainer, 1)


@pytest.mark.parametrize("name", ["id_epochs", "min_count", "buckets"])
def test_arguments_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Application(IdOnly(), MLP(), **{name: 0})


def test_sparse_gradients_are_clipped_where_the_trainer_clips(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    """Far below what Adam's epsilon lets through, clipped gradients move nothing; unclipped ones do."""
    moves = []
    for limit in (None, 1e-14):
        stage = Application(IdOnly(), MLP([8]), sparse=True)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        seed_everything(0, verbose=False)
        directory = tmp_path / str(limit)
        directory.mkdir()
        watch = Watch()
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[watch],
            logger=False,
            gradient_clip_val=limit,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=directory,
        )
        stage.run(StageContext(shop, ImpressionData(batch_size=64), trainer, directory, seed=3))
        moves.append((watch.end[0]["model.item.weight"] - watch.begin[0]["model.item.weight"]).abs().max().item())
    assert moves[0] > 1e-3 and moves[1] < 1e-6


def test_a_large_catalogue_is_fitted_to_in_part(
    shop: Dataset, represented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("moonlib.stages.application.FITTED", 10)
    monkeypatch.setattr(SemanticId, "fit", lambda self, vectors: seen.append(len(vectors)))
    run(shop, represented, tmp_path, Application(SemanticId(levels=1, codes=4), MLP([8])))
    assert seen == [10]
    known = shop.splits.known(shop.products)["item_id"].to_numpy()
    monkeypatch.setattr("moonlib.stages.application.FITTED", 10_000)
    directory = tmp_path / "whole"
    directory.mkdir()
    run(shop, represented, directory, Application(SemanticId(levels=1, codes=4), MLP([8])))
    assert seen[1] == len(known) < len(np.unique(shop.products["item_id"].to_numpy()))
