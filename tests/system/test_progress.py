"""The line that says how far a run is."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from moonlib.system import progress as module
from moonlib.system.console import Terminal
from moonlib.system.progress import StageProgress, line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `monotonic` tells, to be moved on by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_is_shown_every_so_often_and_the_loss_is_read_only_then(clock: list[float]) -> None:
    shown: list[str] = []
    read: list[int] = []
    progress = StageProgress("iter2", show=shown.append, seconds=10)

    def loss(step: int) -> float:
        read.append(step)
        return step / 10

    with progress.stage("posttrain"), progress.task("step", 100) as task:
        task.counts("samples", 64)
        for step in range(1, 26):
            task.at(step, lambda step=step: loss(step))
            clock[0] += 1
    assert read == [11, 21]
    assert shown == [
        "iter2/posttrain  step 11 of 100 · 64 samples/s · loss 1.1000 · 1:29 left",
        "iter2/posttrain  step 21 of 100 · 64 samples/s · loss 2.1000 · 1:19 left",
    ]


def test_after_a_resume_steps_count_from_there_and_the_rate_is_measured_from_there(clock: list[float]) -> None:
    shown: list[str] = []
    progress = StageProgress("iter2", show=shown.append, seconds=5)
    with progress.stage("posttrain"), progress.task("step", 1000) as task:
        task.counts("samples", 1)
        task.resume(900)
        for step in range(901, 908):
            clock[0] += 1
            task.at(step)
    assert shown == [
        "iter2/posttrain  step 900 of 1000",  # at once
        "iter2/posttrain  step 905 of 1000 · 1 samples/s · 1:35 left",
    ]


def test_parts_are_counted_in_their_own_rows(clock: list[float]) -> None:
    shown: list[str] = []
    progress = StageProgress("iter2", show=shown.append, seconds=0)
    with progress.stage("represent"):
        for _ in progress.through(["ab", "cd", "e"], "products", 5):
            clock[0] += 2
    assert shown == [
        "iter2/represent  2 of 5 products",
        "iter2/represent  4 of 5 products · 1 products/s · 0:01 left",
        "iter2/represent  5 of 5 products · 0.75 products/s · 0:00 left",
    ]


def test_nothing_is_shown_unless_somebody_asked_for_it() -> None:
    with StageProgress().stage("x"), StageProgress().task("step", 3) as task:
        task.at(1, lambda: pytest.fail("the loss is read for nobody"))


@pytest.mark.parametrize("run", ["iter2", "emoji-small-catalogue-heads-first-seed-12"])
@pytest.mark.parametrize("stage", ["posttrain", "application.baseline.shuffled"])
def test_a_terminal_of_80_columns_has_one_line_that_fits_and_is_gone_at_the_end(
    run: str, stage: str, clock: list[float]
) -> None:
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, _environ={"COLUMNS": "80"})
    progress = StageProgress(run, console=console, show=lambda line: pytest.fail("both"))
    with progress.stage(stage), progress.task("step", 20_000) as task:
        task.counts("samples", 64)
        for step in (1, 2, 3):
            task.at(step, lambda: 12.3456)
            clock[0] += 1
    text = file.getvalue()
    assert text.count("\n") == 1  # rich ends the line before it takes it away
    drawn = [Text.from_ansi(part).plain.strip() for part in text.split("\r")]
    assert all(len(part) <= 80 for part in drawn) and not drawn[-1]
    told = line(run, stage, task.parts(), 80)
    assert len(told) <= 80
    assert (
        stage[:4] in told
        and stage[-3:] in told
        and "step 3 of 20000" in told
        and "loss" in told
        and told.endswith("left")
    )
