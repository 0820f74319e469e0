"""Scaling studies: a grid of points, each an ordinary run, and the law that they follow.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moonlib import processes
from moonlib import recipe as recipes
from moonlib.claim import is_material
from moonlib.directories import write_json
from moonlib.iteration import fit
from moonlib.recipe import Recipe, RecipeError
from moonlib.recipe_merge import hint
from moonlib.recipe_typing import construct
from moonlib.run import Run, RunError
from moonlib.studies.power_law import PowerLaw, fit_power_law
from moonlib.studies.scaling_figure import scaling_figure

FORMS = ("E + A·N^-alpha", "E + A·N^-alpha + B·D^-beta")
"""Of one axis and of two."""


class StudyError(ValueError):
    """A study that cannot go on; the message says why and what to do."""


@dataclass
class Axis:
    """What one axis of a study moves.

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
        StudyError: it is no study.
    """

    def __init__(
        self, config: str | Path, overrides: Sequence[str] = (), runs: str | Path = "runs", name: str | None = None
    ) -> None:
        self.config, self.overrides, self.runs = str(config), tuple(overrides), Path(runs)
        self.recipe = recipes.load(config, list(overrides))
        self.scale = scale_section(self.recipe)
        self.name = name or self.recipe.name
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

    def run(self, point: Point, *, replace: bool = False, checkpoint_seconds: float = 30.0) -> Path:
        """Run a point, or take over what of it is finished; see `moonlib.fit`.

        Args:
            point: of this study.
            replace: take over a run directory of another recipe.
            checkpoint_seconds: time between the checkpoints of a training.

        Raises:
            StudyError: the study's directory is that of a run.
        """
        if (self.directory / "recipe.yaml").exists():
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
        """
        run = Run(self.directory / point.name)
        differing = [
            f"{key} {old} (now {new})"
            for key, old, new in recipes.diff(run.config, self.config_of(point))
            if is_material(key)
        ]
        if differing:
            raise StudyError(f"{run.directory} is the run of another recipe: {', '.join(differing)}; see --replace")
        results = run.results
        for metric in self.scale.metrics:
            if metric not in results:
                raise StudyError(f"{run.directory} has no result '{metric}'; {hint(metric, results)}")
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


@dataclass(frozen=True)
class Series:
    """One metric along a study.

    Attributes:
        metric: its key in results.json.
        goal: whether more or less of it is better.
        values: by point.
        law: of the error; None where there are too few points.
        problem: why there is none.
    """

    metric: str
    goal: Literal["max", "min"]
    values: dict[int, float]
    law: PowerLaw | None
    problem: str = ""

    @property
    def of(self) -> str:
        """What the law is of."""
        return f"1 - {self.metric}" if self.goal == "max" else self.metric

    def error(self, value: Any) -> Any:
        """A metric as the error that is fitted, and the other way round."""
        return 1 - value if self.goal == "max" else value


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


def scale(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    name: str | None = None,
    gather_only: bool = False,
    replace: bool = False,
    checkpoint_seconds: float = 30.0,
) -> Path:
    """Run every point of a study, fit a power law, and write scale.json and scale.png.

    Points that are finished are taken over, one that was cut off is continued, and one that fails leaves the others
    as they are.

    Args:
        config: see `Study`; so are the others.
        overrides: see `Study`.
        runs: see `Study`.
        name: see `Study`.
        gather_only: run nothing; fit what is there.
        replace: take over run directories of other recipes.
        checkpoint_seconds: time between the checkpoints of a training.

    Returns:
        The file scale.json.

    Raises:
        RecipeError: see `Study`.
        StudyError: see `Study`; also after all else is done, if points have failed, or if the first has no such metric.

    Example: ``scale("studies/scaling/training_samples")`` returns ``Path("runs/training_samples/scale.json")``.
    """
    study = Study(config, overrides, runs, name)
    study.check()  # all of them before the first is run
    console = Console() if Console().is_terminal else Console(width=120)
    failed: dict[str, str] = {}
    measured = False
    for point in () if gather_only else study.points:
        console.print(f"point {point.index} of {len(study.points)}: {point.name}", style="bold", highlight=False)
        try:
            study.run(point, replace=replace, checkpoint_seconds=checkpoint_seconds)
        except Exception as error:  # whatever is wrong with one point, the others are worth having
            failed[point.name] = " ".join(str(error).split()) or type(error).__name__
            console.print(f"{point.name} failed: {failed[point.name]}", highlight=False, soft_wrap=True, markup=False)
            continue
        if not measured and processes.is_first():
            study.values(point)  # a metric that the first run lacks, the others would lack too
            measured = True
    file = study.directory / "scale.json"
    if processes.is_first() and len(failed) < len(study.points):
        file = gather(study, console)
    if failed:
        first = next(point for point in study.points if point.name in failed)
        told = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        again = f"`{study.command(first)} --traceback` shows where"
        raise StudyError(f"{len(failed)} of {len(study.points)} points failed: {told}; {again}")
    return file


