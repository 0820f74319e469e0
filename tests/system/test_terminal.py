"""People's words reach the terminal as they are: no markup, no emoji's name, no command, no form."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

import moonlib
from moonlib.cli.data import print_report
from moonlib.data.check import DatasetReport
from moonlib.data.dataset import Dataset
from moonlib.inference.hits import Hit, hits_table
from moonlib.metrics.bootstrap import Interval
from moonlib.runs.debug import loss_table
from moonlib.runs.results import Legend
from moonlib.runs.tables import closing_tables, metric_tables, spread_table
from moonlib.studies.abtest.outcome import Lifts
from moonlib.studies.abtest.result import ABTest, Simulation
from moonlib.studies.abtest.tables import tables
from moonlib.studies.scale import Series, points_table
from moonlib.studies.study import Axis, Point
from moonlib.system.console import Terminal, progress
from moonlib.system.terminal import visible

PACKAGE = Path(moonlib.__file__).parent
WORDS = ["[/sale]", "[new]", ":fire:", "{0}", "{", "%s", "[link=file:///]x[/link]", "100 %", "\\[b]", "a@b", "[/]"]


def printed(*parts: RenderableType, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Terminal(400, file=file).print(*parts)
    file.flush()
    return raw.getvalue().decode(encoding)


def of_search(text: str) -> RenderableType:
    return hits_table([Hit(1, 0.5, 1, {"title": text, "category": f"{text}/{text}", "price": 1.0})])


def of_run(text: str) -> RenderableType:
    results = {"ctr/auc": 0.1, f"ctr/auc@unit={text.replace('@', '%40')}": 0.25}
    return closing_tables(text, results, Legend(), {text: {"seconds": 1.0, "peak_gb": 0.1}})


def of_seeds(text: str) -> RenderableType:
    return spread_table({text: {"ctr/auc": 0.1}, f"{text}2": {"ctr/auc": 0.2}})


def of_abtest(text: str) -> RenderableType:
    lifts = Lifts({text: Interval(0.1, 0.0, 0.2)}, {}, {})
    simulation = Simulation(1, 1, 9, 0, {}, {}, lifts, lifts, {}, lifts)
    return tables([ABTest(text, text, cast("Dataset", None), 0.0, simulation, None, Path("a.json"))])


def of_study(text: str) -> RenderableType:
    series = Series(text, "max", {0: 0.5}, None)
    return points_table(series, [Point(0, {text: 1.0}, 0, ())], {text: Axis({"seed": [1]}, unit=text)})


@pytest.mark.parametrize("make", [of_search, of_run, of_seeds, of_abtest, of_study])
@pytest.mark.parametrize("text", WORDS)
def test_tables_show_a_text_as_it_is(make: Callable[[str], RenderableType], text: str) -> None:
    assert text in printed(make(text))


@pytest.mark.parametrize("text", WORDS)
def test_reports_of_a_dataset_show_a_text_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = DatasetReport(text, {}, problems=[f"in {text}"], warnings=[f"of {text}"])
    print_report(report)
    shown = capsys.readouterr().out
    assert f"problem in {text}" in shown and f"warning of {text}" in shown and shown.startswith(text)


def test_losses_of_a_stage_show_its_name(tmp_path: Path) -> None:
    (tmp_path / "a+b/csv").mkdir(parents=True)
    (tmp_path / "a+b/csv/metrics.csv").write_text("step,loss\n0,1.5\n1,0.5\n")
    assert "a+b" in printed(loss_table(tmp_path, ["a+b"]))


def test_a_run_that_is_called_as_a_reference_keeps_its_column() -> None:
    (table,) = metric_tables("oracle", {"ctr/auc": 0.1, "oracle/ctr/auc": 0.9}, Legend({"oracle": "oracle"}))
    assert list(table.headings) == ["oracle", "oracle"]
    assert "0.1000" in printed(table) and "0.9000" in printed(table)


@pytest.mark.parametrize("form", ["{}", "{x}", "{0.__class__}", "{", "}", "%d"])
def test_the_name_of_a_segment_is_no_form(form: str) -> None:
    (table,) = metric_tables("mine", {"ctr/auc": 0.1, f"ctr/auc@{form}": 0.25}, Legend())
    assert f"@{form}" in printed(table) and "0.2500" in printed(table)


def test_a_bar_shows_its_description_as_it_is() -> None:
    bars = progress()
    task = bars.add_task("[/x] :fire:")
    assert "[/x] :fire:" in printed(bars.make_tasks_table([bars.tasks[task]]))


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_printed_in_any_encoding_and_leaves_no_control(text: str) -> None:
    for encoding in ("utf-8", "ascii", "latin-1"):
        for part in (text, of_search(text), of_run(f"x{text}")):
            shown = printed(part, encoding=encoding)
            assert not [
                letter for letter in shown if (letter < " " or "\x7f" <= letter < "\xa0") and letter not in "\n\t"
            ]


@given(st.text())
def test_visible_changes_controls_and_nothing_else(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


def test_controls_are_shown_as_what_they_are() -> None:
    assert visible("a\x1b[2J\0b\x9b1m\x7f\r\n\tü红") == "a\\x1b[2J\\x00b\\x9b1m\\x7f\\x0d\n\tü红"
    assert "mug \\x1b[31m red" in printed(of_search("mug \x1b[31m red"))


def test_no_cell_is_cut_or_folded_where_the_output_is_no_terminal() -> None:
    runs = {f"a-rather-long-name-of-a-run-seed{seed}": {"ctr/auc@category=Home/Vases": 0.5} for seed in range(12)}
    file = io.StringIO()
    Terminal(file=file).print(spread_table(runs))
    shown = file.getvalue()
    assert "…" not in shown and all(name in shown for name in (*runs, "ctr/auc@category=Home/Vases"))


def calls(module: Path) -> Iterator[str]:
    """The names of what a module calls."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_no_module_makes_a_console_of_its_own() -> None:
    """What a `Terminal` prints is text; a console of rich takes it for markup, and its bars too."""
    for module in PACKAGE.rglob("*.py"):
        if module.name != "console.py":
            assert not {"Console", "Progress", "rich.print", "Text.from_markup"} & set(calls(module)), module
