"""Run a recipe: its stages in order, each in a directory named by its fingerprint, and the run that links them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import yaml
from lightning import seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from moonlib import recipe as recipes
from moonlib.closing_table import closing_tables
from moonlib.data.dataset import Dataset
from moonlib.encoders.encoder import Encoder
from moonlib.recipe import Recipe, StageRecipe, fingerprint
from moonlib.stages.stage import Reference, Stage, StageContext

# Keys of a recipe that change how fast or how loud a stage runs, and nothing of what it computes.
IMMATERIAL = {
    "data": {"workers"},
    "trainer": {
        "logger",
        "callbacks",
        "default_root_dir",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_checkpointing",
        "log_every_n_steps",
        "profiler",
    },
}


class RunExistsError(ValueError):
    """A run directory that holds another recipe's run."""


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
    """

    link: str
    prefix: str
    recipe: StageRecipe
    module: Stage
    fingerprint: str
    seed: int


@dataclass
class Lineage:
    """Fingerprints of what the stages so far have left for the next.

    Attributes:
        dataset: hash of the data.
        preprocessing: of the encoder's fitted preprocessing and first weights.
        weights: of the last stage that trained the encoder.
        representations: of the last stage that made representations.
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
) -> Path:
    """Run an iteration.

    Stages whose fingerprint was finished before, by whatever run, are taken over. The data is built first where it
    is missing.

    Args:
        config: a recipe's file, or the name of a shipped one.
        overrides: ``--key value`` words as on the command line.
        runs: directory that holds the runs, their stages (``.stages``) and built datasets (``.data``).
        name: of the run; the recipe's name by default.
        replace: take over a run directory that holds another recipe's run.

    Returns:
        The run directory.

    Raises:
        RecipeError: for anything wrong in the recipe, before anything is loaded.
        RunExistsError: where the run directory holds another recipe's run.

    Example: ``fit("recipes/iter1.yaml", ["--data.init_args.size", "tiny"])`` returns ``Path("runs/iter1")``.
    """
    recipe = recipes.load(config, list(overrides))
    runs = Path(runs)
    run = runs / (name or recipe.name)
    # A file or a pipe has no width: let the tables have theirs.
    console = Console() if Console().is_terminal else Console(width=120)
    quiet()
    claim(run, recipe, replace)
    costs: dict[str, dict[str, Any]] = {}
    with costed(costs, "data"):
        dataset = Dataset(recipe.source().prepare(runs / ".data"))
    iteration = Iteration(recipe, dataset, runs / ".stages", run, console, costs)
    results, references = iteration.run_stages()
    console.print(closing_tables(run.name, results, references, costs))
    console.print(f"run: {run}", highlight=False, soft_wrap=True)
    console.print(f"next: {next_command(recipe)}", highlight=False, soft_wrap=True)
    return run


