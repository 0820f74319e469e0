"""A run that is cut off continues to the same bits, wherever that happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import moonlib.compat  # noqa: F401
import polars as pl
import pytest
from lightning import LightningModule, Trainer

from moonlib.artifacts.layout import is_finished
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run, RunError
from moonlib.stages.training import Checkpoints
from moonlib.studies.report import report
from moonlib.testing.processes import Program

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


REFINED = [
    "--stages.refine.trainer.max_steps=80",
    "--stages.refine.data.batch_size=16",
    "--stages.refine.data.workers=1",
    "--stages.refine.module.init_args.grad_cache=10",
    "--stages.refine.module.init_args.negatives="
    "[same_category, {class_path: mined, init_args: {refresh_every: 70}}, "
    "{class_path: queue, init_args: {size: 50}}, gathered]",
    "--stages.refine.module.init_args.filters="
    "[spu_merge, {class_path: similarity_dedup, init_args: {share: 0.7}}, category_rebalance, entity_filter]",
    "--stages.refine.module.init_args.matryoshka={8: 1.0, 64: null, 128: null}",
    "--stages.represent.module.init_args.dims=[8]",
]
"""All of post-training that has a state: filters, a mined index that is renewed twice, a queue that wraps."""


class CutOff(Exception):
    """Stands for the end of a process."""


def assert_same_bits(run: Path, other: Path) -> None:
    for file in FILES:
        assert (run / file).read_bytes() == (other / file).read_bytes(), file


WAITING = """
import sys, time
from pathlib import Path
from moonlib.cli import main
from moonlib.system.processes import is_first
from moonlib.stages.training import Checkpoints

save = Checkpoints.save
held = Path(sys.argv[1])

def save_and_wait(self, trainer):
    save(self, trainer)
    if is_first() and not held.exists():
        held.with_suffix(".partial").write_text(str(self.file))
        held.with_suffix(".partial").rename(held)
        while self.interruption.requested is None:
            time.sleep(0.01)

