"""A study file: a grid of points, each an ordinary run.

A study is a recipe with a section ``scale``, which `moonlib scale` reads and a run takes no notice of::

    extends: ../../iter2.yaml
    scale:
      axes:
        training samples:
          keys: {stages.posttrain.trainer.max_steps: [25, 50, 100, 200, 400, 800]}
          times: 64
          unit: pairs
      metrics: {image_search/recall@10: max}
      seeds: [11, 12]
"""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moonlib.artifacts.layout import RECIPE
from moonlib.artifacts.reading import Unreadable, numbers
from moonlib.config import recipe as recipes
from moonlib.config.fingerprint import material_recipe
from moonlib.config.merge import hint
from moonlib.config.names import run_name
from moonlib.config.recipe import Recipe, RecipeError
from moonlib.config.typing import construct
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.system.interruption import CHECKPOINT_SECONDS
from moonlib.system.remote import local_only


class StudyError(ValueError):
    """A study that cannot go on; the message says why and what to do."""


class NotDefined(StudyError):
    """A metric that the data of one point does not define; that of another may."""


@dataclass
class Axis:
    """One axis of a study: the keys that it varies.

    Args:
        keys: of each key of the recipe that this axis moves, its values; several keys move together.
        x: where each value lies on the axis, above 0; by default the values of the first key.
        times: what x is multiplied with, for instance the pairs in a step.
        unit: of x after that, shown in brackets.
    """

    keys: dict[str, list[Any]]
    x: list[float] | None = None
    times: float = 1.0
    unit: str = ""

    def places(self, title: str) -> list[float]:
        """Check the axis and return x of each of its values.

        Raises:
            RecipeError: naming the key.
        """
        key = ("scale", "axes", title)
        if not self.keys or not all(self.keys.values()):
            raise RecipeError("expected at least one key with a list of values", (*key, "keys"))
        first, values = next(iter(self.keys.items()))
        for name, others in self.keys.items():
            if len(others) != len(values):
                problem = f"{len(others)} values, but {first} has {len(values)}; keys of one axis move together"
                raise RecipeError(problem, (*key, "keys", name))
        x = values if self.x is None else self.x
        if len(x) != len(values):
            raise RecipeError(f"{len(x)} numbers, but {first} has {len(values)} values", (*key, "x"))
        for place in x:
            if isinstance(place, bool) or not isinstance(place, int | float) or not 0 < place * self.times < math.inf:
                where = "x" if self.x is not None else f"keys.{first}"
                told = "" if self.x is not None else "; say in x where each value lies"
                raise RecipeError(f"a place on the axis is a number above 0, got {place!r}{told}", (*key, where))
        places = [float(place * self.times) for place in x]
        if len(set(places)) != len(places):
            raise RecipeError("two values lie at the same place of the axis", (*key, "x" if self.x else "keys"))
        return places


@dataclass
class Scale:
    """The section ``scale`` of a study.

    Args:
        axes: one or two, by title; two make a grid.
        metrics: keys of results.json, each with whether more (``max``) or less (``min``) of it is better. One that is
            to be maximised is at most 1, and fitted as an error, 1 - y.
        seeds: every point is run with each.
        seed_keys: the keys that a seed is written to; with ``data.init_args.seed`` among them, every seed is another
            marketplace.
    """

    axes: dict[str, Axis]
    metrics: dict[str, Literal["max", "min"]]
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    seed_keys: list[str] = field(default_factory=lambda: ["seed"])

    def check(self) -> None:
        """Raise `RecipeError`, naming the key, for what no type can tell."""
        if not 1 <= len(self.axes) <= 2:
            raise RecipeError(f"expected one axis or two, got {len(self.axes)}", ("scale", "axes"))
        if not self.metrics:
            raise RecipeError("expected at least one metric, {KEY OF results.json: max or min}", ("scale", "metrics"))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise RecipeError(f"expected one or more different seeds, got {self.seeds}", ("scale", "seeds"))
        if not self.seed_keys:
            raise RecipeError(
                "expected the keys that a seed is written to, for instance [seed]", ("scale", "seed_keys")
            )
        for title, axis in self.axes.items():
            axis.places(title)

    def points(self) -> list[Point]:
        """Every point with every seed, the smallest first."""
        moves = []
        for title, axis in self.axes.items():
            values = [dict(zip(axis.keys, together, strict=True)) for together in zip(*axis.keys.values(), strict=True)]
            moves.append(sorted(zip(axis.places(title), values, strict=True), key=lambda move: move[0]))
        points: list[Point] = []
        for combination in itertools.product(*moves):
            x = dict(zip(self.axes, (place for place, _ in combination), strict=True))
            moved = {key: value for _, values in combination for key, value in values.items()}
            for seed in self.seeds:
                settings = moved | dict.fromkeys(self.seed_keys, seed)
                words = tuple(f"--{key}={json.dumps(value)}" for key, value in settings.items())
                points.append(Point(len(points), x, seed, words))
        return points


@dataclass(frozen=True)
class Point:
    """One run of a study.

    Attributes:
        index: its number, what ``--point`` takes.
        x: its place on each axis, by title.
        seed: of the study's seeds.
        overrides: what it changes in the recipe, as words of a command line.
    """

    index: int
    x: dict[str, float]
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its run, within the study's directory."""
        return "x".join(f"{value:.10g}" for value in self.x.values()) + f"-seed{self.seed}"