def gather(study: Study, console: Console) -> Path:
    """Read the points that are there, fit, print the tables, and write scale.json and scale.png.

    Raises:
        StudyError: not one point is there.
    """
    found: dict[int, dict[str, float]] = {}
    missing: dict[int, str] = {}
    for point in study.points:
        try:
            found[point.index] = study.values(point)
        except (RunError, StudyError) as error:
            missing[point.index] = str(error)
    if not found:
        raise StudyError(f"{study.directory}: no point is finished; the first: {missing[0]}")
    axes, points = study.scale.axes, [study.points[index] for index in found]
    every = [
        series(metric, goal, points, {index: values[metric] for index, values in found.items()})
        for metric, goal in study.scale.metrics.items()
    ]
    for one in every:
        console.print(points_table(one, points, axes))
        console.print(*law_lines(one, list(axes)), sep="\n", highlight=False, soft_wrap=True, markup=False)
    for index, why in missing.items():
        console.print(f"missing: {study.points[index].name}: {why}", highlight=False, soft_wrap=True, markup=False)
    head, *more = (_json(one, points, study) for one in every)
    file, figure = study.directory / "scale.json", study.directory / "scale.png"
    told = [{"x": study.points[i].x, "seed": study.points[i].seed, "why": why} for i, why in missing.items()]
    about = {"study": study.name, "axes": list(axes), "units": {title: axis.unit for title, axis in axes.items()}}
    write_json(file, {**about, **head, "more": more, "missing": told})
    scaling_figure(figure, every, points, {title: axis.unit for title, axis in axes.items()})
    console.print(f"{file}\n{figure}", highlight=False, soft_wrap=True)
    if missing:
        console.print(f"next: {study.command(study.points[next(iter(missing))])}", highlight=False, soft_wrap=True)
    return file


def series(metric: str, goal: Literal["max", "min"], points: Sequence[Point], values: dict[int, float]) -> Series:
    """Fit a metric along the points that have it, if they are enough."""
    x = [list(point.x.values()) for point in points]
    y = [1 - values[point.index] if goal == "max" else values[point.index] for point in points]
    try:
        return Series(metric, goal, values, fit_power_law(x, y))
    except ValueError as error:
        return Series(metric, goal, values, None, f"not fitted: {error}")


def points_table(one: Series, points: Sequence[Point], axes: dict[str, Axis]) -> Table:
    """A row per point: mean and sample standard deviation over the seeds, each of them, and what the law says."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=one.metric, title_justify="left")
    seeds = sorted({point.seed for point in points})
    columns = [escape(f"{title} [{axis.unit}]" if axis.unit else title) for title, axis in axes.items()]
    for title in (*columns, "mean", "spread", *(f"seed {seed}" for seed in seeds), "law"):
        table.add_column(title, justify="right", no_wrap=True)
    for x, same in _by_place(points):
        own = {point.seed: one.values[point.index] for point in same}
        law = "" if one.law is None else f"{one.error(one.law([x])[0]):.4f}"
        held = " (held out)" if one.law is not None and x == one.law.held_out.x else ""
        table.add_row(
            *(f"{value:,.10g}" for value in x[:-1]),
            f"{x[-1]:,.10g}",
            f"{mean(own.values()):.4f}",
            f"{stdev(own.values()):.4f}" if len(own) > 1 else "",
            *(f"{own[seed]:.4f}" if seed in own else "" for seed in seeds),
            law + held,
        )
    return table


def law_lines(one: Series, axes: Sequence[str]) -> Iterator[str]:
    """The fit in words: its form, its parameters, its verdict."""
    if one.law is None:
        yield one.problem
        return
    yield f"{one.of} = {FORMS[one.law.axes - 1]}, " + ", ".join(
        f"{letter} = {title}" for letter, title in zip("ND", axes, strict=False)
    )
    told = []
    for name, interval in one.law.parameters.items():
        bounds = "" if math.isnan(interval.low) else f" [{interval.low:.4g}, {interval.high:.4g}]"
        told.append(f"{name} {interval.estimate:.4g}{bounds}")
    yield ", ".join(told) + (" (95 % intervals over the seeds)" if "[" in told[0] else " (one seed, no intervals)")
    yield one.law.verdict(axes)


def _by_place(points: Sequence[Point]) -> list[tuple[tuple[float, ...], list[Point]]]:
    """The points of each place, in the order of the places."""

    def place(point: Point) -> tuple[float, ...]:
        return tuple(point.x.values())

    return [(x, list(same)) for x, same in itertools.groupby(sorted(points, key=place), place)]


def _json(one: Series, points: Sequence[Point], study: Study) -> dict[str, Any]:
    """A metric's part of scale.json."""
    rows = [
        {"x": point.x, "seed": point.seed, "y": one.values[point.index], "run": f"{study.name}/{point.name}"}
        for point in points
    ]
    return {"metric": one.metric, "goal": one.goal, "points": rows, "fit": _fit_json(one, list(study.scale.axes))}


def _fit_json(one: Series, axes: list[str]) -> dict[str, Any]:
    if one.law is None:
        return {"of": one.of, "verdict": one.problem}
    held = one.law.held_out
    return {
        "form": FORMS[one.law.axes - 1],
        "of": one.of,
        "variables": dict(zip("ND", axes, strict=False)),
        "parameters": {
            name: {key: _number(value) for key, value in vars(interval).items()}
            for name, interval in one.law.parameters.items()
        },
        "held_out": {
            "x": dict(zip(axes, held.x, strict=True)),
            "measured": held.measured,
            "predicted": held.predicted,
            "errors": held.errors,
            "best": held.best,
            "power_law_wins": held.wins,
        },
        "power_law": held.best == "power law",
        "verdict": one.law.verdict(axes),
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