class Iteration:
    """One pass through a recipe's stages over one dataset."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        stages: Path,
        run: Path,
        console: Console,
        costs: dict[str, dict[str, Any]],
    ) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.stages, self.run, self.console, self.costs = stages, run, console, costs
        self.lineage = Lineage(dataset.hash, None)

    def run_stages(self) -> tuple[dict[str, float], dict[str, str]]:
        """Run every stage with its references, and write results.json and costs.json after each.

        Returns:
            The results, and the title of each reference's prefix.
        """
        results: dict[str, float] = {}
        titles: dict[str, str] = {}
        self.fit_preprocessing()
        for stage in self.recipe.stages.values():
            module = stage.module()
            main = self.step(stage, module)
            steps = [main]
            for reference in module.references(self.dataset):
                steps.append(self.reference_step(stage, reference))
                titles[reference.prefix] = reference.title
            for step in steps:
                metrics = self.run_step(step)
                results |= {f"{step.prefix}/{key}" if step.prefix else key: value for key, value in metrics.items()}
                write_json(self.run / "results.json", dict(sorted(results.items())))
                write_json(self.run / "costs.json", self.costs)
            if main.module.provides == "weights":
                self.lineage.weights = main.fingerprint
            elif main.module.provides == "representations":
                self.lineage.representations = main.fingerprint
        return results, titles

    def fit_preprocessing(self) -> None:
        """Fit the encoder's preprocessing (its tokenizer) once, in a directory that later stages load it from."""
        config = self.recipe.config.get("encoder")
        if config is None:
            return
        self.lineage.preprocessing = fingerprint(
            {
                "encoder": config,
                "dataset": self.dataset.hash,
                "seed": self.recipe.seed,
                "versions": versions(config),
            }
        )
        directory = self.stages / self.lineage.preprocessing
        with costed(self.costs, "preprocessing") as cost:
            cost["reused"] = directory.exists()
            if not directory.exists():
                with completed(directory) as partial:
                    self.encoder(partial)
        link(self.run / "preprocessing", directory)

    def encoder(self, preprocessing: Path) -> Encoder:
        """A fresh encoder with its first weights, which depend on the recipe's seed and nothing else."""
        encoder = self.recipe.encoder()
        assert encoder is not None
        seed_everything(seed_of(self.recipe.seed, "encoder"), verbose=False)
        encoder.setup(self.dataset.splits.known(self.dataset.products), preprocessing)
        return encoder

    def step(self, stage: StageRecipe, module: Stage, prefix: str = "") -> Step:
        """Fingerprint a stage: its configuration, the data and what it takes from the stages before."""
        material = {
            section: {key: value for key, value in values.items() if key not in IMMATERIAL.get(section, ())}
            for section, values in stage.config.items()
        }
        needs = module.needs
        if needs & {"encoder", "weights"} and self.lineage.preprocessing is None:
            raise recipes.RecipeError(f"{self.recipe.path}: stages.{stage.name} needs an encoder: declare one")
        if "representations" in needs and self.lineage.representations is None:
            raise recipes.RecipeError(f"{self.recipe.path}: stages.{stage.name} needs a represent stage before it")
        seed = seed_of(self.recipe.seed, stage.name)
        identity = {
            "config": material,
            "dataset": self.lineage.dataset,
            "preprocessing": self.lineage.preprocessing if needs & {"encoder", "weights"} else None,
            "weights": self.lineage.weights if "weights" in needs else None,
            "representations": self.lineage.representations if "representations" in needs else None,
            "seed": seed,
            "versions": versions(material),
        }
        name = f"{stage.name}.{prefix.replace('/', '.')}" if prefix else stage.name
        return Step(name, prefix, stage, module, fingerprint(identity), seed)

    def reference_step(self, stage: StageRecipe, reference: Reference) -> Step:
        """The same stage with a reference's arguments in place of the recipe's."""
        changed = stage.override(dict(reference.module))
        return self.step(changed, changed.module(), reference.prefix)

    def run_step(self, step: Step) -> dict[str, float]:
        """Run a stage, or take its finished directory over; link it into the run."""
        directory = self.stages / step.fingerprint
        with costed(self.costs, step.link) as cost:
            cost["reused"] = directory.exists()
            if directory.exists():
                cost |= {"first_run": json.loads((directory / "cost.json").read_text())}
            else:
                start = time.perf_counter()
                with completed(directory) as partial:
                    metrics = step.module.run(self.context(step, partial))
                    write_json(partial / "metrics.json", metrics)
                    write_json(partial / "cost.json", {"seconds": round(time.perf_counter() - start, 2)})
        link(self.run / step.link, directory)
        took = "taken over" if cost["reused"] else f"{cost['seconds']:.1f} s"
        self.console.print(f"{step.link:28s} {took:>10s}  {directory}", highlight=False, soft_wrap=True)
        found: dict[str, float] = json.loads((directory / "metrics.json").read_text())
        return found

    def context(self, step: Step, directory: Path) -> StageContext:
        """What the stage is given; everything random after this call follows from the stage's own seed."""
        needs, lineage = step.module.needs, self.lineage
        trainer = step.recipe.trainer(
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
        encoder = None
        if needs & {"encoder", "weights"}:
            assert lineage.preprocessing is not None
            encoder = self.encoder(self.stages / lineage.preprocessing)
        seed_everything(step.seed, verbose=False)
        weights = lineage.weights if "weights" in needs else None
        representations = lineage.representations if "representations" in needs else None
        return StageContext(
            dataset=self.dataset,
            data=step.recipe.data(),
            trainer=trainer,
            directory=directory,
            seed=step.seed,
            encoder=encoder,
            weights=self.stages / weights / "weights.safetensors" if weights else None,
            representations=self.stages / representations if representations else None,
        )


def claim(run: Path, recipe: Recipe, replace: bool) -> None:
    """Make the run directory this recipe's, or refuse it.

    Raises:
        RunExistsError: where it holds another recipe's run and ``replace`` is False; the message shows the difference.
    """
    file = run / "recipe.yaml"
    if file.exists():
        before = yaml.safe_load(file.read_text())
        changed = recipes.diff(before, recipe.config)
        if changed and not replace:
            lines = "\n".join(f"  {key}: {old} -> {new}" for key, old, new in changed)
            raise RunExistsError(
                f"{run} holds the run of a recipe that differs:\n{lines}\n"
                "Give this run another --name, or pass --replace to take the directory over (finished stages are kept)"
            )
        if changed:
            for entry in run.iterdir():
                if entry.is_symlink() or entry.name in ("results.json", "costs.json"):
                    entry.unlink()
    elif run.exists() and any(run.iterdir()):
        raise RunExistsError(f"{run} is not a run directory and not empty: give the run another --name")
    run.mkdir(parents=True, exist_ok=True)
    write_text(file, yaml.safe_dump(recipe.config, sort_keys=False, allow_unicode=True))


@contextmanager
def completed(directory: Path) -> Iterator[Path]:
    """A directory to write into that takes its real name only once everything in it is written."""
    partial = directory.with_name(f"{directory.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    partial.replace(directory)


@contextmanager
def costed(costs: dict[str, dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Note the seconds, and the peak resident memory so far in GB of this process and of its largest child."""
    cost = costs[name] = {}
    start = time.perf_counter()
    yield cost
    cost["seconds"] = round(time.perf_counter() - start, 2)
    kilobytes = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost["peak_gb"], cost["peak_child_gb"] = (round(size / 2**20, 2) for size in kilobytes)


def seed_of(seed: int, name: str) -> int:
    """The seed of a stage: a function of the recipe's seed and the stage's name, in 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def versions(config: Any) -> dict[str, str]:
    """Versions of the distributions that the classes of a configuration come from, and of torch."""
    packages = metadata.packages_distributions()
    modules = {"torch", "moonlib"}

    def visit(node: Any) -> None:
        if isinstance(node, Mapping):
            if isinstance(node.get("class_path"), str):
                modules.add(node["class_path"].split(".")[0])
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    visit(config)
    return {
        name: metadata.version(name) for module in sorted(modules) for name in sorted(set(packages.get(module, [])))
    }


def link(path: Path, target: Path) -> None:
    """Point a relative link at ``target``, replacing an older one in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, path.parent))
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON under a temporary name and rename it."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def next_command(recipe: Recipe) -> str:
    """A command that runs the same recipe under another name and seed."""
    return f"moonlib fit --config {recipe.path} --name {recipe.name}-seed{recipe.seed + 1} --seed {recipe.seed + 1}"


def quiet() -> None:
    """Leave Lightning's hints out: what a user can act on, moonlib says itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*bottleneck.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
