"""The report of runs that came from one another: in the order of descent, joined by lines, branches too."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from moonlib.runs.descent import descent_of
from moonlib.studies.report import report
from moonlib.studies.report.evidence import read
from moonlib.studies.report.inputs import Report
from moonlib.studies.report.lineage import lineage as lineage_section

MONDAY = datetime(2025, 1, 6, tzinfo=UTC)


@pytest.fixture
def weeks(lineage: list[Path], tmp_path: Path) -> list[Path]:
    """Four weeks, the third of which two runs continue the second; names and the order given are no help."""
    parents = {
        "z-first": "",
        "m-second": "z-first",
        "b-third": "m-second",
        "a-fourth": "b-third",
        "c-third": "m-second",
    }
    (tmp_path / ".stages").symlink_to(lineage[0].parent / ".stages")
    for i, (name, parent) in enumerate(parents.items()):
        run = tmp_path / name
        shutil.copytree(lineage[1 if i % 2 else 0], run, symlinks=True)
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        if parent:
            recipe["encoder"] = {"from": f"runs/{parent}", **recipe["encoder"]}
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        data = {"name": f"week{i}", "hash": f"{i}" * 64, "until": (MONDAY + timedelta(weeks=i)).isoformat()}
        noted = {"encoder": f"../{parent}"} if parent else {}
        (run / "run.json").write_text(json.dumps({"recipe": "weekly", "data": data, "parents": noted}))
    (tmp_path / "m-second/drift").mkdir()
    drift = {"everything": {"overlap": {"estimate": 0.875, "low": 0.8, "high": 0.9}}, "ratio": 0.97}
    (tmp_path / "m-second/drift/z-first.json").write_text(json.dumps(drift))
    return sorted(tmp_path / name for name in parents)


def told(weeks: list[Path]) -> Report:
    runs = [read(week, week.name) for week in weeks]
    descent = descent_of([run.run for run in runs])
    runs.sort(key=lambda run: descent.order.index(run.run.directory))
    return Report(runs, {}, weeks[0].parent, descent)


def test_runs_stand_in_the_order_of_descent_with_data_results_seconds_and_drift(weeks: list[Path]) -> None:
    section = lineage_section(told(weeks))
    table = section.parts[1]
    (rows,) = (rows for _, rows in table.groups)
    assert [name for name, _ in rows] == ["z-first", "m-second", "b-third", "a-fourth", "c-third"]
    columns = table.columns[1:]
    cells = {name: dict(zip(columns, (cell.text for cell in row), strict=True)) for name, row in rows}
    assert [cells[name]["continues"] for name, _ in rows] == ["–", "z-first", "m-second", "b-third", "m-second"]
    assert [cells[name]["last day"] for name, _ in rows][:2] == ["2025-01-05", "2025-01-12"]
    assert cells["a-fourth"]["data"] == "week3"
    results = json.loads((weeks[0].parent / "z-first/results.json").read_text())
    assert cells["z-first"]["ctr AUC"] == f"{results['ctr/auc']:.4f}"
    assert float(cells["z-first"]["seconds"]) > float(cells["b-third"]["seconds"])  # whose stages it reuses
    assert cells["m-second"]["same neighbours"] == "0.875" and cells["z-first"]["same neighbours"] == "–"
    assert cells["m-second"]["recall of new queries on old vectors, of that on new"] == "0.970"


@pytest.mark.parametrize("side", ["old", "new"])
def test_drift_of_vectors_that_were_made_anew_is_not_shown(weeks: list[Path], side: str) -> None:
    file = weeks[0].parent / "m-second/drift/z-first.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"versions": {side: "0123456789abcdef"}}))
    report = told(weeks)
    section = lineage_section(report)
    assert "same neighbours" not in section.parts[1].columns
    whose = "z-first" if side == "old" else "the run"
    second = next(run for run in report.runs if run.label == "m-second")
    assert [f"{file} is of vectors that {whose} does not have any more" in told for told in second.problems] == [True]


def test_a_line_joins_runs_and_parts_where_two_continue_one(weeks: list[Path]) -> None:
    figures = lineage_section(told(weeks)).parts[0]
    clicks = next(figure for figure in figures if figure.title.startswith("Clicks: AUC"))
    assert clicks.svg.count('class="ln ') == 2
    assert clicks.svg.count(">m-second<") == 1 and clicks.svg.count(">c-third<") == 1
    assert any(figure.title == "Time, run by run" for figure in figures)


def test_a_run_is_told_against_the_one_that_it_continues(weeks: list[Path], tmp_path: Path) -> None:
    page = report(weeks, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "It continues m-second, whose data is another" in page
    assert "Came from runs/m-second (encoder)" in page and "What differs from m-second in the recipe" in page
    assert report(weeks[::-1], tmp_path / "again.html").read_text(encoding="utf-8").count("<h3>z-first</h3>") == 1
    shutil.rmtree(tmp_path / "z-first")
    weeks.remove(tmp_path / "z-first")
    assert "Came from runs/z-first: no longer there (encoder)" in report(weeks, tmp_path / "l.html").read_text("utf-8")


def test_a_circle_is_told_and_hangs_nothing(weeks: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "z-first/recipe.yaml"
    recipe = yaml.safe_load(file.read_text())
    recipe["encoder"]["from"] = str(tmp_path / "b-third")
    file.write_text(yaml.safe_dump(recipe))
    page = report(weeks, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a circle, and so their order is the given one" in page and "<h3>a-fourth</h3>" in page
