"""What a training logs while it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import polars as pl
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.in_batch import InBatch
from moonlib.stages.contrastive import Contrastive, PairData
from moonlib.stages.pretraining import Pretraining
from moonlib.testing.stages import Bench, small_encoder


class Norms(Callback):
    """Notes the norm that torch's own clipping finds before each step of the optimizer."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.found.append(float(torch.nn.utils.clip_grad_norm_(weights, torch.inf)))


def pretraining(**arguments: Any) -> Contrastive:
    return Pretraining(InfoNCE(), [InBatch()], **arguments)


def logged(tmp_path: Path, stage: Contrastive, *callbacks: Callback, **trainer: Any) -> pl.DataFrame:
    data = PairData({"image -> title+image": 1.0}, batch_size=16, workers=0)
    bench = Bench(tmp_path, data, {"max_steps": 6, **trainer}, small_encoder)
    bench.run(stage, "run", *callbacks)
    return pl.read_csv(tmp_path / "run/csv/metrics.csv")


@pytest.mark.parametrize(
    ("arguments", "trainer"),
    [
        ({}, {}),
        ({"grad_cache": 5}, {"precision": "bf16-mixed"}),
        ({}, {"gradient_clip_val": 1e-3, "accumulate_grad_batches": 2}),
    ],
)
def test_the_gradient_norm_is_what_clipping_sees(
    arguments: dict[str, Any], trainer: dict[str, Any], tmp_path: Path
) -> None:
    norms = Norms()
    log = logged(tmp_path, pretraining(**arguments), norms, **trainer)
    assert len(norms.found) == 6 and min(norms.found) > 1e-3
    assert log["gradient_norm"].to_list() == pytest.approx(norms.found, rel=1e-5)


def test_a_short_training_logs_every_step_and_the_rate_it_was_made_with(tmp_path: Path) -> None:
    log = logged(tmp_path, pretraining(learning_rate=0.01, warmup=0.5))
    assert log["step"].to_list() == [0, 1, 2, 3, 4, 5]
    assert log["learning_rate"].to_list()[:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert log["loss"].null_count() == 0
    assert log["samples_per_second"].to_list()[0] is None and log["samples_per_second"][1:].min() > 0  # type: ignore[operator]


def test_what_the_recipe_says_of_the_interval_counts(tmp_path: Path) -> None:
    log = logged(tmp_path, pretraining(), log_every_n_steps=3)
    assert log["step"].to_list() == [2, 5] and log.null_count().sum_horizontal().item() == 0


def test_to_log_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import load_file

    from moonlib.stages import training_log

    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        if name == "without":
            for hook in ("on_train_start", "on_before_optimizer_step", "on_train_batch_end"):
                monkeypatch.delattr(training_log.TrainingLog, hook)
        logged(tmp_path / name, pretraining(), log_every_n_steps=1)
    weights = [load_file(tmp_path / name / "run/weights.safetensors") for name in ("with", "without")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
