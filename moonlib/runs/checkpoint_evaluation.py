"""Checkpoint evaluation: what an encoder is worth on its way, from intermediate metrics down to clicks.

A training stage with the key ``checkpoint_evaluation: {every: N}`` keeps its encoder's weights every N steps. Each of
these checkpoints, the end of the stage and the run's final representations are evaluated by the same `chain` of stages,
whatever the run's own application is, so that checkpoints of different runs compare: products and the queries that are
needed are represented, the probes measure, and light downstream models are trained and measured. Every link of the
chain is an ordinary stage, in a directory that its fingerprint names: it is resumed and reused as any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import METRICS, RunLayout, checkpoint_link, is_finished, snapshot, snapshot_steps
from moonlib.artifacts.reading import read_numbers
from moonlib.config.merge import merge
from moonlib.config.recipe import Recipe, StageRecipe
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import EVALUATED, evaluation_searches
from moonlib.data.splits import Split
from moonlib.representations.store import Representations
from moonlib.runs.lineage import Lineage, lineage_of
from moonlib.runs.runner import Runner
from moonlib.stages.relevance import judged_impressions
from moonlib.stages.represent import Represent

ONE_DEVICE: dict[str, Any] = {"devices": 1}

CHAIN: dict[str, dict[str, Any]] = {
    "probing": {"module": "probing", "trainer": ONE_DEVICE},
    # SimTier reads nothing of a representation but cosines, so it needs no width, no epochs and no tuning. Past queries
    # are left out: they are half of all queries, and to represent them takes longer than all the rest.
    "application": {
        "module": {"class_path": "application", "init_args": {"adapter": "simtier", "predictor": "mlp"}},
        "data": {"query_history": 0},
        "trainer": {"max_epochs": 1, **ONE_DEVICE},
    },
    # A weight that is given need not be chosen on validation days.
    "retrieval": {"module": {"class_path": "retrieval", "init_args": {"weights": [0.1]}}, "trainer": ONE_DEVICE},
    "relevance": {"module": "relevance", "data": {"batch_size": 256}, "trainer": {"max_epochs": 2, **ONE_DEVICE}},
}
"""The stages that every checkpoint is evaluated with, after its representations are made."""


@dataclass(frozen=True)
class EncoderCheckpoint:
    """An encoder on its way, or what stands for it in a run that trains none.

    Attributes:
        stage: that trained it; the one that made the representations where none did.
        step: of the optimizer, in that stage; None at the end of a stage that does not count in steps,
            or that keeps its best weights in place of the last.
        weights: place of its weights below the folder of all stages, without the file's name; None for first weights,
            and without an encoder.
        representations: name of the directory, in the folder of all stages, that holds its representations already;
            None where they are to be made, or came with the dataset.
    """

    stage: str
    step: int | None
    weights: str | None
    representations: str | None = None

    @property
    def key(self) -> str:
        """Tells what is evaluated; equal for a checkpoint that runs share, such as one of a stage that was reused."""
        return self.weights or self.representations or "given"


def checkpoints_of(run: RunLayout, recipe: Recipe) -> list[EncoderCheckpoint]:
    """The checkpoints of a finished run, in the order of training; the last one is its final representations.

    Args:
        run: places of the run.
        recipe: its recipe.

    Raises:
        FileNotFoundError: a stage has not finished.
    """
    found: list[EncoderCheckpoint] = []
    for name, stage in recipe.stages.items():
        if stage.provides and not is_finished(run.link(name)):
            problem = f"{run.directory} is not finished: {name} is missing"
            raise FileNotFoundError(f"{problem}; resume it with `moonlib fit`")
        if stage.provides == "weights" and stage.schedule:
            made, steps = run.fingerprint(name), snapshot_steps(run.link(name))
            found += [EncoderCheckpoint(name, step, snapshot(made, step).as_posix()) for step in steps]
            found.append(_end_of(run, stage))
    final = _final(run, recipe)
    return [*(checkpoint for checkpoint in found if checkpoint.key != final.key), final]


def _end_of(run: RunLayout, stage: StageRecipe) -> EncoderCheckpoint:
    """The encoder as a stage has trained it."""
    step = stage.written["trainer"].get("max_steps") if stage.keep == "last" else None
    return EncoderCheckpoint(stage.name, step, run.fingerprint(stage.name))


def _final(run: RunLayout, recipe: Recipe) -> EncoderCheckpoint:
    """The encoder that the run's final representations are made with."""
    end = lineage_of(recipe.provides)
    if end.representations is None:
        return _end_of(run, recipe.stages[end.weights]) if end.weights else EncoderCheckpoint("given", None, None)
    made = run.fingerprint(end.representations)
    reads = lineage_of(recipe.provides, end.representations).read(recipe.stages[end.representations].module().needs)
    if reads.weights is None:
        return EncoderCheckpoint(end.representations, None, None, made)
    # Nothing is made again where all that the chain reads is there.
    whole = Representations.are_in(run.link(end.representations), "queries")
    return replace(_end_of(run, recipe.stages[reads.weights]), representations=made if whole else None)


