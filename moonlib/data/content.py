"""The content of one product or query as an encoder sees it, and the modalities a task reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Side = Literal["product", "query"]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 of the main subject, as fractions of the upright image's width and height, from its top left."""

View = Literal["full", "box"]
"""The part of an image that is read: all of it, or the box around its subject (all of it where there is no box)."""


@dataclass(frozen=True)
class Content:
    """Content of one product or query; ``None`` is a missing modality.

    Attributes:
        image: the encoded image (JPEG, PNG or WebP bytes).
        text: a title, a query's text or a richer text.
        box: the main subject within the image.
    """

    image: bytes | None
    text: str | None
    box: Box | None = None


@dataclass(frozen=True)
class Modalities:
    """The modalities that one side of a task reads.

    Attributes:
        image: whether the image is read.
        text: ``"title"`` for a product's title or a query's text; ``"rich"`` for the title with the leaf category and
            the values of the attributes (of a query, which has neither: its text); ``None`` for no text.
    """

    image: bool
    text: Literal["title", "rich"] | None

    @classmethod
    def parse(cls, words: str) -> Modalities:
        """Parse words joined by ``+``.

        >>> Modalities.parse("title+image")
        Modalities(image=True, text='title')

        Raises:
            ValueError: a word is unknown or repeated, or two kinds of text are asked for.
        """
        parts = [part.strip() for part in words.split("+")]
        unknown = [part for part in parts if part not in ("image", "title", "text", "rich")]
        if unknown:
            raise ValueError(
                f"unknown modality '{unknown[0]}' in '{words}'; valid: image, title, text, rich, joined by +"
            )
        texts = [part for part in parts if part != "image"]
        if len(texts) > 1 or parts.count("image") > 1:
            raise ValueError(f"'{words}' names a modality twice; at most image and one of title, text, rich")
        text: Literal["title", "rich"] | None = None
        if texts:
            text = "rich" if texts == ["rich"] else "title"
        return cls(image="image" in parts, text=text)

    @classmethod
    def union(cls, of: Sequence[Modalities]) -> Modalities:
        """All that any of these reads.

        >>> str(Modalities.union([Modalities.parse("image"), Modalities.parse("rich")]))
        'rich+image'
        """
        texts = {modalities.text for modalities in of}
        text: Literal["title", "rich"] | None = "rich" if "rich" in texts else "title" if "title" in texts else None
        return cls(image=any(modalities.image for modalities in of), text=text)

    def __str__(self) -> str:
        return "+".join(word for word in (self.text, "image" if self.image else None) if word)

    def available(self, table: pl.DataFrame) -> NDArray[np.bool_]:
        """Tell which rows of the products or queries table have every modality named here.

        Returns:
            bool [rows]. A product has a rich text if it has a title, a category or the value of an attribute.
        """
        have = np.ones(len(table), dtype=bool)
        if self.image:
            have &= table["image"].is_not_null().to_numpy()
        is_query = "query_id" in table.columns
        if self.text == "title" or (self.text and is_query):
            texts = table["text" if is_query else "title"]
            have &= _has_text(texts)
        elif self.text and "category" in table.columns and table["category"].null_count():
            values = pl.col("attributes").to_physical().list.eval(pl.element().struct.field("value") != "").list.any()
            some = table.select(values.fill_null(False)).to_series().to_numpy()
            have &= _has_text(table["title"]) | _has_text(table["category"]) | some
        return have


def _has_text(texts: pl.Series) -> NDArray[np.bool_]:
    """Tell which texts are there and not blank."""
    return (texts.str.strip_chars().str.len_bytes() > 0).fill_null(False).to_numpy()


@dataclass(frozen=True)
class Task:
    """Modalities that the query and the item of a training pair are read from."""

    query: Modalities
    item: Modalities

    @classmethod
    def parse(cls, text: str) -> Task:
        """Parse ``"query modalities -> item modalities"``.

        >>> str(Task.parse("image -> title+image"))
        'image -> title+image'

        Raises:
            ValueError: not of that form, or a word is unknown; the message lists the valid words.
        """
        sides = text.split("->")
        if len(sides) != 2:
            raise ValueError(
                f"task '{text}' is not of the form 'image -> title+image'; valid words: image, title, text, rich"
            )
        try:
            return cls(Modalities.parse(sides[0]), Modalities.parse(sides[1]))
        except ValueError as error:
            raise ValueError(f"task '{text}': {error}") from None

    def __str__(self) -> str:
        return f"{self.query} -> {self.item}"


def compose(row: Mapping[str, Any], image: bytes | None, modalities: Modalities) -> Content:
    """Keep of one product or query what ``modalities`` names.

    Args:
        row: a row of the products or queries table; a row with a ``query_id`` is a query's.
        image: its encoded image, if it has one.
        modalities: what the task reads.

    Returns:
        The content; a modality that the row lacks is ``None``, blank text counts as missing.
    """
    words: list[str] = []
    if modalities.text and "query_id" in row:
        words = [row["text"] or ""]
    elif modalities.text:
        words = [row["title"] or ""]
        if modalities.text == "rich":
            words.extend([row["category"].rsplit("/", 1)[-1]] if row["category"] else [])
            words.extend(value for value in (row["attributes"] or {}).values() if value)
    text = " ".join(words).strip() or None
    if not modalities.image or image is None:
        return Content(None, text)
    box = row.get("box")
    return Content(image, text, None if box is None else tuple(box))
