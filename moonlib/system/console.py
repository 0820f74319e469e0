"""The console that tables and progress are printed on.

Titles, names and values are other people's words. Nothing in them is taken for markup, for an emoji's name or for a
command to the terminal.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from moonlib.system.terminal import spell_out, visible

WIDTH = 1000
"""Columns where the output is no terminal: a file or a pipe has no width, and no cell of a table is cut or folded."""


class Terminal(Console):
    """A console of rich that shows every text as it is; styles come as arguments or as `rich.text.Text`.

    Args:
        width: in columns where the output is no terminal.
        stderr: write there instead of to standard output.
        file: write there instead.
        options: see `rich.console.Console`.
    """

    def __init__(self, width: int = WIDTH, *, stderr: bool = False, file: TextIO | None = None, **options: Any) -> None:
        super().__init__(stderr=stderr, file=file, markup=False, emoji=False, highlight=False, **options)
        spell_out(self.file)
        if not self.is_terminal:
            self.width = width

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is printed, also one in a table."""
        return super().render_str(visible(text), **options)


def progress() -> Progress:
    """Bars on standard error where that is a terminal, gone when they are done; descriptions are shown as they are."""
    return Progress(
        TextColumn("{task.description}", style="progress.description", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Terminal(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
