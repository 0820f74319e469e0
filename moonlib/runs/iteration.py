"""Run a recipe: its stages in order, each in a directory named by its fingerprint, and the run that links them."""

from __future__ import annotations

import hashlib
import logging
import re
import resource
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import polars as pl
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from moonlib.artifacts.checksums import verified
from moonlib.artifacts.directories import attempt, link, write_json
from moonlib.artifacts.reading import read_json, read_mapping, read_numbers
from moonlib.artifacts.remedies import DATASETS, STAGES
from moonlib.config import recipe as recipes
from moonlib.config.fingerprint import made_with, material_stage
from moonlib.config.names import run_name
from moonlib.config.recipe import Recipe, StageRecipe, fingerprint, spelled
from moonlib.data.dataset import Dataset
from moonlib.encoders.encoder import Encoder
from moonlib.metrics import undefined
from moonlib.runs import points
from moonlib.runs.ownership import claimed
from moonlib.runs.results import Legend, add_legend, beside, read_legend, write_legend
from moonlib.runs.tables import closing_tables, spread_table
from moonlib.stages.stage import Reference, Stage, StageContext
from moonlib.stages.training import CHECKPOINT
from moonlib.system import processes
from moonlib.system.console import Terminal
from moonlib.system.disk import writing
from moonlib.system.interruption import Interruption
from moonlib.system.workers import FEW_FILES, shortage


class StageError(RuntimeError):
    """A stage that could not go on, with what can be done about it."""


@dataclass
class Step:
    """One stage, or one reference of it, about to run.

    Attributes:
        link: its name in the run directory.
        prefix: of its keys in results.json, empty for the stage itself.
        recipe: its part of the recipe.
        module: the stage.
        fingerprint: name of its directory under ``.stages``.
        seed: what it seeds itself with.
        identity: what the fingerprint is made of.
    """

    link: str
    prefix: str
    recipe: StageRecipe
    module: Stage
    fingerprint: str
    seed: int
    identity: dict[str, Any]


@dataclass
class Lineage:
    """Fingerprints of what the stages so far have left for the next.

    Attributes:
        dataset: hash of the data.
        preprocessing: of the encoder's fitted preprocessing and first weights.
        weights: of the last stage that trained the encoder.
        representations: of the last stage that made representations; until then the dataset's own are read, if any.
    """

    dataset: str
    preprocessing: str | None
    weights: str | None = None
    representations: str | None = None


def fit(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    name: str | None = None,
    replace: bool = False,
    checkpoint_seconds: float = 30.0,
) -> Path:
    """Run an iteration.

    Stages whose fingerprint was finished before, by whatever run, are taken over. A run that was cut off, at whatever
    moment, continues to the same weights and results. The data is built first where it is missing.

    Args:
        config: a recipe's file, or the name of a shipped one.
        overrides: ``--key value`` words as on the command line.
        runs: directory that holds the runs, their stages (``.stages``) and built datasets (``.data``).
        name: of the run, see `moonlib.config.names.run_name`; the recipe's name by default.
        replace: take over a run directory that holds another recipe's run.
        checkpoint_seconds: time between the checkpoints of a training, 0 for one after every step.

    Returns:
        The run directory.

    Raises:
        RecipeError: for anything wrong in the recipe, before anything is loaded.
        BadNameError: for what cannot be the name of a run, before anything is written.
        RunExistsError: where the run directory holds another recipe's run or what is no run, or another process works
            on it.
        FileExistsError: where a link is in the way.
        Interrupted: after SIGTERM or Ctrl-C; the same call continues.

    Example: ``fit("recipes/iter1.yaml", ["--data.init_args.size", "tiny"])`` returns ``Path("runs/iter1")``.
    """
    recipe = recipes.load(config, list(overrides))
    runs = Path(runs)
    run = runs / run_name(recipe.name if name is None else name)
    console = Terminal(120)
    quiet()
    processes.heed_launcher(stage.world_size for stage in recipe.stages.values())
    if not processes.is_first():
        processes.end_with_parent()
    costs: dict[str, dict[str, Any]] = {}
    with Interruption().listening() as interruption, claimed(run, recipe, replace, runs=runs):
        with costed(costs, "data"):
            dataset = Dataset(recipe.source().prepare(runs / DATASETS))
        iteration = Iteration(recipe, dataset, runs / STAGES, run, console, costs, interruption, checkpoint_seconds)
        results, legend = iteration.run_stages()
    if processes.is_first():
        console.print(closing_tables(run.name, results, legend.references, costs))
        console.print(f"run: {run}", soft_wrap=True)
        console.print(f"next: {next_command(recipe)}", soft_wrap=True)
    return run


