"""The CSV log of a training, of all its attempts."""

from __future__ import annotations

from pathlib import Path

import pytest

from moonlib.artifacts.logs import read_log
from moonlib.artifacts.reading import Unreadable


def test_attempts_make_one_log_and_rows_of_one_step_one_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.0.csv").write_text("step,loss\n0,0.5\n1,0.4\n2,0.35\n")
    # Metrics of validation have a row of their own.
    (tmp_path / "metrics.csv").write_text("step,loss,valid/recall\n2,0.3,\n2,,0.75\n3,0.2,\n4,0.1")
    log = read_log(tmp_path / "metrics.csv")
    assert log.rows() == [(0, 0.5, None), (1, 0.4, None), (2, 0.3, 0.75), (3, 0.2, None), (4, 0.1, None)]


def test_a_log_that_has_not_begun_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").touch()
    assert read_log(tmp_path / "metrics.csv").is_empty() and read_log(tmp_path / "no/metrics.csv").is_empty()


@pytest.mark.parametrize("text", ["<html>\n", "a,b\n1,2\n"])
def test_another_file_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(Unreadable, match=r"metrics\.csv is no CSV log, it has no column 'step'"):
        read_log(tmp_path / "metrics.csv")