def chain(dataset: Dataset, recipe: Recipe | None = None) -> dict[str, StageRecipe]:
    """The stages of `CHAIN` that a dataset has the data for, with the metrics that a recipe names.

    A recipe's stages of other classes follow that read nothing but representations and provide nothing: what a plugin
    measures of representations is measured at every checkpoint.
    """
    splits: tuple[Split, ...] = ("train", *EVALUATED)
    there = {
        "probing": True,
        "application": all(len(dataset.splits.select(dataset.impressions, split)) for split in splits),
        "retrieval": all(len(evaluation_searches(dataset, split)) for split in EVALUATED),
        "relevance": all(len(judged_impressions(dataset, split)) for split in splits),
    }
    fitting = {"ks": [k for k in (10, 100) if k <= dataset.counts["products"]]}
    sections = merge(CHAIN, {"retrieval": {"module": {"init_args": fitting}}})
    links = {name: StageRecipe(name, section) for name, section in sections.items()}
    names = {type(stage.module()): name for name, stage in links.items()}
    for name, stage in recipe.stages.items() if recipe else ():
        module = stage.module()
        if link := names.get(type(module)):
            if metrics := stage.written["module"].get("init_args", {}).get("metrics"):
                links[link] = links[link].override({"metrics": metrics})
        elif (
            module.provides is None
            and module.needs == {"representations"}
            and stage.center is None
            and name not in links
        ):
            links[name] = StageRecipe(name, merge(stage.written, {"trainer": ONE_DEVICE}))
    return {name: stage for name, stage in links.items() if there.get(name, True)}


def light_represent(recipe: Recipe) -> StageRecipe:
    """The stage that makes a checkpoint's representations: the run's, of the queries that are needed and no others."""
    name = lineage_of(recipe.provides).representations
    made = recipe.stages[name] if name else None
    written: Mapping[str, Any] = made.written if made else {"module": "represent"}
    accelerator = {key: value for key, value in written.get("trainer", {}).items() if key == "accelerator"}
    if made is None or isinstance(made.module(), Represent):
        # The same K and no dimensions for all: so runs that share a snapshot share what is made of it. A core is a
        # quarter faster with batches that stay in its cache.
        own = made.data().batch_size if made else 64
        lighter = {"queries": "measured", "batch_size": min(own, 64)}
        written = merge(written, {"module": {"init_args": {"dims": [], "ks": [1, 10]}}, "data": lighter})
    return StageRecipe(name or "represent", {**written, "trainer": accelerator | ONE_DEVICE})


def evaluate_checkpoints(runner: Runner, lineage: Lineage) -> list[dict[str, Any]]:
    """Evaluate the checkpoints of a run whose stages have finished, and write them into ``points.json`` of the run.

    Args:
        runner: knows the run.
        lineage: its data and preprocessing; weights and representations are those of each checkpoint.

    Returns:
        One mapping per checkpoint: ``stage``, ``step``, ``key`` (see `EncoderCheckpoint`), and ``metrics`` by key,
        those of validation days under ``valid/``.

    Raises:
        FileNotFoundError: see `checkpoints_of`.
    """
    found, links = [], chain(runner.dataset, runner.recipe)
    for checkpoint in checkpoints_of(runner.run, runner.recipe):
        metrics = evaluate_checkpoint(runner, checkpoint, links, lineage)
        about = {"stage": checkpoint.stage, "step": checkpoint.step, "key": checkpoint.key}
        found.append({**about, "metrics": dict(sorted(metrics.items()))})
        write_json(runner.run.checkpoint_evaluations, {"points": found})
    return found


def evaluate_checkpoint(
    runner: Runner, checkpoint: EncoderCheckpoint, links: Mapping[str, StageRecipe], lineage: Lineage
) -> dict[str, float]:
    """Run the chain on a checkpoint.

    Args:
        runner: knows the run.
        checkpoint: of the run.
        links: the stages of the chain by name, see `chain`.
        lineage: see `evaluate_checkpoints`.

    Returns:
        The metrics of all links.
    """

    def run(stage: StageRecipe, lineage: Lineage, name: str) -> tuple[str, dict[str, float]]:
        step = runner.step(stage, lineage)
        named = replace(step, link=checkpoint_link(checkpoint.stage, checkpoint.step, name))
        (runner.run.directory / named.link).parent.mkdir(parents=True, exist_ok=True)
        return step.fingerprint, runner.run_step(named)

    metrics: dict[str, float] = {}
    lineage = replace(lineage, weights=checkpoint.weights, representations=checkpoint.representations, codes=None)
    if checkpoint.representations:
        metrics |= read_numbers(runner.run.stages / checkpoint.representations / METRICS)
    elif checkpoint.weights:
        made, found = run(light_represent(runner.recipe), lineage, "represent")
        lineage, metrics = lineage.after("representations", made), metrics | found
    for name, stage in links.items():
        runner.interruption.check()
        metrics |= run(stage, lineage, name)[1]
    return metrics
