"""Short runs that answer one question: does it learn, does it run to the end, where does the time go?"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import moonlib.compat  # noqa: F401
import polars as pl
from lightning.pytorch.profilers import Profiler

from moonlib.artifacts.directories import LOCK, await_prune, refuse_links
from moonlib.artifacts.layout import DATASETS, DEBUG, LOG, STAGES
from moonlib.artifacts.reading import reading
from moonlib.config import recipe as recipes
from moonlib.config.names import run_name
from moonlib.config.recipe import StageRecipe
from moonlib.runs.iteration import fit
from moonlib.runs.ownership import RunExistsError
from moonlib.system import lock, processes
from moonlib.system.console import Terminal
from moonlib.system.fitted_table import FittedTable
from moonlib.system.remote import local_only

Preset = Literal["overfit", "limit", "profile"]


class TimeShares(Profiler):
    """Adds up where the seconds of a training go: waiting for data, forward, backward, the optimizer, the rest."""

    PARTS = (
        ("waiting for data", "train_dataloader_next"),
        ("to the device", "batch_to_device"),
        ("forward", ".training_step"),
        ("backward", ".backward"),
        ("optimizer", ".optimizer_step"),
    )

    def __init__(self, dirpath: str | None = None, filename: str = "profile") -> None:
        super().__init__(dirpath=dirpath, filename=filename)
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self._began[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        took = time.perf_counter() - self._began.pop(action_name)
        self.steps += action_name == "run_training_batch"
        part = next((part for part, ending in self.PARTS if action_name.endswith(ending)), None)
        # Lightning times some steps twice, as the strategy's and as the module's; optimizers are the module's alone.
        if part == "optimizer" or (part and not action_name.startswith("[LightningModule]")):
            self.seconds[part] += took
            # Lightning runs forward and backward within the optimizer's step, unless gradients are accumulated.
            if part in ("forward", "backward") and any(name.endswith(".optimizer_step") for name in self._began):
                self.seconds["optimizer"] -= took
        elif action_name == "run_training_epoch":
            self.seconds["all"] += took

    def summary(self) -> str:
        """One line per part: its seconds, and its share of the training."""
        whole = self.seconds.pop("all", 0.0)
        self.seconds["the rest"] = whole - sum(self.seconds.values())
        lines = [f"{part:18s}{took:8.2f} s {took / max(whole, 1e-9):6.1%}" for part, took in self.seconds.items()]
        return "\n".join([*lines, f"{'in all':18s}{whole:8.2f} s {self.steps:6d} steps"])


def debug(
    preset: Preset, config: str | Path, overrides: Sequence[str] = (), *, runs: str | Path = "runs", **options: Any
) -> Path:
    """Run a recipe shortened, in a directory that no other run reads; it starts afresh each time.

    The stages that a former debug run of the same preset and name has made are deleted, and nothing else.

    Args:
        preset: ``overfit`` trains every stage on its first batch alone (its loss should fall to almost nothing, or the
            loss, the gradients or the masks are wrong); ``limit`` takes ten steps of every training; ``profile`` takes
            fifty and prints where their time went.
        config: a recipe's file, or the name of a shipped one.
        overrides: as in `moonlib.fit`; they go over the preset's.
        runs: the runs directory, whose datasets are used; the debug run, and its stages, are in
            ``.debug/<preset>/<name>`` below it.
        options: as in `moonlib.fit`.

    Returns:
        The run directory.

    Raises:
        RunExistsError: a debug run of this preset and name is under way; see also `moonlib.fit`.
    """
    recipe = recipes.load(config, list(overrides))
    name = run_name(recipe.name if options.get("name") is None else options["name"])
    processes.heed_launcher(stage.world_size for stage in recipe.stages.values())
    root = local_only(runs, "a run") / DEBUG / preset / name
    # A trainer for all stages is one of those that don't train too.
    trained = {name: stage for name, stage in recipe.stages.items() if stage.written["trainer"]}
    shortened = [word for name, stage in trained.items() for word in shorten(preset, name, stage)]
    with prepared(root, Path(runs)):
        # The recipe of an earlier one may differ: what it has left is to be reused.
        run = fit(config, [*shortened, *overrides], runs=root, **{**options, "name": name, "replace": True})
    console = Terminal()
    trained = {name: stage for name, stage in trained.items() if (run / name / LOG).exists()}
    console.print(loss_table(run, list(trained)))
    for name in trained:
        for file in sorted((run / name).rglob("*profile.txt")):
            console.print(name, style="bold")
            with reading(file, "text of a profiler"):
                console.print(f"{file.read_text().strip()}\n")
    return run


@contextmanager
def prepared(root: Path, runs: Path) -> Iterator[None]:
    """Hold the runs directory of a debug run, without stages and with the datasets of all runs.

    Raises:
        RunExistsError: another process holds it.
        FileExistsError: a link is in the way.
    """
    if not processes.is_first():
        yield
        return
    refuse_links(root / STAGES, runs)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(root / LOCK):
            await_prune(runs)
            if (root / STAGES).exists():
                shutil.rmtree(root / STAGES)
            (runs / DATASETS).mkdir(exist_ok=True)
            if (root / DATASETS).is_symlink():
                (root / DATASETS).unlink()
            (root / DATASETS).symlink_to(os.path.relpath(runs / DATASETS, root))
            yield
    except lock.InUse as holder:
        raise RunExistsError(f"{root} is in use by {holder}: wait for it to end, or give another --name") from None


def shorten(preset: Preset, name: str, stage: StageRecipe) -> list[str]:
    """Overrides that make a preset of a stage that trains."""
    key = f"--stages.{name}"
    in_steps = stage.written["trainer"].get("max_steps", -1) > 0
    if preset == "overfit":
        return [
            f"{key}.trainer.max_{'steps' if in_steps else 'epochs'}=100",
            f"{key}.trainer.limit_train_batches=1",
            f"{key}.trainer.log_every_n_steps=1",
            f"{key}.data.workers=0",
        ]
    steps = 10 if preset == "limit" else 50
    words = [f"{key}.trainer.log_every_n_steps=1"]
    if in_steps:
        words.append(f"{key}.trainer.max_steps={steps}")
    else:
        words += [f"{key}.trainer.max_epochs=1", f"{key}.trainer.limit_train_batches={steps}"]
    if preset == "profile":
        words.append(f"{key}.trainer.profiler={{class_path: {TimeShares.__module__}.{TimeShares.__qualname__}}}")
    return words


def loss_table(run: Path, stages: list[str]) -> FittedTable:
    """The first and the last loss of every training of a run."""
    rows = []
    for name in stages:
        with reading(log := run / name / LOG, "CSV log of a training"):
            losses = pl.read_csv(log)["loss"].drop_nulls()
        rows.append((name, [str(len(losses)), f"{losses[0]:.4f}", f"{losses[-1]:.4f}"]))
    return FittedTable("losses of the steps", "training", ["steps", "first loss", "last loss"], rows)
