"""One picture that shows what a dataset looks like: products, and the queries that led to them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFont

from moonlib.data.dataset import Dataset
from moonlib.data.pixels import open_image
from moonlib.data.reader import SampleReader
from moonlib.data.tables import ACTIONS

_SIDE = 144
_GAP = 8
_CAPTION = 34
_QUERIES = 5
_LATIN = 0x250  # the letters before it are in every font
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc")

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(dataset: Dataset, path: Path, rows: int = 12, seed: int = 0) -> Path:
    """Draw products, and beside each up to five of the queries that led to it.

    Products that photos led to come first; of a product's queries, photos before texts and orders before clicks.
    Otherwise the choice is random. Titles, and what the query led to, are written under the pictures; a text with
    characters that no font of this machine has is replaced by the category or the id.

    Args:
        dataset: an open dataset.
        path: the PNG to write.
        rows: products shown.
        seed: of the choice of products and queries.

    Returns:
        ``path``.
    """
    chosen = _choose(dataset, rows, np.random.default_rng(seed))
    products = SampleReader(dataset.directory, "products").read(chosen["item_id"].to_numpy())
    queries = SampleReader(dataset.directory, "queries")
    ids = dataset.ids
    lines: list[list[Cell]] = []
    for product, led in zip(products, chosen.iter_rows(named=True), strict=True):
        row = product.row
        leaf, named = (row["category"] or "").rsplit("/", 1)[-1], str(ids.value("item_id", product.id))
        lines.append([Cell(product.image, (row["title"], leaf, named))])
        shown = queries.read(np.array(led["query_id"], np.int64))
        for query, action in zip(shown, led["action"], strict=True):
            text = f"{action}: {query.row['text']}" if query.row["text"] else None
            lines[-1].append(Cell(query.image, (text, action, str(ids.value("query_id", query.id)))))
    return draw_sheet(lines, path, framed={(line, 0) for line in range(len(lines))})


class Cell(NamedTuple):
    """One picture of a sheet.

    Attributes:
        image: encoded; without one the text takes its place.
        texts: the first of them that can be drawn with this machine's fonts is written under it.
    """

    image: bytes | None
    texts: tuple[str | None, ...]


def draw_sheet(lines: Sequence[Sequence[Cell]], path: Path, framed: Set[tuple[int, int]] = frozenset()) -> Path:
    """Draw pictures with captions in lines.

    Args:
        lines: the cells of each line.
        path: the PNG to write.
        framed: (line, column) of the cells that have a frame.

    Returns:
        ``path``.
    """
    font, wide = _font()
    columns = max((len(line) for line in lines), default=1)
    width, height = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, max(len(lines), 1) * height + _GAP), "white")
    for i, line in enumerate(lines):
        for j, cell in enumerate(line):
            corner = (_GAP + j * width, _GAP + i * height)
            _draw(sheet, corner, cell.image, _caption(wide, cell.texts), font, framed=(i, j) in framed)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return path


def _choose(dataset: Dataset, rows: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return item_id of the products to show, and up to five query_ids and their actions (two lists)."""
    photo = dataset.queries.select("query_id", photo=pl.col("image").is_not_null())
    led = dataset.searches.drop_nulls("query_id").select(
        "item_id", "query_id", "action", strength=pl.col("action").replace_strict({a: i for i, a in enumerate(ACTIONS)})
    )
    led = led.sort("strength", descending=True, maintain_order=True).unique(
        ["item_id", "query_id"], keep="first", maintain_order=True
    )
    per_item = (
        led.join(photo, on="query_id", maintain_order="left")
        .with_columns(order=pl.Series(rng.random(led.height), dtype=pl.Float64))
        .sort("photo", "strength", "order", descending=True)
        .group_by("item_id", maintain_order=True)
        .agg(pl.col("query_id", "action").head(_QUERIES), pl.col("photo").any())
    )
    return (
        dataset.products.select("item_id", pictured=pl.col("image").is_not_null())
        .with_columns(order=pl.Series(rng.random(dataset.products.height), dtype=pl.Float64))
        .join(per_item, on="item_id", how="left")
        .with_columns(pl.col("photo").fill_null(False), pl.col("query_id", "action").fill_null([]))
        .sort("photo", "pictured", "order", descending=True)
        .head(rows)
        .select("item_id", "query_id", "action")
    )


def _draw(
    sheet: Image.Image, corner: tuple[int, int], image: bytes | None, text: str, font: _Font, *, framed: bool
) -> None:
    x, y = corner
    pen = ImageDraw.Draw(sheet)
    if image is not None:
        picture = open_image(image).convert("RGB")
        scale = _SIDE / max(picture.size)
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2))
        pen.multiline_text((x, y + _SIDE + 2), _wrap(text, 2, font), fill="black", font=font, spacing=1)
    else:
        pen.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), fill="#f0f0f0")
        pen.multiline_text((x + 6, y + 6), _wrap(text, 8, font), fill="black", font=font, spacing=2)
    if framed:
        pen.rectangle((x - 2, y - 2, x + _SIDE + 1, y + _SIDE + 1), outline="#2060c0", width=2)


def _wrap(text: str, lines: int, font: _Font) -> str:
    """Break text into lines that are about as wide as a picture."""
    mean = font.getlength(text) / max(len(text), 1) or 1
    width = max(4, int((_SIDE - 12) / mean))
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def _caption(wide: bool, texts: Sequence[str | None]) -> str:
    """Return the first text that can be drawn, or none."""
    drawable = (text for text in texts if text and (wide or all(ord(letter) < _LATIN for letter in text)))
    return next(drawable, "")


def _font() -> tuple[_Font, bool]:
    """Return a font, and whether it has Chinese characters."""
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, 12), True
        except OSError:
            continue
    return ImageFont.load_default(12), False
