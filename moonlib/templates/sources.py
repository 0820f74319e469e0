"""A small shop drawn from nothing, to be replaced by tables of your own."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from moonlib.data import Splits, Tables, build_once, validate, write_dataset
from moonlib.sources import Source

#: Part of the dataset's name: raise it when the tables or the pictures change for the same arguments.
REVISION = 1

COLOURS = {"red": "红色", "blue": "蓝色", "green": "绿色", "black": "黑色", "orange": "橙色", "purple": "紫色"}
SHAPES = {"ball": "球", "box": "盒", "cone": "锥", "ring": "环"}
START = datetime(2025, 1, 1, tzinfo=UTC)
SPLITS = Splits(*(START + timedelta(days=days) for days in (12, 17, 18, 20)))


class Template(Source):
    """Coloured shapes, each sold by several merchants, and shoppers who have a favourite colour.

    A search by photo or by title ends in an order of a product of that colour and shape; an impression is clicked more
    often if it is of the shopper's colour.

    Args:
        copies: products per colour and shape.
        searches: how many searches there are.
        seed: everything is a function of the arguments and `REVISION`.

    Raises:
        ValueError: if ``copies`` or ``searches`` is below 1.
    """

    def __init__(self, copies: int = 4, searches: int = 400, seed: int = 0) -> None:
        if copies < 1 or searches < 1:
            raise ValueError(f"copies and searches must be at least 1, got {copies} and {searches}")
        self.copies = copies
        self.searches = searches
        self.seed = seed

    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory, drawing it first where it is missing; see `Source.prepare`."""
        # The name tells everything that the content depends on.
        name = f"template-{REVISION}-{self.copies}-{self.searches}-{self.seed}"
        return build_once(cache / name, self.build)

    def build(self, directory: Path) -> None:
        """Write the dataset into an empty directory."""
        write_dataset(directory, self.tables(), draw, SPLITS, name="template", version=str(REVISION), workers=1)

    def tables(self) -> Tables:
        """The five tables; `validate` names the row of whatever is wrong in them."""
        rng = np.random.default_rng(self.seed)
        kinds = [(colour, shape) for (colour, shape), _ in product(product(COLOURS, SHAPES), range(self.copies))]
        n, users, shown = len(kinds), 40, 4
        products = pl.DataFrame(
            {
                "item_id": np.arange(n),
                "spu_id": np.arange(n),
                "title": [f"{c} {s} {COLOURS[c]}{SHAPES[s]}" for c, s in kinds],
                "category": [f"toys/{shape}" for _, shape in kinds],
                "attributes": pl.Series([{"colour": c} for c, _ in kinds], dtype=pl.Map(pl.String, pl.String)),
                "price": rng.integers(5, 50, n).astype(float),
                "merchant_id": np.arange(n) % self.copies,
                "listed_at": [START + timedelta(days=18.5 if i % 10 == 9 else 0) for i in range(n)],
                "image": [f"{c} {s} {i}" for i, (c, s) in enumerate(kinds)],
            }
        )
        # Shoppers order what they search for. Each search has a photo of its own, so that none is in two splits.
        day = np.sort(rng.uniform(0, 20, self.searches))
        listed = np.array([i % 10 != 9 for i in range(n)])
        item = np.array([rng.choice(n if moment > 18.5 else np.flatnonzero(listed)) for moment in day])
        photo = np.arange(self.searches) % 4 != 0
        queries = pl.DataFrame(
            {
                "query_id": np.arange(self.searches),
                "text": [None if p else " ".join(kinds[i]) for p, i in zip(photo, item, strict=True)],
                "image": [
                    f"{' '.join(kinds[i])} {n + q}" if p else None
                    for q, (p, i) in enumerate(zip(photo, item, strict=True))
                ],
            }
        )
        user = rng.integers(0, users, self.searches)
        ts = [START + timedelta(days=moment) for moment in day]
        searches = pl.DataFrame(
            {
                "search_id": np.arange(self.searches),
                "user_id": user,
                "query_id": np.arange(self.searches),
                "item_id": item,
                "action": "order",
                "ts": ts,
            }
        )
        # Beside each search, a few products are shown.
        colours = list(COLOURS)
        favourite = rng.integers(0, len(colours), users)
        shown_item = rng.choice(np.flatnonzero(listed), self.searches * shown)
        liked = np.array([colours.index(kinds[i][0]) for i in shown_item]) == np.repeat(favourite[user], shown)
        impressions = pl.DataFrame(
            {
                "search_id": np.repeat(np.arange(self.searches), shown),
                "user_id": np.repeat(user, shown),
                "query_id": np.repeat(np.arange(self.searches), shown),
                "item_id": shown_item,
                "position": np.tile(np.arange(shown, dtype=np.int32), self.searches),
                "clicked": rng.random(len(shown_item)) < np.where(liked, 0.6, 0.15),
                "ts": [moment for moment in ts for _ in range(shown)],
            }
        )
        return validate(Tables(products, queries, pl.DataFrame({"user_id": np.arange(users)}), searches, impressions))


def draw(table: str, name: str) -> bytes:
    """Draw one picture: `write_dataset` asks for every name in the ``image`` columns, in several processes."""
    colour, shape, seed = name.split()
    rng = np.random.default_rng(int(seed))
    image = Image.new("RGB", (64, 64), tuple(rng.integers(170, 256, 3).tolist()))
    pen, side = ImageDraw.Draw(image), int(rng.integers(26, 44))
    left, top = rng.integers(4, 60 - side, 2).tolist()
    box = (left, top, left + side, top + side)
    if shape == "ball":
        pen.ellipse(box, fill=colour)
    elif shape == "box":
        pen.rectangle(box, fill=colour)
    elif shape == "cone":
        pen.polygon([(left, top + side), (left + side, top + side), (left + side // 2, top)], fill=colour)
    else:
        pen.ellipse(box, outline=colour, width=side // 5)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
