"""The table at the end of a run: every value beside its baselines and upper bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table

from moonlib.data.segments import SEGMENTS


def closing_table(
    name: str, results: Mapping[str, float], references: Mapping[str, str], costs: Mapping[str, Mapping[str, Any]]
) -> Group:
    """Lay results out: one row per metric, one column for the run, each segment and each reference.

    Args:
        name: of the run.
        results: flat keys as in ``results.json``.
        references: title of each reference's prefix, in the order of the columns.
        costs: as in ``costs.json``.

    Returns:
        Two tables to print: metrics, and seconds per stage.
    """
    own = [key for key in results if "@" not in key.rpartition("/")[2].replace("recall@", "", 1)]
    own = [key for key in own if not key.startswith(tuple(f"{prefix}/" for prefix in references))]
    own = [key for key in own if not key.startswith("valid/")]
    titles = {prefix: title for prefix, title in references.items() if any(f"{prefix}/{key}" in results for key in own)}
    metrics = Table(title=f"{name}: test days", title_justify="left")
    metrics.add_column("metric")
    for heading in (name, *(f"@{segment}" for segment in SEGMENTS), *titles.values()):
        metrics.add_column(heading, justify="right")
    for key in own:
        keys = [key, *(f"{key}@{segment}" for segment in SEGMENTS), *(f"{prefix}/{key}" for prefix in titles)]
        metrics.add_row(key, *(f"{results[k]:.4f}" if k in results else "" for k in keys))
    times = Table(title="seconds", title_justify="left")
    times.add_column("stage")
    times.add_column("seconds", justify="right")
    for stage, cost in costs.items():
        times.add_row(stage, "taken over" if cost.get("reused") else f"{cost['seconds']:.1f}")
    times.add_row("total", f"{sum(cost['seconds'] for cost in costs.values()):.1f}", style="bold")
    return Group(metrics, times)
