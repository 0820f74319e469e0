"""The source `emoji`: one artist's renders as products, the other artist's drawings as shoppers' photos."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import polars as pl

from moonlib.data import Splits, Tables, build_once, validate, write_dataset
from moonlib.sources import Source
from moonlib_emoji.concepts import Concept, Part, read_concepts
from moonlib_emoji.packages import installed_versions
from moonlib_emoji.pictures import Pictures

log = logging.getLogger(__name__)

#: Part of the dataset's name: raise it when the tables or the pictures change for the same packages.
REVISION = 1

SPLITS = Splits(
    behaviour_until=datetime(2024, 3, 1, tzinfo=UTC),
    train_until=datetime(2024, 4, 1, tzinfo=UTC),
    valid_until=datetime(2024, 5, 1, tzinfo=UTC),
    test_until=datetime(2024, 6, 1, tzinfo=UTC),
)

#: When the products of a part are listed, and when the searches for them begin, one a minute.
DAYS: dict[Part, tuple[datetime, datetime]] = {
    "train": (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)),
    "valid": (datetime(2024, 4, 1, tzinfo=UTC), datetime(2024, 4, 15, tzinfo=UTC)),
    "test": (datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 15, tzinfo=UTC)),
}


class Emoji(Source):
    """Real pictures of about 1850 concepts, each drawn by two artists and titled in English and Chinese.

    A product is a concept's 3D render (Fluent Emoji) with its English and Chinese label as the title and its tags as
    attributes. Three searches end in an order of it: one by photo, which is the *other* artist's drawing (Noto
    Emoji), one by the English label and one by the Chinese label.

    The split is by concept (`moonlib_emoji.concepts.part_of`); time is fictitious and only expresses it. Concepts to
    train on are listed in January 2024 and searched for in February, before ``behaviour_until``. Those that
    validate are listed and searched for in April, those that test in May: no training stage sees anything of
    them. Nothing is shown without a search, so there are no impressions and no CTR model to train.

    Each concept has a user of its own, so that an interval over users is one over concepts. ``queries`` has one
    more column, ``language``: ``en``, ``zh``, or null for a photo; ``products`` has ``hexcode``.

    Args:
        packages: the ``node_modules`` folder that holds the published picture sets.
        size: side of the stored pictures, pixels.
        train: how many concepts to train on, to see what a small catalogue learns; null for all of them. They are drawn
            by their hash, so that a smaller number is a part of a larger one. The held-out concepts stay the same.

    Raises:
        ValueError: a number is below 1; in `prepare`, if there are fewer concepts to train on.

    Source:
        npm: @lobehub/fluent-emoji-3d, emoji-datasource-google, emojibase-data.

    Example:
        >>> Emoji(size=64).size
        64
    """

    def __init__(
        self, packages: Path = Path("plugins/moonlib-emoji/node_modules"), size: int = 96, train: int | None = None
    ) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; expected the side of the stored pictures in pixels, for instance 96")
        if train is not None and train < 1:
            raise ValueError(f"train is {train}; expected a number of concepts, or null for all of them")
        self.packages = Path(packages)
        self.size = size
        self.train = train

    def prepare(self, cache: Path) -> Path:
        """Build the dataset of the installed packages at this size, unless it is there.

        Args:
            cache: where datasets may be built.

        Returns:
            The dataset's directory.

        Raises:
            FileNotFoundError: a package is not installed; the message has the command that installs it.
            ValueError: a file of a package is unreadable; the message names it.
        """
        version = "-".join([str(REVISION), *installed_versions(self.packages).values()])

        def build(directory: Path) -> None:
            concepts = cut(read_concepts(self.packages), self.train)
            parts = Counter(concept.part for concept in concepts)
            log.info("concepts: %s", ", ".join(f"{parts[part]} {part}" for part in get_args(Part)))
            pictures = Pictures(self.packages, self.size)
            write_dataset(directory, tables(concepts), pictures, SPLITS, name="emoji", version=version)

        part = "" if self.train is None else f"-{self.train}"
        return build_once(cache / f"emoji-{version}-{self.size}px{part}", build)


def cut(concepts: Sequence[Concept], train: int | None) -> list[Concept]:
    """Keep so many of the concepts to train on, by their hash, and all the others, in their order.

    Args:
        concepts: all that there are.
        train: how many; None for all.

    Raises:
        ValueError: there are fewer.
    """
    trained = [concept.hexcode for concept in concepts if concept.part == "train"]
    if train is None:
        return list(concepts)
    if train > len(trained):
        raise ValueError(f"train: {train} concepts to train on are asked for, and there are {len(trained)}")
    kept = set(sorted(trained, key=lambda hexcode: hashlib.md5(f"cut/{hexcode}".encode()).digest())[:train])
    return [concept for concept in concepts if concept.part != "train" or concept.hexcode in kept]


def tables(concepts: Sequence[Concept]) -> Tables:
    """Make products, queries, users and searches of the concepts, but for those that are left out."""
    shown = [concept for concept in concepts if concept.part in DAYS]
    item_id = [_id(concept.hexcode) for concept in shown]
    products = pl.DataFrame(
        {
            "item_id": item_id,
            "spu_id": item_id,
            "title": [f"{concept.english} {concept.chinese}" for concept in shown],
            "category": [f"{concept.group}/{concept.subgroup}" for concept in shown],
            "attributes": [
                {"tags": ", ".join(concept.english_tags) or None, "标签": "、".join(concept.chinese_tags) or None}
                for concept in shown
            ],
            "listed_at": [DAYS[concept.part][0] for concept in shown],
            "image": [concept.render for concept in shown],
            "hexcode": [concept.hexcode for concept in shown],
        },
        schema_overrides={"item_id": pl.Int64, "spu_id": pl.Int64},
    )
    asked = pl.DataFrame(
        [
            (_id(f"{concept.hexcode}/{kind}"), text, image, language, item, DAYS[concept.part][1])
            for concept, item in zip(shown, item_id, strict=True)
            for kind, text, image, language in (
                ("photo", None, concept.drawing, None),
                ("en", concept.english, None, "en"),
                ("zh", concept.chinese, None, "zh"),
            )
        ],
        schema={
            "query_id": pl.Int64,
            "text": pl.String,
            "image": pl.String,
            "language": pl.String,
            "item_id": pl.Int64,
            "since": pl.Datetime("us", "UTC"),
        },
        orient="row",
    )
    searches = asked.select(
        "query_id",
        "item_id",
        search_id="query_id",
        user_id="item_id",
        action=pl.lit("order"),
        ts=pl.col("since") + pl.duration(minutes=pl.int_range(pl.len()).over("since")),
    )
    return validate(
        Tables(
            products=products,
            queries=asked.select("query_id", "text", "image", "language"),
            users=products.select(user_id="item_id"),
            searches=searches,
        )
    )


def _id(name: str) -> int:
    """A signed 64-bit id that depends on the name alone."""
    return int.from_bytes(hashlib.md5(name.encode(), usedforsecurity=False).digest()[:8], signed=True)
