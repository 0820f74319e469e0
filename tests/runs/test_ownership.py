"""A run directory that is replaced keeps nothing of what the former run has found."""

from __future__ import annotations

from pathlib import Path

from moonlib.artifacts.layout import COSTS, LEGEND, RECIPE, RESULTS
from moonlib.config.recipe import load
from moonlib.runs.ownership import claim
from moonlib.runs.results import Legend, read_legend, write_legend


def test_replacing_a_run_deletes_its_legend_with_its_results(tmp_path: Path) -> None:
    first, second = load("iter1"), load("iter1", ["--seed", "1"])
    claim(tmp_path, first, replace=False)
    for name in (RESULTS, COSTS, "notes.txt"):
        (tmp_path / name).write_text("{}")
    write_legend(tmp_path, Legend({"baseline": "of the former recipe"}))
    claim(tmp_path, first, replace=True)
    assert read_legend(tmp_path) == Legend({"baseline": "of the former recipe"})  # the same recipe resumes
    claim(tmp_path, second, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", RECIPE]
    assert not (tmp_path / LEGEND).exists()
