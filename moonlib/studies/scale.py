"""Run a scaling study, fit the law that its points follow, and write both down."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from moonlib.artifacts.checksums import Damaged
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import SCALE
from moonlib.artifacts.reading import Unreadable
from moonlib.runs.run import RunError
from moonlib.studies.power_law import fit_power_law
from moonlib.studies.scaling_figure import scaling_figure
from moonlib.studies.series import Series
from moonlib.studies.study import Axis, NotDefined, Point, Study, StudyError
from moonlib.system import processes
from moonlib.system.interruption import CHECKPOINT_SECONDS

log = logging.getLogger(__name__)

FORMS = ("E + A·N^-alpha", "E + A·N^-alpha + B·D^-beta")
"""Of one axis and of two."""


@dataclass(frozen=True)
class Scaling:
    """Laws fitted to the points of a study, as scale.json holds them.

    Attributes:
        study: the study.
        points: those that are there.
        series: one for each metric, with its law where there is one.
        missing: why a point is not there, by its index.
        file: scale.json.
        figure: scale.png.
    """

    study: Study
    points: list[Point]
    series: list[Series]
    missing: dict[int, str]
    file: Path
    figure: Path


def scale(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    name: str | None = None,
    gather_only: bool = False,
    replace: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Scaling | None:
    """Run every point of a study, fit a power law, and write scale.json and scale.png.

    Points that are finished are reused, one that was cut off is resumed, and one that fails leaves the others
    as they are.

    Args:
        config: see `Study`; so are the others.
        overrides: see `Study`.
        runs: see `Study`.
        name: see `Study`.
        gather_only: run nothing; fit what is there.
        replace: replace other recipes' runs in their directories.
        checkpoint_seconds: time between the checkpoints of a training.

    Returns:
        What the points say; None in a process that only takes part in a run on several.

    Raises:
        RecipeError: see `Study`.
        StudyError: see `Study`; also after all else is done, if points have failed, or if the first has no such metric.

    Example: ``scale("studies/scaling/training_samples").file`` is ``Path("runs/training_samples/scale.json")``.
    """
    study = Study(config, overrides, runs, name)
    begin(study)
    failed = {} if gather_only else run_points(study, replace=replace, checkpoint_seconds=checkpoint_seconds)
    found = gather(study) if processes.is_first() and len(failed) < len(study.points) else None
    refuse_failures(study, failed)
    return found


def begin(study: Study) -> None:
    """Check every point before the first is run, and find out whether this process is one of several."""
    study.check()
    processes.heed_launcher(stage.world_size for stage in study.recipe.stages.values())


def run_points(
    study: Study, *, replace: bool = False, checkpoint_seconds: float = CHECKPOINT_SECONDS
) -> dict[str, str]:
    """Run every point of a study, and log which.

    Args:
        study: see `begin`.
        replace: see `scale`.
        checkpoint_seconds: see `scale`.

    Returns:
        What went wrong, by the name of the point.

    Raises:
        StudyError: the first run has no such metric, and so no other would.
    """
    failed: dict[str, str] = {}
    measured = False
    for point in study.points:
        log.info(f"point {point.index} of {len(study.points)}: {point.name}")
        try:
            study.run(point, replace=replace, checkpoint_seconds=checkpoint_seconds)
        except Exception as error:  # whatever is wrong with one point, the others are worth having
            failed[point.name] = " ".join(str(error).split()) or type(error).__name__
            log.warning(f"{point.name} failed: {failed[point.name]}")
            continue
        if not measured and processes.is_first():
            with suppress(NotDefined):  # by this point's data
                study.values(point)  # a metric that the first run lacks, the others would lack too
                measured = True
    return failed


def refuse_failures(study: Study, failed: Mapping[str, str]) -> None:
    """Raise `StudyError` if points have failed.

    Args:
        study: the study.
        failed: what `run_points` returned.
    """
    if failed:
        first = next(point for point in study.points if point.name in failed)
        told = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        again = f"`{study.command(first)} --traceback` shows where"
        raise StudyError(f"{len(failed)} of {len(study.points)} points failed: {told}; {again}")


def gather(study: Study) -> Scaling:
    """Read the points that are there, fit, and write scale.json and scale.png.

    Raises:
        StudyError: not one point is there.
    """
    found: dict[int, dict[str, float]] = {}
    missing: dict[int, str] = {}
    for point in study.points:
        try:
            found[point.index] = study.values(point)
        except (RunError, StudyError, Unreadable, Damaged, OSError) as error:
            missing[point.index] = str(error)
    if not found:
        raise StudyError(f"{study.directory}: no point is finished; the first: {missing[0]}")
    axes, points = study.scale.axes, [study.points[index] for index in found]
    every = [
        series(metric, goal, points, {index: values[metric] for index, values in found.items()})
        for metric, goal in study.scale.metrics.items()
    ]
    head, *more = (_json(one, points, study) for one in every)
    file, figure = study.directory / SCALE, study.directory / "scale.png"
    told = [{"x": study.points[i].x, "seed": study.points[i].seed, "why": why} for i, why in missing.items()]
    about = {"study": study.name, "axes": list(axes), "units": {title: axis.unit for title, axis in axes.items()}}
    write_json(file, {**about, **head, "more": more, "missing": told})
    scaling_figure(figure, every, points, {title: axis.unit for title, axis in axes.items()})
    return Scaling(study, points, every, missing, file, figure)


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
    columns = [f"{title} [{axis.unit}]" if axis.unit else title for title, axis in axes.items()]
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
