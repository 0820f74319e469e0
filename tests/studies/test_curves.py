"""Curves of what trainings have logged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from moonlib.artifacts import layout
from moonlib.cli import main
from moonlib.studies.curves import NoLogs, curves, drawn, logged_curves
from moonlib.studies.report.evidence import curve


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> Path:
    """A runs directory with a finished run, one that is training after a resume, and one that has yet to begin."""
    shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    runs = tmp_path / "runs"
    going = runs / ".stages/0123456789abcdef.partial"
    (going / "csv").mkdir(parents=True)
    (going / "csv/metrics.0.csv").write_text("epoch,loss,learning_rate,step\n0,3.0,0.1,0\n0,2.5,0.2,1\n")
    (going / "csv/metrics.csv").write_text("epoch,loss,valid/recall@10,step\n0,2.4,,1\n0,,0.5,1\n0,2.0,,2\n0,1.")
    for name in ("going", "waiting"):
        (runs / name).mkdir()
        shutil.copy(finished_run / layout.RECIPE, runs / name)
    (runs / "going/pretrain").symlink_to("../.stages/0123456789abcdef.partial")
    return runs


def test_a_panel_per_stage_and_quantity_and_a_line_per_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged = [*logged_curves(runs / "iter1"), *logged_curves(runs / "going")]
    assert [(curve.run, curve.stage, curve.finished) for curve in logged] == [
        ("iter1", "pretrain", True),
        ("going", "pretrain", False),
    ]
    panels = {panel.get_title(loc="left"): panel for panel in drawn(logged).axes}
    assert list(panels) == [
        f"pretrain: {name}"
        for name in ("loss", "learning rate", "gradient norm", "samples per second", "valid/recall@10")
    ]
    lines = {line.get_label(): line for line in panels["pretrain: loss"].get_lines()}
    assert list(lines) == ["iter1", "going"] and lines["iter1"].get_color() != lines["going"].get_color()
    assert list(lines["going"].get_xdata()) == [1, 2, 3] and list(lines["going"].get_ydata()) == [3.0, 2.4, 2.0]
    assert [line.get_label() for line in panels["pretrain: valid/recall@10"].get_lines()] == ["going"]

    # What is measured between two steps stands at the steps made before it, as in validation.json.
    (runs / "going/pretrain/csv/metrics.csv").write_text("loss,validation/recall@1,step\n,0.5,0\n2.4,,1\n,0.7,2\n")
    panels = {panel.get_title(loc="left"): panel for panel in drawn(logged_curves(runs / "going")).axes}
    assert list(panels["pretrain: validation/recall@1"].get_lines()[0].get_xdata()) == [0, 2]
    assert list(panels["pretrain: loss"].get_lines()[0].get_xdata()) == [1, 2]
    assert curve(runs / "going/pretrain/csv/metrics.csv")["validation/recall@1"] == [(0, 0.5), (2, 0.7)]

    assert main(["curves", str(runs / "iter1"), str(runs / "going")]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "curves.png")
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert curves([runs / "going"]) == runs / "going/curves.png"


def test_a_run_without_logs_and_another_ending_are_told_and_nothing_is_written(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NoLogs, match=r"waiting: no stage has logged anything \(pretrain, represent\)"):
        curves([runs / "iter1", runs / "waiting"])
    with pytest.raises(ValueError, match=r"a\.pdf: curves are written as PNG"):
        curves([runs / "iter1"], runs / "a.pdf")
    assert main(["curves", str(runs / "nowhere")]) == 2 and "there is no such run directory" in capsys.readouterr().err
    (runs / "going/pretrain/csv/metrics.csv").write_text("<html>\n")
    assert main(["curves", str(runs / "going")]) == 2
    assert "metrics.csv is no CSV log, it has no column 'step'" in capsys.readouterr().err
    assert not list(runs.glob("**/*.png"))


def test_what_was_measured_by_day_is_drawn_over_days(runs: Path) -> None:
    days = [
        {"day": "2025-01-05", "tested": "2025-01-06", "n": 9, "metrics": {"auc": 0.5, "logloss": 0.3}},
        {"day": "2025-01-06", "tested": "2025-01-07", "n": 9, "metrics": {"logloss": 0.25}},
        {"day": "2025-01-07", "tested": "2025-01-08", "n": 9, "metrics": {"auc": 0.7, "logloss": 0.2}},
    ]
    (runs / "iter1" / layout.DAYS).write_text(json.dumps({"days": days}))
    panels = {panel.get_title(loc="left"): panel for panel in drawn(logged_curves(runs / "iter1")).axes}
    assert {"pretrain: loss", "by day: auc", "by day: logloss"} <= panels.keys()
    (auc,) = panels["by day: auc"].get_lines()
    assert list(auc.get_ydata()) == [0.5, 0.7] and auc.get_label() == "iter1"
    assert [str(day) for day in auc.get_xdata(orig=True)] == ["2025-01-06", "2025-01-08"]
    assert panels["by day: auc"].get_xlabel() == "day" and panels["pretrain: loss"].get_xlabel() == "step"
    assert curves([runs / "iter1"]).read_bytes().startswith(b"\x89PNG")