class Study:
    """A study file, typed, and the runs of its points.

    Attributes:
        recipe: what all points have in common.
        scale: its section ``scale``.
        points: every point with every seed.
        directory: ``<runs>/<name>``, where the points' runs, scale.json and scale.png go.

    Args:
        config: the study's file, or the name of a shipped one.
        overrides: of every point, and of ``--scale.KEY``, as words of a command line.
        runs: folder of all runs, whose stages (``.stages``) and datasets (``.data``) the points share.
        name: of the study's directory; the file's name by default.

    Raises:
        RecipeError: for anything wrong in the recipe or in its section.
        BadNameError: for what cannot be the name of a run.
        StudyError: it is no study.
    """

    def __init__(
        self, config: str | Path, overrides: Sequence[str] = (), runs: str | Path = "runs", name: str | None = None
    ) -> None:
        self.config, self.overrides, self.runs = str(config), tuple(overrides), local_only(runs, "a run")
        self.recipe = recipes.load(config, list(overrides))
        self.scale = scale_section(self.recipe)
        self.name = run_name(self.recipe.name if name is None else name)
        self.points = self.scale.points()
        self.directory = self.runs / self.name
        self._configs: dict[int, dict[str, Any]] = {}

    def config_of(self, point: Point) -> dict[str, Any]:
        """The recipe of a point, merged and expanded.

        Raises:
            RecipeError: naming the point and the key that it cannot set.
        """
        if point.index not in self._configs:
            try:
                recipe = recipes.load(self.config, [*self.overrides, *point.overrides])
            except RecipeError as error:
                raise RecipeError(error.problem, error.key, f"{self.recipe.path}: scale: point {point.name}") from error
            self._configs[point.index] = recipe.config
        return self._configs[point.index]

    def check(self) -> None:
        """Type the recipe of every point, of one seed; raises what `config_of` raises."""
        for point in self.points:
            if point.seed == self.scale.seeds[0]:
                self.config_of(point)

    def run(self, point: Point, *, replace: bool = False, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> Path:
        """Run a point, or reuse what of it is finished; see `moonlib.fit`.

        Args:
            point: of this study.
            replace: replace another recipe's run in its directory.
            checkpoint_seconds: time between the checkpoints of a training.

        Raises:
            StudyError: the study's directory is that of a run.
        """
        if (self.directory / RECIPE).exists():
            raise StudyError(f"{self.directory} is the directory of a run: give the study another --name")
        return fit(
            self.recipe.path,
            [*self.overrides, *point.overrides],
            runs=self.runs,
            name=f"{self.name}/{point.name}",
            replace=replace,
            checkpoint_seconds=checkpoint_seconds,
        )

    def values(self, point: Point) -> dict[str, float]:
        """The metrics of a point's finished run.

        Raises:
            RunError: it is missing or has no results.
            StudyError: it is of another recipe, or lacks a metric.
            NotDefined: its data does not define a metric.
            Unreadable: a file of it is none that a run leaves.
        """
        run = Run(self.directory / point.name)
        expected = material_recipe(self.config_of(point))
        try:
            changes = recipes.diff(material_recipe(run.config), expected)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            file, kind = run.layout.recipe, type(error).__name__
            remedy = f"remove {run.directory}, and the study makes this point again"
            raise Unreadable(f"{file} is no recipe of a run ({kind}: {error}); {remedy}") from error
        differing = [f"{key} {old} (now {new})" for key, old, new in changes]
        if differing:
            raise StudyError(f"{run.directory} is the run of another recipe: {', '.join(differing)}; see --replace")
        results = numbers(run.results, run.layout.results)
        for metric in self.scale.metrics:
            if why := run.undefined.get(metric):
                raise NotDefined(f"{run.directory}: '{metric}' is not defined: {why}")
            if metric not in results:
                raise StudyError(f"{run.directory} has no result '{metric}'; {hint(metric, results)}")
            if not math.isfinite(results[metric]):
                raise StudyError(f"{run.directory} has no result '{metric}', it is {results[metric]}")
        return {metric: results[metric] for metric in self.scale.metrics}

    def point(self, index: int) -> Point:
        """The point of a number.

        Raises:
            StudyError: there is none.
        """
        if not 0 <= index < len(self.points):
            raise StudyError(f"no point {index}: {self.config} has points 0 to {len(self.points) - 1}")
        return self.points[index]

    def command(self, point: Point) -> str:
        """The command that runs a point alone."""
        words = ["moonlib", "scale", "--config", self.config, "--runs", str(self.runs)]
        if self.name != self.recipe.name:
            words += ["--name", self.name]
        return shlex.join([*words, "--point", str(point.index), *self.overrides])


def scale_section(recipe: Recipe) -> Scale:
    """Type the section ``scale`` of a recipe.

    Raises:
        StudyError: it has none.
        RecipeError: naming the key that is wrong.
    """
    if recipe.scale is None:
        raise StudyError(f"{recipe.path} is no scaling study: it has no section `scale`; `moonlib fit` runs it")
    try:
        section: Scale = construct(Scale, recipe.scale, ("scale",)).build()
        section.check()
    except RecipeError as error:
        raise RecipeError(error.problem, error.key, str(recipe.path)) from error
    return section
