"""A run that is cut off continues to the same bits, wherever that happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import moonlib.compat  # noqa: F401
import polars as pl
import pytest
from lightning import LightningModule, Trainer

from moonlib.iteration import fit
from moonlib.stages.training import Checkpoints

FILES = (
    "results.json",
    "pretrain/weights.safetensors",
    "posttrain/weights.safetensors",
    "represent/products.npy",
    "represent/queries.npy",
    "application/weights.safetensors",
    "application/predictions.parquet",
    "application.oracle/weights.safetensors",
)


class CutOff(Exception):
    """Stands for the end of a process."""


def assert_same_bits(run: Path, other: Path) -> None:
    for file in FILES:
        assert (run / file).read_bytes() == (other / file).read_bytes(), file


def start(runs: Path, overrides: list[str]) -> subprocess.Popen[str]:
    """Run iter2 in a process of its own, with a checkpoint after every step."""
    fit_iter2 = [sys.executable, "-m", "moonlib", "fit", "--config", "iter2", "--runs", str(runs)]
    return subprocess.Popen(
        [*fit_iter2, "--checkpoint-seconds=0", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_checkpoint(runs: Path, process: subprocess.Popen[str]) -> Path:
    """Wait until this attempt has written a checkpoint."""
    began = time.time()
    while process.poll() is None:
        for file in runs.glob(".stages/*.partial/checkpoint.ckpt"):
            if file.stat().st_mtime > began:
                return file
        time.sleep(0.01)
    raise AssertionError(f"ended before its first checkpoint: {process.communicate()}")


def test_cut_off_after_every_single_step(
    unbroken: Path, runs: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt per training step: each gets one step further than its checkpoint and is then cut off."""
    hook = Checkpoints.on_train_batch_end
    monkeypatch.setattr(Checkpoints, "on_train_batch_end", cut_off_one_batch_after_saving(hook))
    attempts = 0
    while True:
        try:
            run = fit("iter2", short_iter2, runs=runs, checkpoint_seconds=0)
        except CutOff:
            attempts += 1
            assert attempts < 100
        else:
            break
    assert attempts > 12
    assert_same_bits(run, unbroken)


def cut_off_one_batch_after_saving(hook: Callable[..., None]) -> Callable[..., None]:
    def cut_off(
        self: Checkpoints, trainer: Trainer, module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.position.batch:  # saved in this attempt: the batch after that was trained in vain
            raise CutOff
        hook(self, trainer, module, outputs, batch, batch_idx)

    return cut_off


def test_sigterm_writes_a_checkpoint_ends_with_143_and_the_same_command_continues(
    unbroken: Path, runs: Path, short_iter2: list[str]
) -> None:
    overrides = [*short_iter2, "--stages.pretrain.trainer.log_every_n_steps=1"]
    process = start(runs, overrides)
    checkpoint = wait_for_checkpoint(runs, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert errors.strip().endswith("moonlib: ended by SIGTERM; the same command continues")
    assert checkpoint.exists()
    run = fit("iter2", overrides, runs=runs)
    assert_same_bits(run, unbroken)
    assert not list(runs.glob(".stages/*.partial"))
    # One log of both attempts: every step once.
    steps = pl.read_csv(run / "pretrain/csv/metrics.csv")["step"]
    assert steps.to_list() == [0, 1, 2, 3]


def test_a_kill_and_orphans_leave_a_run_that_continues(unbroken: Path, runs: Path, short_iter2: list[str]) -> None:
    """SIGKILL for the main process only: its loader workers hold no lock, and find their own end."""
    process = start(runs, [*short_iter2, "--stages.pretrain.data.workers=2"])
    wait_for_checkpoint(runs, process)
    process.kill()
    process.communicate()
    assert_same_bits(fit("iter2", short_iter2, runs=runs), unbroken)


PAIR = [
    f"--stages.{stage}.trainer.{key}"
    for stage in ("pretrain", "posttrain", "application")
    for key in ("devices=2", "accelerator=cpu", "strategy=ddp")
]


def test_two_processes_killed_and_terminated_continue_to_the_same_bits(runs: Path, short_iter2: list[str]) -> None:
    overrides = [*short_iter2, *PAIR]
    whole = start(runs, [*overrides, "--name", "unbroken"])
    printed, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    assert printed.count("run: ") == 1  # one of the processes speaks
    (runs / ".stages").rename(runs / ".stages-unbroken")
    for link in (runs / "unbroken").iterdir():
        if link.is_symlink():
            target = Path("..", ".stages-unbroken", link.readlink().name)
            link.unlink()
            link.symlink_to(target)
    for signum, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = start(runs, overrides)
        wait_for_checkpoint(runs, process)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
    process = start(runs, overrides)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert_same_bits(runs / "iter2", runs / "unbroken")
