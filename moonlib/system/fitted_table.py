"""A table that fits the terminal it is printed on: nothing in it is cut, and no word is folded in its middle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from moonlib.system.terminal import visible

COLUMNS = 80
"""Columns of a terminal of ordinary size, and of output that is no terminal."""

NARROWEST = 16
"""Columns that labels have at least; a longer one has a line of its own."""

GAP = 2


@dataclass(frozen=True)
class FittedTable:
    """Rows of a label and values, beneath headings.

    On a terminal too narrow for it, long labels have a line of their own, and where that is not enough, columns stand
    in a second block below the first, beside the same labels. A wider terminal is made use of.

    Attributes:
        title: stands above; broken between words.
        label: heading of the labels.
        headings: of the values; broken between words.
        rows: label and values of each; an empty value leaves its place empty, and a row without any is a heading.
        repeated: how many of the first columns stand in every block.
        notes: sentences that stand below.
    """

    title: str
    label: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    repeated: int = 0
    notes: Sequence[str] = field(default_factory=tuple)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width if console.is_terminal else min(options.max_width, COLUMNS)
        for text, style in self.lines(width, "-" if options.ascii_only else "─"):
            yield Text(text, style=style, overflow="fold")

    def lines(self, width: int, rule: str = "─") -> Iterator[tuple[str, str]]:
        """Lines of the table, each with its style.

        Args:
            width: columns that there are.
            rule: character of the line beneath the headings.
        """
        for line in folded(self.title, width):
            yield line, "bold"
        rows = [(_plain(label), [_plain(cell) for cell in cells]) for label, cells in self.rows]
        labels = max(cell_len(label) for label in [_plain(self.label), *(label for label, _ in rows)])
        headings = [_plain(heading) for heading in self.headings]
        values = [[cells[i] for _, cells in rows if cells] for i in range(len(headings))]
        words = [[heading] for heading in headings]
        widths = [max(map(cell_len, [*parts, *column, ""])) for parts, column in zip(words, values, strict=True)]
        if labels + sum(widths) + GAP * len(widths) > width:
            words = [heading.split() for heading in headings]
            widths = [max(map(cell_len, [*parts, *column, ""])) for parts, column in zip(words, values, strict=True)]
        blocks = [list(range(len(widths)))]
        whole = sum(widths) + GAP * len(widths)
        if labels + whole > width:
            labels = min(labels, max(width - whole, NARROWEST))
        if labels + whole > width:
            blocks = self._blocks(widths, width - labels)
        for number, block in enumerate(blocks):
            if number:
                yield "", ""
            yield from self._block(block, rows, labels, widths, width, rule)
        for note in self.notes:
            for line in folded(note, width):
                yield line, "yellow"
        yield "", ""

    def _blocks(self, widths: Sequence[int], room: int) -> list[list[int]]:
        """The columns of each block."""
        first = list(range(self.repeated))
        blocks: list[list[int]] = [[*first]]
        for column in range(self.repeated, len(widths)):
            taken = sum(widths[i] + GAP for i in [*blocks[-1], column])
            if taken > room and len(blocks[-1]) > len(first):
                blocks.append([*first])
            blocks[-1].append(column)
        return blocks

    def _block(
        self,
        block: Sequence[int],
        rows: Sequence[tuple[str, Sequence[str]]],
        labels: int,
        widths: Sequence[int],
        width: int,
        rule: str,
    ) -> Iterator[tuple[str, str]]:
        def row(label: str, cells: Sequence[str]) -> str:
            values = (" " * (GAP + widths[i] - cell_len(cell)) + cell for i, cell in zip(block, cells, strict=True))
            return (label + " " * (labels - cell_len(label)) + "".join(values)).rstrip()

        texts = [_plain(self.headings[i]) for i in block]
        headings = [
            wrap(text, max(widths[i], 1), break_long_words=False, break_on_hyphens=False)
            for i, text in zip(block, texts, strict=True)
        ]
        height = max([1, *map(len, headings)])
        lowered = [[""] * (height - len(lines)) + lines for lines in headings]  # they end in the same line
        for number in range(height):
            own = _plain(self.label) if number == height - 1 else ""
            yield row(own, [lines[number] for lines in lowered]), "bold"
        yield rule * (labels + sum(widths[i] + GAP for i in block)), ""
        for label, cells in rows:
            chosen = [cells[i] for i in block] if cells else []
            if not chosen or cell_len(label) > labels:
                for line in folded(label, width):
                    yield line, ""
                label = ""
            if any(chosen):
                yield row(label, chosen), ""


def folded(text: str, width: int) -> list[str]:
    """Break a text into lines between words; a word that is too long by itself behind the signs that part a key.

    Example:
        >>> folded("  image_search/recall@10@category=Home & Garden/Vases", 28)
        ['  image_search/recall@10@', 'category=Home & Garden/Vases']
    """
    lines: list[str] = []
    for line in visible(text).split("\n"):
        found = ""
        for word in re.findall(r"^\s+\S+\s*|\S+\s*", line) or [line]:
            parts = [word] if cell_len(word.rstrip()) <= width else re.findall(r"^\s+|[^/@=,._-]*[/@=,._-]+|.+$", word)
            for part in parts:
                if found.strip() and cell_len(found + part.rstrip()) > width:
                    lines.append(found.rstrip())
                    found = ""
                found += part
        lines.append(found.rstrip())
    return lines


def _plain(text: str) -> str:
    """A text on one line, controls shown."""
    return visible(text).replace("\n", " ").replace("\t", " ")
