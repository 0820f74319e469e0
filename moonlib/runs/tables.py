"""The tables at the end of a run: every value beside its baselines and upper bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from moonlib.artifacts.layout import CHECKPOINT_LINKS, is_checkpoint_link
from moonlib.metrics.key import MetricKey

COLUMNS = 10
"""Columns of values that a terminal of ordinary width has room for."""

Column = tuple[str, str, str]
"""A column's title, and the reference and the segment of its values; a run may be called like a reference."""


def closing_tables(
    name: str, results: Mapping[str, float], references: Mapping[str, str], costs: Mapping[str, Mapping[str, Any]]
) -> Group:
    """Lay results out: a table per task, a row per metric, a column for the run, each segment and each reference.

    Args:
        name: of the run.
        results: flat keys as in ``results.json``; those of validation days are left out.
        references: title of each reference's prefix, in the order of the columns.
        costs: as in ``costs.json``.

    Returns:
        What to print: the metrics of each task, image and text search in one table, then the seconds per stage.
    """
    tasks: dict[str, list[str]] = {}
    for text in own_keys(results, references):
        key = MetricKey.parse(text, references)
        tasks.setdefault((key.task or key.name).removeprefix("image_").removeprefix("text_"), []).append(text)
    tables = [table for keys in tasks.values() for table in metric_tables(keys, name, results, references)]
    return Group(*tables, seconds_table(costs))


def own_keys(results: Mapping[str, float], references: Iterable[str]) -> list[str]:
    """The keys of rows: a run's own results of test days, without segments of what there is for all rows."""
    keys = {text: MetricKey.parse(text, references) for text in results}
    whole = {text for text, key in keys.items() if not key.segment or str(key.whole) not in results}
    return [text for text, key in keys.items() if key.split == "test" and not key.reference and text in whole]


def metric_tables(
    keys: list[str], name: str, results: Mapping[str, float], references: Mapping[str, str]
) -> list[Table]:
    """A row per key; columns that have no value for any of them are left out.

    Where they are too many for one table, the segments get one of their own.
    """
    rows = {key: MetricKey.parse(key, references) for key in keys}

    def known(columns: Iterable[Column]) -> list[Column]:
        return [column for column in columns if any(value(results, row, column) is not None for row in rows.values())]

    parsed = (MetricKey.parse(key, references) for key in results)
    segments = dict.fromkeys(key.segment for key in parsed if key.segment and str(key.whole) in rows)
    own: list[Column] = [(name, "", "")]
    within = known((f"@{segment}", "", segment) for segment in segments)
    beside = known((title, prefix, "") for prefix, title in references.items())
    if len(own + within + beside) <= COLUMNS:
        return [metric_table(rows, own + within + beside, results)]
    return [metric_table(rows, own + columns, results) for columns in (beside, within) if columns]


def metric_table(rows: Mapping[str, MetricKey], columns: Sequence[Column], results: Mapping[str, float]) -> Table:
    """A row per key and a column for each of its variants."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("test days", no_wrap=True, min_width=max(map(len, rows)))
    for title, _, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for text, row in rows.items():
        table.add_row(text, *(cell(value(results, row, column)) for column in columns))
    return table


def value(results: Mapping[str, float], row: MetricKey, column: Column) -> float | None:
    """The value in a row and a column."""
    _, reference, segment = column
    if row.segment and segment:
        return None
    return results.get(str(replace(row, reference=reference, segment=segment or row.segment)))


def cell(value: float | None) -> str:
    """A value as a table shows it, a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"


def spread_table(results: Mapping[str, Mapping[str, float]]) -> Table:
    """A row per result of test days: mean and sample standard deviation over several runs, then each of them.

    A result that a run lacks has no mean.

    Args:
        results: flat keys as in ``results.json``, by the name of the run; at least two runs.
    """
    table = Table("test days", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("mean", "spread", *results):
        table.add_column(title, justify="right", no_wrap=True)
    for key in dict.fromkeys(key for values in results.values() for key in values):
        if MetricKey.parse(key).split == "test":
            values = [values.get(key) for values in results.values()]
            there = [value for value in values if value is not None]
            whole = len(there) == len(values)
            spread = (mean(there), stdev(there)) if whole else (None, None)
            table.add_row(key, *map(cell, (*spread, *values)))
    return table


def seconds_table(costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Seconds of each stage with its references, of all points together, and the peak memory so far."""
    of_points = [cost for stage, cost in costs.items() if is_checkpoint_link(stage)]
    costs = {stage: cost for stage, cost in costs.items() if not is_checkpoint_link(stage)}
    if of_points:
        costs[CHECKPOINT_LINKS] = {
            "seconds": sum(cost["seconds"] for cost in of_points),
            "reused": all(cost["reused"] for cost in of_points),
            "peak_gb": max(cost["peak_gb"] for cost in of_points),
        }
    table = Table("stage", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("seconds", justify="right")
    table.add_column("peak GB", justify="right")
    for stage, cost in costs.items():
        table.add_row(
            stage,
            "reused" if cost.get("reused") else f"{cost['seconds']:.1f}",
            f"{cost['peak_gb']:.1f}" if "peak_gb" in cost else "",
        )
    table.add_row("total", f"{sum(cost['seconds'] for cost in costs.values()):.1f}", style="bold")
    return table
