"""How many rows a stage's metrics are of: the n of every table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import ROWS
from moonlib.artifacts.reading import read_mapping
from moonlib.metrics.key import MetricKey


def rows_key(key: MetricKey) -> str:
    """Key of the number of rows behind a metric: the same for all metrics of a task and a segment.

    Example:
        >>> rows_key(MetricKey.parse("baseline/ctr/auc@new", ["baseline"]))
        'ctr/n@new'
    """
    return str(replace(key, name="n", reference=""))


def note_rows(directory: Path, rows: Mapping[str, int]) -> None:
    """Note numbers of rows in ``rows.json`` of a stage's directory.

    Args:
        directory: of the stage; what is noted there already stays.
        rows: by `rows_key`.
    """
    write_json(directory / ROWS, noted_rows(directory) | dict(rows))


def noted_rows(directory: Path) -> dict[str, int]:
    """The numbers of rows that `note_rows` has noted; none for a stage that notes none.

    Raises:
        ValueError: the file is damaged, see `moonlib.artifacts.reading.reading`.
    """
    file = directory / ROWS
    return {str(key): int(value) for key, value in read_mapping(file).items()} if file.exists() else {}
