"""Points on an encoder's way: what it is worth there, from intermediate metrics down to clicks.

A training stage with the key ``probe: {every: N}`` keeps its encoder's weights every N steps. Each of these snapshots,
the end of the stage and the run's final representations are a *point*. A point is evaluated by the same `chain` of
stages, whatever the run's own application is, so that points of different runs compare: products and the queries that
are needed are represented, the probes measure, and light downstream models are trained and measured. Every link of the
chain is an ordinary stage, in a directory of ``.stages`` that its fingerprint names: it is resumed and reused as any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.reading import read_numbers
from moonlib.config.merge import merge
from moonlib.config.recipe import Recipe, StageRecipe
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import EVALUATED, evaluation_searches
from moonlib.data.splits import Split
from moonlib.stages.relevance import judged_impressions
from moonlib.stages.represent import Represent
from moonlib.stages.training import SNAPSHOTS

if TYPE_CHECKING:
    from moonlib.runs.iteration import Iteration

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
"""The stages that every point is evaluated with, after its representations are made."""


@dataclass(frozen=True)
class Point:
    """An encoder on its way, or what stands for it in a run that trains none.

    Attributes:
        stage: that trained it; the one that made the representations where none did.
        step: of the optimizer, in that stage; None at the end of a stage that does not count in steps.
        weights: place of its weights below ``.stages``, without the file's name; None for first weights, and without
            an encoder.
        representations: name of the directory below ``.stages`` that holds its representations already; None where they
            are to be made, or came with the dataset.
    """

    stage: str
    step: int | None
    weights: str | None
    representations: str | None = None

    @property
    def key(self) -> str:
        """Tells what is evaluated; equal for a point that runs share, such as one of a stage that was taken over."""
        return self.weights or self.representations or "given"


def points_of(run: Path, recipe: Recipe) -> list[Point]:
    """The points of a finished run, in the order of training; the last one is its final representations.

    Args:
        run: a run directory.
        recipe: its recipe.

    Raises:
        FileNotFoundError: a stage has not finished.
    """
    found: list[Point] = []
    final: Point | None = None
    trained: Point | None = None
    for name, stage in recipe.stages.items():
        provides = stage.module().provides
        if provides is None:
            continue
        if not (run / name).is_dir():
            raise FileNotFoundError(f"{run} is not finished: {name} is missing; continue it with `moonlib fit`")
        directory = (run / name).resolve()
        if provides == "weights":
            steps = stage.written["trainer"].get("max_steps")
            trained = Point(name, steps, directory.name)
            if stage.probe:
                names = [place.name for place in (directory / SNAPSHOTS).glob("*")]
                snapshots = sorted(int(name) for name in names if name.isdecimal())  # a file browser leaves others
                found += [Point(name, step, f"{directory.name}/{SNAPSHOTS}/{step}") for step in snapshots]
                found.append(trained)
        else:
            weights = trained if trained and "weights" in stage.module().needs else None
            # Nothing is made again where all that the chain reads is there.
            there = directory.name if (directory / "queries.npy").exists() else None
            made = Point(name, None, None, directory.name)
            final = replace(weights, representations=there) if weights else made
    final = final or trained or Point("given", None, None)
    return [*(point for point in found if point.key != final.key), final]


def chain(dataset: Dataset, recipe: Recipe | None = None) -> dict[str, StageRecipe]:
    """The stages of `CHAIN` that a dataset has the data for, with the metrics that a recipe names.

    A recipe's stages of other classes follow that read nothing but representations and provide nothing: what a plugin
    measures of representations is measured at every point.
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
        elif module.provides is None and module.needs == {"representations"} and name not in links:
            links[name] = StageRecipe(name, merge(stage.written, {"trainer": ONE_DEVICE}))
    return {name: stage for name, stage in links.items() if there.get(name, True)}


def light_represent(recipe: Recipe) -> StageRecipe:
    """What makes a point's representations: the run's stage, of the queries that are needed and nothing besides."""
    made = [stage for stage in recipe.stages.values() if stage.module().provides == "representations"]
    written: Mapping[str, Any] = made[-1].written if made else {"module": "represent"}
    accelerator = {key: value for key, value in written.get("trainer", {}).items() if key == "accelerator"}
    if not made or isinstance(made[-1].module(), Represent):
        # The same K and no dimensions for all: so runs that share a snapshot share what is made of it. A core is a
        # quarter faster with batches that stay in its cache.
        own = made[-1].data().batch_size if made else 64
        lighter = {"queries": "measured", "batch_size": min(own, 64)}
        written = merge(written, {"module": {"init_args": {"dims": [], "ks": [1, 10]}}, "data": lighter})
    return StageRecipe(made[-1].name if made else "represent", {**written, "trainer": accelerator | ONE_DEVICE})


def evaluate(iteration: Iteration) -> list[dict[str, Any]]:
    """Evaluate the points of an iteration whose stages have finished, and write them into ``points.json`` of its run.

    Args:
        iteration: knows the run and what its stages have left.

    Returns:
        One mapping per point: ``stage``, ``step``, ``key`` (see `Point`), and ``metrics`` by key, those of validation
        days under ``valid/``.
    """
    found, links = [], chain(iteration.dataset, iteration.recipe)
    for point in points_of(iteration.run, iteration.recipe):
        metrics = {key: value for part in evaluated(iteration, point, links) for key, value in part.items()}
        about = {"stage": point.stage, "step": point.step, "key": point.key}
        found.append({**about, "metrics": dict(sorted(metrics.items()))})
        write_json(iteration.run / "points.json", {"points": found})
    return found


def evaluated(iteration: Iteration, point: Point, links: Mapping[str, StageRecipe]) -> Iterator[dict[str, float]]:
    """Run the chain at a point, link by link; yield the metrics of each."""
    before = iteration.lineage
    place = f"points/{point.stage}" + ("" if point.step is None else f"-{point.step}")
    (iteration.run / place).mkdir(parents=True, exist_ok=True)
    try:
        iteration.lineage = replace(before, weights=point.weights, representations=point.representations)
        if point.weights and point.representations is None:
            represent = iteration.step(stage := light_represent(iteration.recipe), stage.module())
            yield iteration.run_step(replace(represent, link=f"{place}/represent"))
            iteration.lineage.representations = represent.fingerprint
        elif point.representations:
            yield read_numbers(iteration.stages / point.representations / "metrics.json")
        for name, stage in links.items():
            iteration.interruption.check()
            step = iteration.step(stage, stage.module())
            yield iteration.run_step(replace(step, link=f"{place}/{name}"))
    finally:
        iteration.lineage = before
