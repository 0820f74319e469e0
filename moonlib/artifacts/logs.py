"""The CSV log of a training, of all its attempts."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from moonlib.artifacts.checksums import again
from moonlib.artifacts.reading import Unreadable

VALIDATION = "validation/"
"""Stands before the names of what is measured while a stage trains, such as ``validation/recall@10``."""


def steps_made(metric: str) -> int:
    """Steps of the optimizer that had been made when a metric was logged, beyond the number of its row.

    Lightning numbers steps from 0: what a step made, such as its loss, stands in the row 0 when one has been made. What
    is measured between two steps stands in the row of the steps made before it.

    Example:
        >>> steps_made("loss"), steps_made("validation/recall@10")
        (1, 0)
    """
    return 0 if metric.startswith(VALIDATION) else 1


def log_parts(log: Path) -> list[Path]:
    """Files of a log that are there, the oldest first: of attempts that were cut off, and of the last one.

    Args:
        log: file of the last attempt, ``metrics.csv``; those before it are ``metrics.0.csv`` and so on.
    """
    earlier = sorted(log.parent.glob("metrics.*.csv"), key=lambda part: int(part.suffixes[0][1:]))
    # A kill, or a full disk, may have left an empty one.
    return [part for part in (*earlier, log) if part.exists() and part.stat().st_size]


def read_log(log: Path) -> pl.DataFrame:
    """Read a log, which may be of a training that is still going.

    Args:
        log: see `log_parts`.

    Returns:
        One row per step, ascending. Of a step that was repeated, and of metrics that were logged one after the other at
        one step, what was logged last; null where nothing was.

    Raises:
        Unreadable: a file is no log.
    """
    rows = []
    for part in log_parts(log):
        try:
            # A last row may be cut off.
            table = pl.read_csv(part, ignore_errors=True, truncate_ragged_lines=True, infer_schema_length=None)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise Unreadable(f"{part} is no CSV log that can be read ({reason}); {again(part)}") from error
        if "step" not in table.columns:
            raise Unreadable(f"{part} is no CSV log, it has no column 'step'; {again(part)}")
        rows.append(table)
    if not rows:
        return pl.DataFrame({"step": pl.Series([], dtype=pl.Int64)})
    whole = pl.concat(rows, how="diagonal_relaxed").drop_nulls("step")
    last = whole.group_by("step").agg(pl.all().drop_nulls().last())
    return last.select(whole.columns).sort("step")
