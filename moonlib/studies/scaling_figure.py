"""The figure of a scaling study: its points, the law with its band, and what was held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from moonlib.system.disk import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from moonlib.studies.series import Series
    from moonlib.studies.study import Point

CURVE = 200
"""Places at which a law is drawn."""


def scaling_figure(file: Path, every: Sequence[Series], points: Sequence[Point], units: Mapping[str, str]) -> Path:
    """Draw a panel per metric over a logarithmic axis: the error that is fitted, lower is better.

    Every seed is a dot and their mean a larger one with a bar from the lowest to the highest; the law is drawn with its
    95 % band, and the held-out point with a ring around it. Of two axes the first lies along the panel, the values of
    the second have colours.

    Args:
        file: the PNG to write.
        every: the metrics with their laws.
        points: those that are there.
        units: of each axis, by title; may be empty.

    Returns:
        The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2 * len(every)), layout="constrained", dpi=130)
    for row, one in enumerate(every, 1):
        _panel(figure.add_subplot(len(every), 1, row), one, points, units)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        figure.savefig(partial, format="png")
    return file


def _panel(axes: Axes, one: Series, points: Sequence[Point], units: Mapping[str, str]) -> None:
    """One metric along the first axis, in a colour per value of the second."""
    titles = list(units)
    along = np.array([list(point.x.values()) for point in points])
    low, high = along[:, 0].min(), along[:, 0].max()
    curve = np.geomspace(low / (high / low) ** 0.05, high * (high / low) ** 0.05, CURVE)
    others = sorted({tuple(rest) for rest in along[:, 1:].tolist()})
    held = one.law.held_out.x if one.law else ()
    for number, rest in enumerate(others):
        colour = f"C{number}"
        label = "".join(f"{titles[1]} {_number(value)}{_space(units[titles[1]])}" for value in rest)
        by_place: dict[float, list[float]] = {}
        for point, place in zip(points, along, strict=True):
            if tuple(place[1:]) == rest:
                by_place.setdefault(place[0], []).append(one.error(one.values[point.index]))
        places, errors = list(by_place), list(by_place.values())
        means = [mean(values) for values in errors]
        bars = [
            [m - min(values) for m, values in zip(means, errors, strict=True)],
            [max(values) - m for m, values in zip(means, errors, strict=True)],
        ]
        seeds = [(place, value) for place, values in by_place.items() for value in values]
        axes.plot(*zip(*seeds, strict=True), ".", color=colour, markersize=4, alpha=0.6)
        axes.errorbar(
            places, means, bars, fmt="o", color=colour, capsize=2, label=label or "mean and range of the seeds"
        )
        if one.law:
            x = np.column_stack([curve, *(np.full(CURVE, value) for value in rest)])
            axes.plot(curve, one.law(x), "-", color=colour, label=None if label else "power law, 95 % band")
            if band := one.law.band(x):
                axes.fill_between(curve, *band, color=colour, alpha=0.15, linewidth=0)
        if held and held[1:] == rest:
            axes.plot(
                held[:1],
                [mean(by_place[held[0]])],
                "o",
                color="none",
                markeredgecolor="black",
                markersize=12,
                label="held out for the verdict",
            )
    places = sorted(set(along[:, 0].tolist()))
    axes.set_xscale("log")
    axes.set_xticks(places, [_number(place) for place in places], fontsize="small")
    axes.minorticks_off()
    axes.set_xlabel(titles[0] + _brackets(units[titles[0]]))
    axes.set_ylabel(one.of)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    if one.law:
        told = ", ".join(f"{name} {interval.estimate:.3g}" for name, interval in one.law.parameters.items())
        kind = "a power law predicts best" if one.law.held_out.best == "power law" else "no power law here"
        axes.set_title(f"{kind}: {told}", fontsize="small")


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _brackets(unit: str) -> str:
    return f" [{unit}]" if unit else ""


def _space(unit: str) -> str:
    return f" {unit}" if unit else ""
