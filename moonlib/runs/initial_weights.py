"""Whether a run ends below the weights that it started from: training should not cost what these knew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from moonlib.artifacts.layout import SEARCHES, RunLayout
from moonlib.artifacts.reading import read_table
from moonlib.config.recipe import Recipe
from moonlib.data.ids import codes
from moonlib.metrics.bootstrap import Interval, paired_mean_difference
from moonlib.metrics.key import MetricKey
from moonlib.runs.results import beside
from moonlib.stages.represent import INITIAL

ROW = ["search_id", "item_id"]


def below_initial(run: RunLayout, recipe: Recipe, results: Mapping[str, float]) -> list[str]:
    """Name each recall of test days that is lower than with the weights that the encoder started from.

    By an interval where there is one: what only may be lower is not named.

    Args:
        run: a finished run.
        recipe: its recipe.
        results: of the run and its references, as in ``results.json``.

    Returns:
        One sentence per recall, the worst first; none where nothing is lower.
    """
    found: list[tuple[float, str]] = []
    links = [(run.link(stage), run.link(stage, INITIAL)) for stage in recipe.stages]
    places = next(((mine, initial) for mine, initial in links if initial.is_dir()), None)
    for text, value in results.items():
        key = MetricKey.parse(text, [INITIAL])
        before = results.get(beside(text, INITIAL))
        at_k = key.name.removeprefix("recall@")
        if key.reference or key.split != "test" or key.segment or not at_k.isdecimal():
            continue
        if before is None or value >= before:
            continue
        gain = recall_difference(*places, key.task, int(at_k)) if places else None
        if gain is not None and gain.high >= 0:
            continue
        ends = "" if gain is None else f" ({value - before:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}])"
        found.append(
            (
                value - before,
                f"below the initial weights: {text} is {value:.3f} after training, and was {before:.3f} before{ends}; "
                "train less or more gently, see recipes/small_catalogue.yaml",
            )
        )
    return [sentence for _, sentence in sorted(found)]


def recall_difference(stage: Path, other: Path, task: str, k: int) -> Interval | None:
    """Recall@k of one represent stage minus that of another on the same searches of test days, over shoppers.

    Returns:
        None where it cannot be told: a file is not there, or the searches are not the same.
    """
    tables = []
    for place in (stage, other):
        if not (place / SEARCHES).is_file():
            return None
        table = read_table(place / SEARCHES)
        tables.append(table.filter(pl.col("task") == task, pl.col("split") == "test").sort(*ROW, maintain_order=True))
    mine, others = tables
    if mine.is_empty() or not mine.select(ROW).equals(others.select(ROW)):
        return None
    hits = [(table["rank"] < k).to_numpy().astype(np.float64) for table in tables]
    return paired_mean_difference(hits[0], hits[1], codes(mine["user_id"]))
