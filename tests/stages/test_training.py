"""What a recipe may ask of Lightning's trainer in any training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from moonlib.cli import main
from moonlib.runs.iteration import fit
from moonlib.stages import training
from moonlib.stages.represent import Represent
from moonlib.stages.stage import StageContext
from moonlib.stages.training import NotLogged, join, require_monitored
from moonlib.testing.stages import Bench, small_encoder

PATH = "lightning.pytorch.callbacks"


class Late(Callback):
    """Logs a metric of its own at the end of an epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("mine", 1.0)


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A runs directory whose pretraining is still to be done, and which makes nothing else."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


def train(runs: Path, *overrides: str, name: str = "mine") -> Path:
    words = ["--stages.represent=null", "--seed=3", *overrides]
    return fit(runs / "iter1/recipe.yaml", words, runs=runs, name=name)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_under_mixed_precision_too(algorithm: str, copied: Path) -> None:
    mixed = ["--stages.pretrain.trainer.precision=bf16-mixed", "--stages.pretrain.trainer.accelerator=cpu"]
    clipped = [*mixed, f"--stages.pretrain.trainer.gradient_clip_algorithm={algorithm}"]
    runs = [
        train(copied, *clipped, f"--stages.pretrain.trainer.gradient_clip_val={value}", name=f"clip{value}")
        for value in (1e-8, 1e8)
    ]
    free = train(copied, *mixed, name="free")
    weights = [load_file(run / "pretrain/weights.safetensors") for run in (*runs, free)]
    assert all(np.isfinite(value).all() for found in weights for value in found.values())

    def near(one: int, other: int) -> bool:
        # Whether torch's optimizer is fused shows in the last bits.
        return all(np.allclose(weights[one][name], weights[other][name], atol=1e-5) for name in weights[one])

    assert near(1, 2) and not near(0, 2)


@pytest.mark.parametrize(
    "callback",
    [
        f"{{class_path: {PATH}.EarlyStopping, init_args: {{monitor: val_loss}}}}",
        f"{{class_path: {PATH}.EarlyStopping, init_args: {{monitor: valid/ctr/auc, mode: max}}}}",
    ],
)
def test_a_metric_that_training_does_not_log_is_told_at_once(
    callback: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--stages.pretrain.trainer.callbacks=[{callback}]", "--stages.pretrain.trainer.max_steps=100000"]
    code = main(["fit", "--config", str(copied / "iter1/recipe.yaml"), "--runs", str(copied), "--name=mine", *words])
    told = capsys.readouterr().err
    assert code == 2 and told.count("\n") == 1
    assert (
        "Pretraining: trainer.callbacks: " in told
        and "logs no such metric, only loss, learning_rate, gradient_norm; " in told
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"callbacks=[{{class_path: {PATH}.ModelCheckpoint}}]", "found `ModelCheckpoint` in callbacks list"),
        ("accelerator=tpu", "torch_xla"),
        ("overfit_batches=-3", "-3"),
    ],
)
def test_what_lightning_refuses_names_the_trainer(
    override: str, told: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stages.pretrain.trainer." + override, "--seed=3"]
    code = main(["fit", "--config", str(copied / "iter1/recipe.yaml"), "--runs", str(copied), "--name=mine", *words])
    line = capsys.readouterr().err
    assert code == 2 and line.count("\n") == 1 and "stages.pretrain.trainer: " in line and told.lower() in line.lower()


def test_a_metric_that_is_logged_may_be_monitored(copied: Path) -> None:
    stop = f"{{class_path: {PATH}.EarlyStopping, init_args: {{monitor: loss}}}}"
    lax = f"{{class_path: {PATH}.EarlyStopping, init_args: {{monitor: val_loss, strict: false}}}}"
    assert (train(copied, f"--stages.pretrain.trainer.callbacks=[{stop}, {lax}]") / "pretrain").is_dir()


def test_a_callback_that_waits_for_a_validation_that_never_comes_is_told(copied: Path) -> None:
    for name, init_args, more in (
        ("asked", "monitor: loss, check_on_train_epoch_end: false", []),
        ("chosen", "monitor: loss, strict: false", ["--stages.pretrain.trainer.check_val_every_n_epoch=2"]),
    ):
        stop = f"{{class_path: {PATH}.EarlyStopping, init_args: {{{init_args}}}}}"
        with pytest.raises(NotLogged, match=r"EarlyStopping checks after validation only.*check_on_train_epoch_end"):
            train(copied, f"--stages.pretrain.trainer.callbacks=[{stop}]", *more, name=name)


def test_a_metric_that_a_callback_of_one_s_own_logs_may_be_monitored(copied: Path) -> None:
    stop = f"{{class_path: {PATH}.EarlyStopping, init_args: {{monitor: mine}}}}"
    own = f"{{class_path: {__name__}.Late}}"
    assert (train(copied, f"--stages.pretrain.trainer.callbacks=[{own}, {stop}]") / "pretrain").is_dir()
    other = stop.replace("mine", "yours")
    with pytest.raises(NotLogged, match=r"EarlyStopping monitors 'yours'.*only loss, learning_rate, .*mine"):
        train(copied, f"--stages.pretrain.trainer.callbacks=[{own}, {other}]", "--seed=4", name="other")


def test_other_callbacks_monitor_nothing() -> None:
    trainer: Any = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    require_monitored(trainer)


def test_an_empty_log_of_an_attempt_that_was_cut_off_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "metrics.0.csv").touch()
    (tmp_path / "metrics.1.csv").write_text("step,loss\n0,0.5\n1,0.4\n")
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.3\n2,0.2\n")
    join(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,0.5\n1,0.3\n2,0.2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_encoder_of_sharded_weights_is_saved_whatever_the_stage_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a strategy gathers of the stage is parted by where the encoder is in it."""

    class Renamed(Represent):
        def run(self, context: StageContext) -> dict[str, float]:
            self.model = nn.ModuleDict({"tower": context.encoder, "head": nn.Linear(8, 1)})
            training.train(self, context)
            training.save_encoder(nn.Linear(1, 1), context)  # its weights would be of no use
            return {}

        def train_dataloader(self) -> DataLoader[Tensor]:
            return DataLoader([torch.ones(2, 8)] * 3, batch_size=None)  # type: ignore[arg-type]

        def training_step(self, batch: Tensor, step: int) -> Tensor:
            return self.model["head"](batch).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.model["head"].parameters(), lr=0.1)

    monkeypatch.setattr(training, "sharded", lambda trainer: True)
    monkeypatch.setattr(Renamed, "needs", frozenset({"weights"}))
    bench = Bench(tmp_path, None, {"max_steps": 2}, small_encoder)
    bench.run(Renamed(), "run")
    saved = load_file(tmp_path / "run/weights.safetensors")
    expected = bench.encoder().state_dict()
    assert saved.keys() == expected.keys()
    assert all(np.array_equal(saved[name], expected[name].numpy()) for name in expected)
