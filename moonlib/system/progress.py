"""How far a run is, on one line: redrawn on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar, cast

from rich.live import Live
from rich.text import Text

from moonlib.system.console import Terminal
from moonlib.system.terminal import visible

PROGRESS_SECONDS = 10.0
"""Time between two lines where there is no terminal, unless a user says otherwise."""

REDRAWN = 0.5
"""Seconds between two states of the line on a terminal."""

T = TypeVar("T")


class Task:
    """Work that is counted in equal units, such as steps of a training or rows of a table.

    Args:
        progress: shows it.
        unit: what is counted: ``step``, ``products``.
        total: how many there are; None where that is not known, or not yet.
    """

    def __init__(self, progress: StageProgress, unit: str, total: int | None = None) -> None:
        self.progress, self.unit, self.total = progress, unit, total
        self.rate_unit, self.per_unit = unit, 1.0
        self.done = 0
        self.loss: float | None = None
        self._began: tuple[float, int] | None = None

    def counts(self, unit: str, each: float) -> None:
        """State the rate in other units.

        Args:
            unit: such as ``samples``.
            each: how many of them are in one of the task's own units.
        """
        self.rate_unit, self.per_unit = unit, each

    def resume(self, done: int) -> None:
        """Say at once that the task begins where an earlier attempt stopped."""
        self.done = done
        self.progress.draw(self)

    def at(self, done: int, loss: Callable[[], float] | None = None) -> None:
        """Note how much is done; shown where it is time to.

        Args:
            done: units that are done, those of earlier attempts included.
            loss: returns the loss; called only when the line is drawn, because to read it may wait for an accelerator.
        """
        self.done = done
        if self._began is None:
            self._began = time.monotonic(), done  # what was done up to here does not count for the rate
        if self.progress.due():
            self.loss = None if loss is None else loss()
            self.progress.draw(self)

    @property
    def rate(self) -> float | None:
        """Units per second since the first call of `at`; None before there is anything to measure."""
        if self._began is None or self.done <= self._began[1]:
            return None
        return (self.done - self._began[1]) / max(time.monotonic() - self._began[0], 1e-9)

    def parts(self) -> list[str]:
        """Words of the line: what is done, the rate, the loss, the time left."""
        training = self.unit == "step"
        number = str if training else "{:,}".format
        total = "" if self.total is None else f" of {number(self.total)}"
        found = [f"step {self.done}{total}" if training else f"{number(self.done)}{total} {self.unit}"]
        if self.rate:
            found.append(f"{short(self.rate * self.per_unit)} {self.rate_unit}/s")
        if self.loss is not None:
            found.append(f"loss {self.loss:.4f}")
        if self.rate and self.total is not None:
            found.append(f"{clock((self.total - self.done) / self.rate)} left")
        return found


class StageProgress:
    """Shows how far a run is; with no arguments, nothing is shown.

    On a terminal it is one line that is redrawn, and gone when the stage ends. Elsewhere (a pipe, a notebook, CI) the
    same line is passed to ``show`` every so often.

    Args:
        run: name of the run.
        console: where the line goes if that is a terminal.
        show: called with the line otherwise.
        seconds: time between two lines where there is no terminal.

    Example:
        >>> progress = StageProgress("iter1", show=print, seconds=0)
        >>> with progress.stage("represent"), progress.task("products", 300) as task:
        ...     task.at(100)
        iter1/represent  100 of 300 products
    """

    def __init__(
        self,
        run: str = "",
        *,
        console: Terminal | None = None,
        show: Callable[[str], None] | None = None,
        seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self.run, self.name = run, ""
        self.console = console if console and console.is_terminal and not console.is_dumb_terminal else None
        self.show = show
        self.seconds = REDRAWN if self.console else seconds
        self._live: Live | None = None
        self._shown = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name the stage that the line is about.

        Args:
            name: of the stage, as the run directory calls it.
        """
        self.name, self._shown = name, time.monotonic()
        if self.console is None:
            yield
            return
        # No thread redraws it, which would be in the way of loader processes: whoever counts does.
        with Live("", console=self.console, auto_refresh=False, transient=True) as self._live:
            try:
                self._update([])
                yield
            finally:
                self._live = None

    @contextmanager
    def task(self, unit: str, total: int | None = None) -> Iterator[Task]:
        """Count a part of the stage's work; a task within another one is shown while it lasts.

        Args:
            unit: see `Task`.
            total: see `Task`.
        """
        yield Task(self, unit, total)

    def through(self, parts: Iterable[T], unit: str, total: int, rows: Callable[[T], int] | None = None) -> Iterator[T]:
        """Pass parts on and count the rows of those that are done.

        Args:
            parts: such as the batches of a loader.
            unit: see `Task`.
            total: rows of all parts.
            rows: number of rows of a part; its length by default.
        """
        done = 0
        with self.task(unit, total) as task:
            for part in parts:
                yield part
                done += rows(part) if rows else len(cast(Sized, part))
                task.at(done)

    def due(self) -> bool:
        """Whether it is time to draw the line."""
        shown = self.show is not None or self.console is not None
        return shown and time.monotonic() - self._shown >= self.seconds

    def draw(self, task: Task) -> None:
        """Draw the line."""
        self._shown = time.monotonic()
        if self._live is not None:
            self._update(task.parts())
        elif self.show is not None and self.console is None:
            self.show(line(self.run, self.name, task.parts()))

    def _update(self, parts: list[str]) -> None:
        assert self._live is not None and self.console is not None
        text = visible(line(self.run, self.name, parts, self.console.width))
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)


def line(run: str, stage: str, parts: list[str], width: int | None = None) -> str:
    """The line: run, stage and what is said of them.

    Args:
        run: its name; shortened in its middle where the line is too long, and the stage's where that is not enough.
        stage: its name.
        parts: what is said.
        width: columns that there are; None for any number.

    Example:
        >>> line("emoji-small-catalogue-heads-first-seed0", "pretrain", ["step 5 of 90", "0:02 left"], 60)
        'emoji-small-…-first-seed0/pretrain  step 5 of 90 · 0:02 left'
    """
    said = " · ".join(parts)
    if width is not None:
        room = width - len(said) - 2
        run = shortened(run, max(room - len(stage) - 1, 6))
        stage = shortened(stage, max(room - len(run) - 1, 6))
    name = f"{run}/{stage}" if run and stage else run or stage
    return f"{name}  {said}" if said else name


def shortened(name: str, room: int) -> str:
    """A name of at most ``room`` characters: its middle is left out where it is longer."""
    kept = room - 1
    return name if len(name) <= room else f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"


def short(rate: float) -> str:
    """A rate in three digits or more.

    Example:
        >>> short(0.1234), short(45.67), short(12345.6)
        ('0.123', '45.7', '12,346')
    """
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    Example:
        >>> clock(75), clock(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
