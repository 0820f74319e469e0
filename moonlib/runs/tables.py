"""The tables at the end of a run: every value beside its baselines and upper bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from moonlib.artifacts.layout import CHECKPOINT_LINKS, is_checkpoint_link
from moonlib.metrics.undefined import is_of_validation

COLUMNS = 10
"""Columns of values that a terminal of ordinary width has room for."""

Around = tuple[str, str, str]
"""A column's title, and what stands before and after a row's key in its own; a run may be called like a reference."""


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
    prefixes = tuple(f"{prefix}/" for prefix in (*references, "valid"))
    own = [key for key in results if not key.startswith(prefixes) and key.rpartition("@")[0] not in results]
    tasks: dict[str, list[str]] = {}
    for key in own:
        tasks.setdefault(key.partition("/")[0].removeprefix("image_").removeprefix("text_"), []).append(key)
    tables = [table for keys in tasks.values() for table in metric_tables(keys, name, results, references)]
    return Group(*tables, seconds_table(costs))


def metric_tables(
    keys: list[str], name: str, results: Mapping[str, float], references: Mapping[str, str]
) -> list[Table]:
    """A row per key; columns that have no value for any of them are left out.

    Where they are too many for one table, the segments get one of their own.
    """

    def known(columns: Iterable[Around]) -> list[Around]:
        return [
            (title, before, after)
            for title, before, after in columns
            if any(f"{before}{key}{after}" in results for key in keys)
        ]

    segments = dict.fromkeys(key.rpartition("@")[2] for key in results if key.rpartition("@")[0] in keys)
    own: list[Around] = [(name, "", "")]
    within = known((f"@{segment}", "", f"@{segment}") for segment in segments)
    beside = known((title, f"{prefix}/", "") for prefix, title in references.items())
    if len(own + within + beside) <= COLUMNS:
        return [metric_table(keys, own + within + beside, results)]
    return [metric_table(keys, own + columns, results) for columns in (beside, within) if columns]


def metric_table(keys: list[str], columns: Sequence[Around], results: Mapping[str, float]) -> Table:
    """A row per key and a column for each of its variants."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("test days", no_wrap=True, min_width=max(map(len, keys)))
    for title, _, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for key in keys:
        values = [results.get(f"{before}{key}{after}") for _, before, after in columns]
        table.add_row(key, *map(cell, values))
    return table


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
        if not is_of_validation(key):
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
            "taken over" if cost.get("reused") else f"{cost['seconds']:.1f}",
            f"{cost['peak_gb']:.1f}" if "peak_gb" in cost else "",
        )
    table.add_row("total", f"{sum(cost['seconds'] for cost in costs.values()):.1f}", style="bold")
    return table