def fit_seeds(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: int,
    runs: str | Path = "runs",
    name: str | None = None,
    replace: bool = False,
    checkpoint_seconds: float = 30.0,
) -> list[Path]:
    """Run an iteration once per seed, and print one table with the mean and the spread of every result.

    The seeds are the recipe's and those that follow it; run i is called ``<name>-seed<i>``. The data stays the same.

    Args:
        config: as in `fit`; so are the others.
        overrides: see `fit`.
        seeds: how many.
        runs: see `fit`.
        name: see `fit`.
        replace: see `fit`.
        checkpoint_seconds: see `fit`.

    Returns:
        The run directories.

    Raises:
        ValueError: for fewer than two seeds, or what cannot be the name of a run.
    """
    if seeds < 2:
        raise ValueError(f"a spread needs at least 2 seeds, not {seeds}")
    recipe = recipes.load(config, list(overrides))
    name = run_name(recipe.name if name is None else name)
    found = [
        fit(
            config,
            [*overrides, "--seed", str(seed)],
            runs=runs,
            name=f"{name}-seed{seed}",
            replace=replace,
            checkpoint_seconds=checkpoint_seconds,
        )
        for seed in range(recipe.seed, recipe.seed + seeds)
    ]
    if processes.is_first():
        results = {run.name: read_numbers(run / "results.json") for run in found}
        Terminal(120).print(spread_table(results))
    return found


