"""Hits of a search, as a list and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moonlib.data.contact_sheet import Cell, draw_sheet


@dataclass(frozen=True)
class Hit:
    """A product that was found.

    Attributes:
        rank: 1 for the first.
        score: cosine of query and product.
        item_id: the product's id, as the shop has it: int64 or text.
        row: the product's row, as far as it is known; empty where the data is not there any more.
        image: its JPEG, if it has one.
    """

    rank: int
    score: float
    item_id: int | str
    row: dict[str, Any]
    image: bytes | None = None


def hits_table(hits: Sequence[Hit]) -> Table:
    """Lay hits out for the terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("rank", "score", "item_id"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("title", "category"):
        table.add_column(name)
    table.add_column("price", justify="right", no_wrap=True)
    for hit in hits:
        price = hit.row.get("price")
        table.add_row(
            str(hit.rank),
            f"{hit.score:.4f}",
            str(hit.item_id),
            hit.row.get("title") or "",
            hit.row.get("category") or "",
            "" if price is None else f"{price:.2f}",
        )
    return table


def hits_sheet(image: bytes | None, text: str | None, hits: Sequence[Hit], path: Path, columns: int = 5) -> Path:
    """Draw the query, framed, and under it what it found.

    Args:
        image: the query's encoded image.
        text: the query's text.
        hits: in the order of their ranks.
        path: the PNG to write.
        columns: hits per line.

    Returns:
        ``path``.
    """
    lines = [[Cell(image, (text, "query"))]]
    for start in range(0, len(hits), columns):
        lines.append([])
        for hit in hits[start : start + columns]:
            category = (hit.row.get("category") or "").rsplit("/", 1)[-1]
            lead = f"{hit.rank}  {hit.score:.2f}"
            lines[-1].append(
                Cell(hit.image, (f"{lead} {hit.row.get('title') or hit.item_id}", f"{lead} {category}", lead))
            )
    return draw_sheet(lines, path, framed={(0, 0)})
