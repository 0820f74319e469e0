from __future__ import annotations

import logging
import warnings
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from lightning import Trainer, seed_everything
from safetensors.torch import load_file

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.id_only import IdOnly
from moonlib.adapters.make import Make
from moonlib.adapters.vector import Vector
from moonlib.data.dataset import Dataset
from moonlib.predictors.mlp import MLP
from moonlib.representations.store import Representations
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.stage import StageContext
from moonlib.stages.tune import LowRankResidual, Tune


class Raw(Adapter):
    """Hands on all that it is given of representations, and remembers it."""

    def setup(self, id_dim: int, dim: int) -> None:
        self.out_features = 4 * dim

    def forward(self, batch: BehaviourBatch) -> torch.Tensor:
        self.seen = batch
        return torch.cat([batch.target, batch.query, batch.items.sum(dim=1), batch.queries.sum(dim=1)], dim=1)


def context_of(shop: Dataset, represented: Path, directory: Path, epochs: int) -> StageContext:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    directory.mkdir(exist_ok=True)
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
    return StageContext(shop, ImpressionData(batch_size=16), trainer, directory, seed=3, representations=represented)


def run(shop: Dataset, represented: Path, directory: Path, stage: Application, epochs: int) -> None:
    seed_everything(0, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stage.run(context_of(shop, represented, directory, epochs))


def test_it_adds_what_two_small_matrices_make_of_a_vector() -> None:
    torch.manual_seed(0)
    tune = LowRankResidual(dim=5, rank=2)
    vectors = torch.randn(3, 4, 5)
    assert torch.equal(tune(vectors), vectors)  # at first
    with torch.no_grad():
        tune.up.normal_()
    for row, found in zip(vectors.flatten(0, 1), tune(vectors).flatten(0, 1), strict=True):
        low = [sum(row[d].item() * tune.down[d, r].item() for d in range(5)) for r in range(2)]
        expected = [row[d].item() + sum(low[r] * tune.up[r, d].item() for r in range(2)) for d in range(5)]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert not tune(torch.zeros(5)).any()


def test_without_a_step_it_changes_nothing(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    for name, tune in (("frozen", None), ("tuned", Tune(3))):
        run(shop, represented, tmp_path / name, Application(Vector(), MLP([8]), tune=tune), epochs=0)
    frozen, tuned = (pl.read_parquet(tmp_path / name / "predictions.parquet") for name in ("frozen", "tuned"))
    assert frozen.equals(tuned)


def test_targets_histories_and_queries_are_tuned_alike_and_what_is_missing_stays_zero(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    adapter = Raw()
    stage = Application(adapter, MLP([8]), tune=Tune(3), learning_rate=0.01)
    run(shop, represented, tmp_path / "run", stage, epochs=1)
    saved = load_file(tmp_path / "run/weights.safetensors")
    assert saved["tune.up"].any()
    stores = {name: Representations.open(represented, name) for name in ("products", "queries")}
    residual = (saved["tune.down"] @ saved["tune.up"]).numpy()
    tuned = {
        name: {tuple(np.round(row + row @ residual, 4)) for row in np.asarray(store.vectors, dtype=np.float32)}
        for name, store in stores.items()
    }
    seen = adapter.seen  # of the last batch that was predicted
    for vectors, known, kind in (
        (seen.target, seen.target_known, "products"),
        (seen.items, seen.item_known, "products"),
        (seen.query, seen.has_query, "queries"),
        (seen.queries, seen.query_known, "queries"),
    ):
        assert known.any() and not vectors[~known].any()
        for row in vectors[known].numpy():
            near = min(float(np.abs(row - np.array(other)).max()) for other in tuned[kind])
            assert near < 1e-3


def test_what_has_been_tuned_is_scored_as_it_was_predicted(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    run(shop, represented, tmp_path / "run", Application(Vector(), MLP([8]), tune=Tune(3)), epochs=2)
    stage = Application(Vector(), MLP([8]), tune=Tune(3))
    test = shop.splits.select(shop.impressions, "test")
    found = stage.score(context_of(shop, represented, tmp_path / "run", epochs=0), test)
    predicted = pl.read_parquet(tmp_path / "run/predictions.parquet").filter(pl.col("split") == "test")
    np.testing.assert_allclose(found, predicted["probability"].to_numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"tune\.down"):
        Application(Vector(), MLP([8])).score(context_of(shop, represented, tmp_path / "run", epochs=0), test)


def test_its_references_tune_only_where_content_is_read(shop: Dataset) -> None:
    arguments = {each.prefix: each.module for each in Application(Vector(), MLP(), tune=Tune()).references(shop)}
    assert arguments["baseline"]["adapter"] == "id_only" and arguments["baseline"]["tune"] is None
    assert "tune" not in arguments["baseline/shuffled"]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (IdOnly(), "tune: IdOnly reads no representations that could be tuned; leave tune out"),
        (Make(epochs=1), "tune: Make is frozen once it is pretrained, and would read what goes on changing"),
    ],
)
def test_adapters_that_take_nothing_from_it_are_refused(adapter: Adapter, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Application(adapter, MLP(), tune=Tune())
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        Tune(0)