class Iteration:
    """One pass through a recipe's stages over one dataset."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        stages: Path,
        run: Path,
        console: Terminal,
        costs: dict[str, dict[str, Any]],
        interruption: Interruption,
        checkpoint_seconds: float,
    ) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.stages, self.run, self.console, self.costs = stages, run, console, costs
        self.interruption, self.checkpoint_seconds = interruption, checkpoint_seconds
        self.lineage = Lineage(dataset.hash, None)
        self.cores = torch.get_num_threads()

    def run_stages(self) -> tuple[dict[str, float], Legend]:
        """Run every stage with its references, and write results.json and costs.json after each.

        Returns:
            The results, and what they mean.
        """
        results: dict[str, float] = {}
        legend = Legend()
        before = read_numbers(self.run / "results.json") if (self.run / "results.json").exists() else {}
        before, _ = undefined.parted(before)  # earlier versions wrote NaN
        self.fit_preprocessing()
        for stage in self.recipe.stages.values():
            module = stage.module()
            main = self.step(stage, module)
            steps = [main]
            for reference in module.references(self.dataset):
                steps.append(self.reference_step(stage, reference))
            for step in steps:
                if not processes.is_first():
                    self.accompany(step)
                    continue
                metrics = self.run_step(step)
                legend |= read_legend(self.stages / step.fingerprint) or legend_of(step, self.dataset)
                add_legend(self.run, legend)
                results |= {beside(key, step.prefix): value for key, value in metrics.items()}
                # What a former pass over this run has found stays until it is found again.
                write_json(self.run / "results.json", dict(sorted((before | results).items())))
                write_json(self.run / "costs.json", self.costs)
            if main.module.provides == "weights":
                self.lineage.weights = main.fingerprint
            elif main.module.provides == "representations":
                self.lineage.representations = main.fingerprint
        if processes.is_first():
            write_legend(self.run, legend)
            write_json(self.run / "results.json", dict(sorted(results.items())))
            if any(stage.probe for stage in self.recipe.stages.values()):
                points.evaluate(self)
        return results, legend

    def fit_preprocessing(self) -> None:
        """Fit the encoder's preprocessing (its tokenizer) once, in a directory that later stages load it from."""
        config = self.recipe.config.get("encoder")
        if config is None:
            return
        identity = {
            "encoder": config,
            "dataset": self.dataset.hash,
            "seed": self.recipe.seed,
            **made_with(config),
        }
        self.lineage.preprocessing = fingerprint(identity)
        directory = self.stages / self.lineage.preprocessing
        if not processes.is_first():
            self.await_stage(directory)
            return
        with (
            costed(self.costs, "preprocessing") as cost,
            attempt(directory, self.waiting_for("preprocessing")) as partial,
        ):
            cost["reused"] = partial is None
            if partial is not None:
                self.encoder(partial, self.dataset.splits.known(self.dataset.table("products")))
                write_json(partial / "identity.json", spelled(identity))
        link(self.run / "preprocessing", directory)

    def encoder(self, preprocessing: Path, products: pl.DataFrame) -> Encoder:
        """A fresh encoder with its first weights, which depend on the recipe's seed and nothing else.

        Args:
            preprocessing: where its fitted preprocessing is.
            products: to fit it on where it is not; of no consequence otherwise.
        """
        encoder = self.recipe.encoder()
        assert encoder is not None
        seed_everything(seed_of(self.recipe.seed, "encoder"), verbose=False)
        encoder.setup(products, verified(preprocessing))
        return encoder

    def step(self, stage: StageRecipe, module: Stage, prefix: str = "") -> Step:
        """Fingerprint a stage: its configuration, the data and what it takes from the stages before."""
        material = material_stage(stage.config)
        needs = module.needs
        if needs & {"encoder", "weights"} and self.lineage.preprocessing is None:
            raise recipes.RecipeError(f"{self.recipe.path}: stages.{stage.name} needs an encoder: declare one")
        # The dataset's own representations are part of its hash, and so of the fingerprint.
        if "representations" in needs and (self.lineage.representations or self.dataset.representations) is None:
            raise recipes.RecipeError(f"{self.recipe.path}: stages.{stage.name} needs a represent stage before it")
        seed = seed_of(self.recipe.seed, stage.name)
        identity = {
            "config": material,
            "dataset": self.lineage.dataset,
            "preprocessing": self.lineage.preprocessing if needs & {"encoder", "weights"} else None,
            "weights": self.lineage.weights if "weights" in needs else None,
            "representations": self.lineage.representations if "representations" in needs else None,
            "seed": seed,
            **made_with(material),
        }
        name = f"{stage.name}.{prefix.replace('/', '.')}" if prefix else stage.name
        return Step(name, prefix, stage, module, fingerprint(identity), seed, identity)

    def reference_step(self, stage: StageRecipe, reference: Reference) -> Step:
        """The same stage with a reference's arguments in place of the recipe's."""
        changed = stage.override(dict(reference.module))
        return self.step(changed, changed.module(), reference.prefix)

    def run_step(self, step: Step) -> dict[str, float]:
        """Run a stage, or take its finished directory over; link it into the run."""
        directory = self.stages / step.fingerprint
        waiting = self.waiting_for(step.link)
        with costed(self.costs, step.link) as cost, attempt(directory, waiting, but=[CHECKPOINT]) as partial:
            cost["reused"] = partial is None
            if partial is not None:
                start = time.perf_counter()
                metrics = undefined.leave_out(self.run_module(step, partial), partial)
                write_json(partial / "identity.json", spelled(step.identity))
                write_json(partial / "metrics.json", metrics)
                write_legend(partial, legend_of(step, self.dataset))
                write_json(partial / "cost.json", {"seconds": round(time.perf_counter() - start, 2)})
        if cost["reused"]:
            cost["first_run"] = read_mapping(directory / "cost.json")
        link(self.run / step.link, directory)
        took = "taken over" if cost["reused"] else f"{cost['seconds']:.1f} s"
        self.console.print(f"{step.link:28s} {took:>10s}  {directory}", soft_wrap=True)
        self.report_quarantine(directory)
        self.report_undefined(directory)
        return read_numbers(directory / "metrics.json")

    def run_module(self, step: Step, partial: Path) -> dict[str, float]:
        """Let a stage do its work, together with the other processes where its trainer has several devices."""
        trainer = self.trainer(step, partial)
        meeting = partial / "processes.json"
        if trainer.world_size > 1:
            processes.end_group_at_exit()
            write_json(meeting, processes.meeting_point())
        try:
            with writing(partial):
                return step.module.run(self.context(step, trainer, partial))
        except (RuntimeError, OSError, EOFError) as error:
            # A signal to the whole process group ends the loaders too: it is the signal that explains their death.
            self.interruption.check()
            key = f"stages.{step.recipe.name}.data.workers"
            if told := shortage(error):
                raise StageError(
                    f"{step.link}: {told}, or use fewer loaders (--{key} 0). The same command continues this run"
                ) from error
            # One that dies while it hands a batch over leaves a broken connection and no other word; and torch words it
            # by whether the signal or the empty queue came first.
            died = re.search(r"DataLoader worker .* (is killed by signal|exited unexpectedly)", str(error))
            if died or isinstance(error, (ConnectionError, EOFError)):
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                files = f"; or it may not open more than {limit} files (ulimit -n)" if limit < FEW_FILES else ""
                raise StageError(
                    f"{step.link}: a loader process was killed, by hand or by the system for want of memory{files}, or "
                    f"ended at an error shown above. The same command continues this run, also with a lower {key}"
                ) from error
            raise
        finally:
            meeting.unlink(missing_ok=True)

    def accompany(self, step: Step) -> None:
        """Another process's part of a stage: join a training on several devices, and wait for the stage's end."""
        directory = self.stages / step.fingerprint
        partial = directory.with_name(f"{directory.name}.partial")
        meeting = partial / "processes.json"
        trainer = self.trainer(step, partial)
        if trainer.world_size > 1:
            processes.end_group_at_exit()
            for _ in processes.waiting(f"begin with {step.link} in {partial}"):
                if directory.exists():
                    break
                if meeting.exists() and read_json(meeting) == processes.meeting_point():
                    step.module.run(self.context(step, trainer, partial))
                    break
        self.await_stage(directory)

    def await_stage(self, directory: Path) -> None:
        """Wait until the first process has finished a directory."""
        for _ in processes.waiting(f"finish {directory}"):
            if directory.exists():
                break

    def waiting_for(self, name: str) -> Callable[[str], None]:
        """What to print while another run makes the same stage."""
        return lambda holder: self.console.print(f"{name:28s}   waiting: {holder} is making this stage", soft_wrap=True)

    def report_quarantine(self, directory: Path) -> None:
        """Say how many samples a stage could not read."""
        file = directory / "quarantine.jsonl"
        if file.exists():
            lines = len(file.read_bytes().splitlines())
            self.console.print(f"{'':28s} {lines} samples could not be read, see {file}", soft_wrap=True)

    def report_undefined(self, directory: Path) -> None:
        """Say which metrics of a stage are not defined, and why."""
        for sentence in undefined.sentences(undefined.noted(directory)):
            self.console.print(f"{'':28s} {sentence}, see {directory / undefined.FILE}", soft_wrap=True)

    def trainer(self, step: Step, directory: Path) -> Trainer:
        """The trainer of a stage, writing its logs to ``directory``."""
        return step.recipe.trainer(
            default_root_dir=str(directory),
            logger=[
                CSVLogger(directory, name="", version="csv"),
                TensorBoardLogger(directory, name="", version="logs"),
            ],
            callbacks=[RichProgressBar(leave=False)] if self.console.is_terminal else [],
            enable_progress_bar=self.console.is_terminal,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    def context(self, step: Step, trainer: Trainer, directory: Path) -> StageContext:
        """What the stage is given; everything random after this call follows from the stage's own seed."""
        needs, lineage = step.module.needs, self.lineage
        processes.share_cores(trainer, self.cores)
        encoder = None
        if needs & {"encoder", "weights"}:
            assert lineage.preprocessing is not None
            nobody = pl.from_arrow(self.dataset.arrow("products").slice(0, 0))
            assert isinstance(nobody, pl.DataFrame)
            encoder = self.encoder(self.stages / lineage.preprocessing, nobody)
        seed_everything(step.seed, verbose=False)
        weights = lineage.weights if "weights" in needs else None
        representations = lineage.representations if "representations" in needs else None
        given = self.dataset.representations if "representations" in needs else None
        return StageContext(
            dataset=self.dataset,
            data=step.recipe.data(),
            trainer=trainer,
            directory=directory,
            seed=step.seed,
            encoder=encoder,
            weights=self.stages / weights / "weights.safetensors" if weights else None,
            representations=self.stages / representations if representations else given,
            interruption=self.interruption,
            checkpoint_seconds=self.checkpoint_seconds,
            snapshot_every=step.recipe.probe.every if step.recipe.probe else None,
        )


def legend_of(step: Step, dataset: Dataset) -> Legend:
    """What a stage's results mean; only the stage itself has references beside it."""
    return Legend.of(step.module, () if step.prefix else step.module.references(dataset))


@contextmanager
def costed(costs: dict[str, dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Note the seconds, and the peak resident memory so far in GB of this process and of its largest child."""
    cost = costs[name] = {}
    start = time.perf_counter()
    yield cost
    cost["seconds"] = round(time.perf_counter() - start, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    peaks = [resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost["peak_gb"], cost["peak_child_gb"] = (round(peak / 2**30, 2) for peak in peaks)


def seed_of(seed: int, name: str) -> int:
    """The seed of a stage: a function of the recipe's seed and the stage's name, in 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def next_command(recipe: Recipe) -> str:
    """A command that runs the same recipe under another name and seed."""
    seed = recipe.seed + 1
    words = ("--config", str(recipe.path), "--name", f"{recipe.name}-seed{seed}", "--seed", str(seed))
    return shlex.join(("moonlib", "fit", *words))


def quiet() -> None:
    """Leave Lightning's hints out: what a user can act on, moonlib says itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*bottleneck.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # What an attempt that was cut off has logged was put aside, see moonlib.stages.training.
    warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
    # It is not the loader that resumes here but its sampler, see moonlib.stages.training.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
