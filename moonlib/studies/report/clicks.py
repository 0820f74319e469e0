"""The click models closer by: calibration, and the gain by category."""

from __future__ import annotations

import numpy as np
import polars as pl

from moonlib.data.ids import codes
from moonlib.metrics.bootstrap import resampled_auc
from moonlib.studies.paired import predictions, resampled_click_rates
from moonlib.studies.report.evidence import telling
from moonlib.studies.report.figures import Figure, PlotAxis, PlotSeries, Row, forest, legend, swatch, xy
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.parts import Section, Table, TableCell
from moonlib.studies.report.words import (
    SEGMENTS,
    ends,
    number,
    signed,
)

CATEGORIES = 24
"""Most that a figure by category shows."""


def calibration(report: Report) -> Section | None:
    """Predicted and actual clicks, of the last run and of the one before."""
    last, previous = report.last, report.previous(report.last)
    tables = []
    for run, style in ((previous, 1), (last, 0)):
        if run and run.application:
            with telling(run.problems.append):
                tables.append((run, style, predictions(run.application)))
    figures = []
    for segment, name in SEGMENTS.items():
        series = []
        for run, style, table in tables:
            if segment and (segment not in table.columns or table[segment].dtype != pl.Boolean):
                continue
            rows = table.filter(segment) if segment else table
            probability, clicked = rows["probability"].to_numpy(), rows["clicked"].to_numpy()
            found = resampled_click_rates(probability, clicked, codes(rows["user_id"]), bins=10)
            points = [(promised, rate.estimate) for promised, rate in found]
            series.append(PlotSeries(run.label, points, [(r.low, r.high) for _, r in found], style=style, line=True))
        if not any(one.points for one in series):
            continue
        about = f"Click rate against predicted probability, {name}: " + "; ".join(
            f"{one.label} promises {one.points[-1][0]:.3f} in its last bin, where {one.points[-1][1]:.3f} are clicked"
            for one in series
            if one.points
        )
        axes = PlotAxis("mean predicted probability of a click"), PlotAxis("click rate")
        figures.append(Figure(name.capitalize(), xy(series, *axes, about, diagonal=True), "", legend(series)))
    if not figures:
        return None
    lead = (
        "Whether a predicted probability is the share that is clicked, which bidding depends on: test days, 10 bins of "
        "equal mass with 95 % intervals over shoppers. On the dashed line, promises are kept."
    )
    return Section("calibration", "Calibration", lead, [figures])


def categories(report: Report) -> Section | None:
    """Difference of AUC by category, against the run before and against ids alone."""
    last, previous = report.last, report.previous(report.last)
    beside = [(f"against {previous.label}", previous.application)] if previous else []
    beside.append(("against id only", last.reference("application", "baseline")))
    if last.application is None:
        return None
    dataset = last.run.dataset()
    products = dataset.ids.decoded(dataset.table("products", ("item_id", "category")), "item_id")
    table = predictions(last.application).join(products, on="item_id", how="left", maintain_order="left")
    keys = ["search_id", "item_id", "clicked"]
    others = []
    for title, place in beside:
        if place:
            with telling(last.problems.append):
                others.append((title, predictions(place)))
    others = [(title, other) for title, other in others if other.select(keys).equals(table.select(keys))]
    if not others:
        return None
    table = table.with_columns(
        *(other["probability"].alias(f"other{i}") for i, (_, other) in enumerate(others)),
        level=_level(table["category"]),
    )
    sizes = table.group_by("level").agg(pl.len(), pl.col("clicked").sum()).drop_nulls("level")
    shown = sizes.sort(["len", "level"], descending=[True, False]).head(CATEGORIES)["level"].to_list()
    rows, cells = [], []
    for (level,), part in sorted(table.partition_by("level", as_dict=True).items(), key=lambda item: str(item[0][0])):
        if level not in shown or part["clicked"].n_unique() < 2:
            continue
        names = ["probability", *(f"other{i}" for i in range(len(others)))]
        scores = np.stack([part[name].to_numpy() for name in names])
        found = resampled_auc(scores, part["clicked"].to_numpy(), codes(part["user_id"]))
        gains = [found.difference(0, i + 1) for i in range(len(others))]
        rows.append(Row(str(level), gains[0], "", style=0, beside=gains[1] if len(gains) > 1 else None))
        own = found.interval(0)
        cells.append(
            (
                str(level),
                [
                    TableCell(f"{len(part):,}"),
                    TableCell(number(100 * part["clicked"].mean(), 1)),  # type: ignore[operator,arg-type]
                    TableCell(number(own.estimate), ends(own)),
                    *(
                        TableCell(signed(gain.estimate), ends(gain, sign=True), report.tone("ctr/auc", gain))
                        for gain in gains
                    ),
                ],
            )
        )
    if not rows:
        return None
    order = sorted(range(len(rows)), key=lambda i: -rows[i].value.estimate)
    rows, cells = [rows[i] for i in order], [cells[i] for i in order]
    about = f"Difference of AUC by category, {others[0][0]}: " + "; ".join(
        f"{row.label} {signed(row.value.estimate, 3)}" for row in rows
    )
    figure = Figure(
        "Click AUC by category",
        forest(rows, PlotAxis("difference of AUC, test days"), about, zero=0.0),
        "95 % intervals over shoppers.",
        [(swatch(0), others[0][0]), *([(swatch(1, hollow=True), others[1][0])] if len(others) > 1 else [])],
    )
    numbers = Table(
        f"{last.label} by category, test days",
        ["category", "impressions", "clicked, %", "AUC", *(title for title, _ in others)],
        [("", cells)],
    )
    left = len(sizes) - len(rows)
    lead = "Where the gain comes from." + (f" {left} smaller or one-sided categories are left out." if left > 0 else "")
    return Section("categories", "Categories", lead, [[figure], numbers])


def _level(category: pl.Series) -> pl.Series:
    """The deepest level of the category paths that has few enough values for a figure; else the first level."""
    paths = category.unique().drop_nulls().to_list()
    depth = max((path.count("/") + 1 for path in paths), default=1)
    for level in range(depth, 1, -1):
        if len({"/".join(path.split("/")[:level]) for path in paths}) <= CATEGORIES:
            break
    else:
        level = 1
    return category.str.split("/").list.head(level).list.join("/")
