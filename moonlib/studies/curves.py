"""Curves of trainings: loss, learning rate, gradient norm, samples per second, and what is measured by step or day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from moonlib.artifacts.layout import LOG, is_finished
from moonlib.artifacts.logs import read_log, steps_made
from moonlib.runs.days import MEASURED, read_days
from moonlib.runs.run import Run
from moonlib.system.disk import replacing
from moonlib.system.terminal import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORDER = ("loss", "learning_rate", "gradient_norm", "samples_per_second")
"""Quantities that come first, in this order; others follow as they were logged."""

BY_DAY = "by day"
"""In place of a stage, what `moonlib fit --days` found on the day after each that it trained on."""

WIDTH, HEIGHT = 4.2, 2.4
"""Inches of a panel."""


class NoLogs(ValueError):
    """A run of which no training has logged anything yet."""


@dataclass(frozen=True)
class Curve:
    """The log of one training.

    Attributes:
        run: name of the run.
        stage: name of the stage, as the run directory calls it; or `BY_DAY`.
        log: a row per logged step, see `moonlib.artifacts.logs.read_log`; or per tested ``day``.
        finished: whether the stage has finished.
    """

    run: str
    stage: str
    log: pl.DataFrame
    finished: bool

    @property
    def quantities(self) -> list[str]:
        """Metrics that were logged, in the order of panels; learning rates of further groups of parameters left out."""
        logged = [
            name
            for name in self.log.columns
            if name not in ("step", "epoch", "day") and self.log[name].is_not_null().any()
        ]
        logged = [name for name in logged if not name.startswith("learning_rate/")]
        return [name for name in ORDER if name in logged] + [name for name in logged if name not in ORDER]


def logged_curves(run: str | Path) -> list[Curve]:
    """The logs of a run's stages, which may still be going, in the order of the recipe; without those of references.

    What was measured by day (`moonlib fit --days`) comes last.

    Args:
        run: a run directory.

    Raises:
        RunError: it is no run directory.
        NoLogs: no stage of it has logged anything yet.
        Unreadable: a log is broken.
    """
    opened = Run(run)
    found = []
    for stage in opened.config["stages"]:
        place = opened.layout.link(stage)
        log = read_log(place / LOG)
        if len(log):
            found.append(Curve(opened.name, stage, log, is_finished(place)))
    if days := read_days(opened.layout):
        log = pl.DataFrame(
            {
                "day": [date.fromisoformat(each.tested) for each in days],
                **{name: pl.Series([each.metrics.get(name) for each in days], dtype=pl.Float64) for name in MEASURED},
            }
        )
        found.append(Curve(opened.name, BY_DAY, log, True))
    if not found:
        stages = ", ".join(opened.config["stages"])
        raise NoLogs(
            f"{opened.directory}: no stage has logged anything ({stages}): it trains none, or has yet to begin"
        )
    return found


def curves(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Draw what runs have logged: a panel per stage and quantity, a colour per run.

    Args:
        runs: run directories; also of runs that are still going.
        out: the PNG file to write; by default ``curves.png`` in the run, or beside the first of several.

    Returns:
        The file.

    Raises:
        RunError: one is no run directory.
        NoLogs: one has no log.
        ValueError: ``out`` is no PNG file.

    Example: ``curves(["runs/iter2", "runs/iter2-seed1"])`` returns ``Path("runs/curves.png")``.
    """
    places = list(map(Path, runs))
    file = Path(out) if out else (places[0] if len(places) == 1 else places[0].resolve().parent) / "curves.png"
    if file.suffix.lower() != ".png":
        raise ValueError(f"{file}: curves are written as PNG: give a name that ends in .png")
    logged = [curve for place in places for curve in logged_curves(place)]
    figure = drawn(logged)
    with replacing(file) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return file


def drawn(logged: Sequence[Curve]) -> Figure:
    """Draw a row per stage and a column per quantity that any of them has logged."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(curve.stage for curve in logged))
    runs = list(dict.fromkeys(curve.run for curve in logged))
    named = [name for curve in logged for name in curve.quantities]
    columns = [name for name in ORDER if name in named]
    columns += [name for name in dict.fromkeys(named) if name not in ORDER]
    figure = Figure(figsize=(WIDTH * len(columns), HEIGHT * len(stages) + 0.6), layout="constrained")
    axes = figure.subplots(len(stages), len(columns), squeeze=False)
    for row, stage in enumerate(stages):
        of_stage = [curve for curve in logged if curve.stage == stage]
        for column, quantity in enumerate(columns):
            _panel(axes[row][column], of_stage, quantity, runs)
    handles = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=max(1, len(columns)), frameon=False)
    return figure


def _panel(panel: Axes, of_stage: Sequence[Curve], quantity: str, runs: Sequence[str]) -> None:
    """A quantity of a stage, over the steps of the optimizer; or over days."""
    there = [curve for curve in of_stage if quantity in curve.quantities]
    if not there:
        panel.set_axis_off()
        return
    for curve in there:
        over = "day" if curve.stage == BY_DAY else "step"
        points = curve.log.select(over, pl.col(quantity).cast(pl.Float64, strict=False)).drop_nulls()
        few = len(points) < 12
        panel.plot(
            (points["day"] if over == "day" else points["step"] + steps_made(quantity)).to_list(),
            points[quantity].to_list(),
            color=f"C{runs.index(curve.run) % 10}",
            marker="." if few else None,
            linewidth=1.2,
            label=_literal(curve.run),
        )
    title = f"{there[0].stage}: {quantity.replace('_', ' ')}"
    panel.set_title(_literal(title), fontsize=9, loc="left")
    panel.tick_params(labelsize=8)
    panel.set_xlabel(over, fontsize=8)
    if over == "day":
        panel.tick_params(axis="x", rotation=30)
    panel.grid(alpha=0.3)


def _literal(text: str) -> str:
    """A text that matplotlib takes for no formula."""
    return visible(text).replace("$", r"\$")