Checkpoints.save = save_and_wait
sys.exit(main(sys.argv[2:]))
"""
"""moonlib, waiting for a signal after its first checkpoint: how fast it would go on proves nothing."""


def start(runs: Path, overrides: list[str], recipe: str = "iter2") -> Program:
    """Run a recipe in a process of its own, with a checkpoint after every step."""
    return Program(["-m", "moonlib", *fit_words(runs, overrides, recipe)], new_session=True)


def start_to_end_it(runs: Path, overrides: list[str], recipe: str = "iter2") -> tuple[Program, Path]:
    """Do the same, and return when it waits for a signal, with its first checkpoint."""
    held = runs / "held"
    held.unlink(missing_ok=True)
    script = runs / "waiting.py"  # a file: Lightning starts further processes by its name
    script.write_text(WAITING)
    process = Program([str(script), str(held), *fit_words(runs, overrides, recipe)], new_session=True)
    while not held.exists():
        assert process.poll() is None, f"ended before its first checkpoint: {process.communicate()}"
        time.sleep(0.01)
    return process, Path(held.read_text())


def fit_words(runs: Path, overrides: list[str], recipe: str) -> list[str]:
    return ["fit", "--config", recipe, "--runs", str(runs), "--checkpoint-seconds=0", *overrides]


@pytest.mark.first
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


@pytest.fixture
def taken_over(unbroken: Path, runs: Path) -> Path:
    """A runs directory that holds the stages of `unbroken`."""
    shutil.copytree(unbroken.parent / ".stages", runs / ".stages", symlinks=True)
    return runs


@pytest.mark.first
def test_mined_negatives_a_queue_and_filters_continue_to_the_same_bits(
    taken_over: Path, short_iter2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*short_iter2, *REFINED, "--stages.application=null"]
    whole = fit("iter3", overrides, runs=taken_over, name="unbroken")
    kept = {file: (whole / file).read_bytes() for file in ("refine/weights.safetensors", "results.json")}
    report = json.loads((whole / "refine/filters.json").read_text())
    assert [entry["filter"].rsplit(".")[-1] for entry in report] == [
        "SpuMerge",
        "SimilarityDedup",
        "CategoryRebalance",
        "EntityFilter",
    ]
    assert not list((whole / "refine").glob("*.npy"))  # vectors that were only made to be compared
    shutil.rmtree((whole / "refine").resolve())
    shutil.rmtree((whole / "represent").resolve())

    hook = Checkpoints.on_train_batch_end
    # Before and after each search (6 for batch 70 on, 76), while what was found waits, and after it is made use of.
    cuts = [5, 6, 68, 74]

    def cut_off(
        self: Checkpoints, trainer: Trainer, module: LightningModule, out: object, batch: object, i: int
    ) -> None:
        hook(self, trainer, module, out, batch, i)
        if cuts and i > cuts[0]:  # the checkpoint is of one batch before
            cuts.pop(0)
            raise CutOff

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", cut_off)
    monkeypatch.setattr(Checkpoints, "save", save_unless(lambda i: bool(cuts) and i > cuts[0]))
    attempts = 0
    while True:
        try:
            run = fit("iter3", overrides, runs=taken_over, checkpoint_seconds=0)
        except CutOff:
            attempts += 1
        else:
            break
    assert attempts == 4
    for file, content in kept.items():
        assert (run / file).read_bytes() == content, file


def save_unless(late: Callable[[int], bool]) -> Callable[[Checkpoints, Trainer], None]:
    save = Checkpoints.save

    def unless(self: Checkpoints, trainer: Trainer) -> None:
        if not late(self.position.batch - 1):
            save(self, trainer)

    return unless


def alone(process: Program, signum: int) -> None:
    process.send_signal(signum)


def with_its_loaders(process: Program, signum: int) -> None:
    os.killpg(process.pid, signum)


@pytest.mark.first
@pytest.mark.parametrize("send", [alone, with_its_loaders])
def test_sigterm_writes_a_checkpoint_ends_with_143_and_the_same_command_continues(
    send: Callable[[Program, int], None], unbroken: Path, runs: Path, short_iter2: list[str]
) -> None:
    overrides = [*short_iter2, "--stages.pretrain.trainer.log_every_n_steps=1", "--stages.pretrain.data.workers=1"]
    process, checkpoint = start_to_end_it(runs, overrides)
    send(process, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert errors.strip().endswith("moonlib: ended by SIGTERM; the same command resumes")
    assert checkpoint.exists()
    # Its log is where it will be, and nobody takes what is there for a finished stage.
    cut = Run(runs / "iter2")
    assert (cut.directory / "pretrain/csv/metrics.csv").read_text().startswith("epoch,")
    assert not is_finished(cut.directory / "pretrain") and "weights" not in cut.undefined
    with pytest.raises(RunError, match=r"not finished: posttrain is missing.*resumes the run"):
        cut.encoder()
    page = report([cut.directory], runs / "report.html").read_text()
    assert "pretrain" in page and "training loss" not in page
    run = fit("iter2", overrides, runs=runs)
    assert_same_bits(run, unbroken)
    assert not list(runs.glob(".stages/*.partial"))
    assert is_finished(run / "pretrain") and (run / "pretrain").readlink().parent.name == ".stages"
    # One log of both attempts: every step once.
    steps = pl.read_csv(run / "pretrain/csv/metrics.csv")["step"]
    assert steps.to_list() == [0, 1, 2, 3]


def test_a_kill_and_orphans_leave_a_run_that_continues(unbroken: Path, runs: Path, short_iter2: list[str]) -> None:
    """SIGKILL for the main process only: its loader workers hold no lock, and find their own end."""
    process, _ = start_to_end_it(runs, [*short_iter2, "--stages.pretrain.data.workers=2"])
    process.kill()
    process.communicate()
    assert_same_bits(fit("iter2", short_iter2, runs=runs), unbroken)


PAIR = [
    f"--stages.{stage}.trainer.{key}"
    for stage in ("pretrain", "posttrain", "application")
    for key in ("devices=2", "accelerator=cpu", "strategy=ddp")
]


@pytest.mark.first
def test_two_processes_killed_and_terminated_continue_to_the_same_bits(runs: Path, short_iter2: list[str]) -> None:
    overrides = [*short_iter2, *PAIR]
    whole = start(runs, [*overrides, "--name", "unbroken"])
    printed, errors = whole.communicate()
    assert whole.returncode == 0, errors
    assert printed.count("run: ") == 1  # one of the processes speaks
    (runs / ".stages").rename(runs / ".stages-unbroken")
    for link in (runs / "unbroken").iterdir():
        if link.is_symlink():
            target = Path("..", ".stages-unbroken", link.readlink().name)
            link.unlink()
            link.symlink_to(target)
    for signum, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process, _ = start_to_end_it(runs, overrides)
        process.send_signal(signum)
        _, errors = process.communicate()
        assert process.returncode == code, errors
    process = start(runs, overrides)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same_bits(runs / "iter2", runs / "unbroken")


@pytest.mark.first
def test_two_processes_share_mined_negatives_a_queue_and_filters(taken_over: Path, short_iter2: list[str]) -> None:
    pair = [f"--stages.refine.trainer.{key}" for key in ("devices=2", "accelerator=cpu", "strategy=ddp")]
    overrides = [*short_iter2, *REFINED, *pair, "--stages.refine.trainer.max_steps=12", "--stages.application=null"]
    process, _ = start_to_end_it(taken_over, overrides, "iter3")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    process = start(taken_over, overrides, "iter3")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    cut = (taken_over / "iter3/refine/weights.safetensors").read_bytes()
    shutil.rmtree((taken_over / "iter3/refine").resolve())
    shutil.rmtree((taken_over / "iter3/represent").resolve())
    process = start(taken_over, overrides, "iter3")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (taken_over / "iter3/refine/weights.safetensors").read_bytes() == cut
