"""Parts of the page besides figures and sheets: texts, which the template escapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: what it says.
        note: below it, smaller.
        tone: ``better``, ``worse`` or empty.
    """

    text: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows, with units.
        columns: titles; the first is that of the rows' names.
        groups: title of each group of rows, empty for none, and its rows: a name and a cell per further column.
        texts: the cells are texts and not numbers.
    """

    caption: str
    columns: list[str]
    groups: list[tuple[str, list[tuple[str, list[TableCell]]]]]
    texts: bool = False


@dataclass(frozen=True)
class Tile:
    """One number of the verdict.

    Attributes:
        title: what it is.
        value: the number.
        interval: its interval, in words.
        change: against the run before, in words.
        tone: of the change.
        about: what the number means.
    """

    title: str
    value: str
    interval: str
    change: str
    tone: str
    about: str


@dataclass(frozen=True)
class Card:
    """One iteration of the lineage.

    Attributes:
        label: of the run.
        facts: what it ran on.
        changes: MOON's dimension and what was changed.
        differences: against the run before; None for none before.
        against: label of the run before.
        recipe: all of it, as YAML.
    """

    label: str
    facts: str
    changes: list[tuple[str, str]]
    differences: Table | None
    against: str
    recipe: str


@dataclass
class Section:
    """A section of the page.

    Attributes:
        id: of its anchor.
        title: its heading.
        lead: one paragraph.
        parts: figures (a list of them), tables, cards and sheets.
    """

    id: str
    title: str
    lead: str = ""
    parts: list[Any] = field(default_factory=list)
