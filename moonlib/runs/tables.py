"""The tables at the end of a run: every value beside its baselines and upper bounds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from rich.console import Group

from moonlib.artifacts.layout import CHECKPOINT_LINKS, is_checkpoint_link
from moonlib.metrics.counts import rows_key
from moonlib.metrics.key import MetricKey
from moonlib.runs.results import Legend
from moonlib.system.fitted_table import FittedTable

SHORT = 12
"""Letters of a run's name that heads a column; a longer one stands in the title alone."""

UNITS = {
    "image_search": "searches",
    "text_search": "searches",
    "ctr": "impressions",
    "retrieval": "searches",
    "relevance": "judged pairs",
    "quantise": "products",
}
"""Rows that moonlib's own metrics are of."""


def closing_tables(
    name: str, results: Mapping[str, float], legend: Legend, costs: Mapping[str, Mapping[str, Any]]
) -> Group:
    """Lay results out: a table per task, a row per metric and segment, a column for the run and each reference.

    Args:
        name: of the run.
        results: flat keys as in ``results.json``; those of validation days are left out.
        legend: of the results.
        costs: as in ``costs.json``.

    Returns:
        What to print: the metrics of each task, with a line for each baseline that the run is below, then the seconds
        per stage.
    """
    return Group(*metric_tables(name, results, legend), seconds_table(costs))


def metric_tables(name: str, results: Mapping[str, float], legend: Legend) -> list[FittedTable]:
    """A table per task; see `closing_tables`."""
    tasks: dict[str, list[MetricKey]] = {}
    for key in own_rows(results, legend):
        tasks.setdefault(key.task, []).append(key)
    return [metric_table(name, task, keys, results, legend) for task, keys in tasks.items()]


def own_rows(results: Mapping[str, float], legend: Legend) -> list[MetricKey]:
    """The keys of rows: a run's own results of test days, the segments of each metric behind what is of all rows."""
    keys = list(legend.own(results).values())
    order = {key: i for i, key in enumerate(dict.fromkeys(key.whole for key in keys))}
    return sorted(keys, key=lambda key: (order[key.whole], key.segment != ""))


def metric_table(
    name: str, task: str, keys: Sequence[MetricKey], results: Mapping[str, float], legend: Legend
) -> FittedTable:
    """A row per key; references that have no value for any of them are left out."""
    beside = {
        prefix: title
        for prefix, title in legend.references.items()
        if any(str(replace(key, reference=prefix)) in results for key in keys)
    }
    counted = any(rows_key(key) in legend.rows for key in keys)
    rows = []
    for key in keys:
        values = [results.get(str(replace(key, reference=prefix))) for prefix in ("", *beside)]
        n = legend.rows.get(rows_key(key))
        label = f"  @{key.segment}" if key.segment and str(key.whole) in results else str(replace(key, task=""))
        rows.append((label, [*([f"{n:,}" if n is not None else ""] if counted else []), *map(cell, values)]))
    unit = f", n: {UNITS[task]}" if counted and task in UNITS else ""
    return FittedTable(
        f"{name}: {task or 'results'} on test days{unit}",
        task,
        [*(["n"] if counted else []), name if len(name) <= SHORT else "this run", *beside.values()],
        rows,
        repeated=2 if counted else 1,
        notes=[*legend.chosen(task, beside), *below(keys, beside, results, legend)],
    )


def below(
    keys: Iterable[MetricKey], references: Mapping[str, str], results: Mapping[str, float], legend: Legend
) -> Iterator[str]:
    """Say of each baseline in which metrics of all rows a run is worse than it.

    Args:
        keys: of the run's own results.
        references: titles by prefix; those of upper bounds are passed over.
        results: of the run.
        legend: knows which metrics are better when they are higher; of others nothing is said.
    """
    whole = [key for key in keys if not key.segment]
    for prefix, title in references.items():
        worse = []
        for key in whole if prefix.split("/")[0] == "baseline" else ():
            own, other = results[str(key)], results.get(str(replace(key, reference=prefix)))
            higher = legend.meaning(key).higher_is_better
            if other is not None and higher is not None and (own < other if higher else own > other):
                worse.append(f"{key.name} {cell(own)} against {cell(other)}")
        if worse:
            yield f"worse than the baseline {title}: {', '.join(worse)}"


def cell(value: float | None) -> str:
    """A value as a table shows it, a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"


def spread_table(results: Mapping[str, Mapping[str, float]]) -> FittedTable:
    """A row per result of test days: mean and sample standard deviation over several runs, then each of them.

    A result that a run lacks has no mean.

    Args:
        results: flat keys as in ``results.json``, by the name of the run; at least two runs.
    """
    names = list(results)
    prefix = os.path.commonprefix(names).rpartition("-")  # noqa: RUF071 - of letters is meant
    short = [name[len(prefix[0] + prefix[1]) :] for name in names]
    headings = short if all(short) and max(map(len, names)) > SHORT else names
    rows = []
    for key in dict.fromkeys(key for values in results.values() for key in values):
        if MetricKey.parse(key).split == "test":
            values = [values.get(key) for values in results.values()]
            there = [value for value in values if value is not None]
            whole = len(there) == len(values)
            spread = (mean(there), stdev(there)) if whole else (None, None)
            rows.append((key, [cell(value) for value in (*spread, *values)]))
    title = f"mean and spread of {len(names)} runs: {', '.join(names)}"
    return FittedTable(title, "test days", ["mean", "spread", *headings], rows, repeated=2)


def seconds_table(costs: Mapping[str, Mapping[str, Any]]) -> FittedTable:
    """Seconds of each stage with its references, of all points together, and the peak memory so far."""
    of_points = [cost for stage, cost in costs.items() if is_checkpoint_link(stage)]
    costs = {stage: cost for stage, cost in costs.items() if not is_checkpoint_link(stage)}
    if of_points:
        costs[CHECKPOINT_LINKS] = {
            "seconds": sum(cost["seconds"] for cost in of_points),
            "reused": all(cost["reused"] for cost in of_points),
            "peak_gb": max(cost["peak_gb"] for cost in of_points),
        }
    rows = [
        (
            stage,
            [
                "reused" if cost.get("reused") else f"{cost['seconds']:.1f}",
                f"{cost['peak_gb']:.1f}" if "peak_gb" in cost else "",
            ],
        )
        for stage, cost in costs.items()
    ]
    rows.append(("total", [f"{sum(cost['seconds'] for cost in costs.values()):.1f}", ""]))
    return FittedTable("time and memory", "stage", ["seconds", "peak GB"], rows)
