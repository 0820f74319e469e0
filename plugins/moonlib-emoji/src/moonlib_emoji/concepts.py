"""Concepts that both artists have drawn, joined by hexcode, and the part of the data set each belongs to."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moonlib_emoji.packages import ANNOTATIONS, DRAWINGS, RENDERS, read_json

log = logging.getLogger(__name__)

Part = Literal["train", "valid", "test", "left out"]

#: The groups whose held-out concepts are measured: things, which two artists draw as one would photograph a product.
#: Faces, people, symbols and flags differ within their group in details that have nothing to do with shopping.
MEASURED_GROUPS = frozenset({"objects", "food-drink", "animals-nature", "travel-places", "activities"})


@dataclass(frozen=True)
class Concept:
    """One emoji, as both artists drew it.

    Attributes:
        hexcode: its code points as emojibase writes them, for instance ``1F436`` or ``1F441-FE0F-200D-1F5E8-FE0F``.
        group: key of its group, for instance ``animals-nature``.
        subgroup: key of its subgroup, for instance ``animal-mammal``.
        english: its English label.
        chinese: its Chinese label.
        english_tags: English words people look for it with.
        chinese_tags: Chinese words people look for it with.
        render: file name of the 3D render (the product's picture).
        drawing: file name of the other artist's drawing (the shopper's photo).
    """

    hexcode: str
    group: str
    subgroup: str
    english: str
    chinese: str
    english_tags: tuple[str, ...]
    chinese_tags: tuple[str, ...]
    render: str
    drawing: str

    @property
    def part(self) -> Part:
        """See `part_of`."""
        return part_of(self.hexcode, self.group)


def part_of(hexcode: str, group: str) -> Part:
    """The part of the data set a concept belongs to, by itself, so that new emoji do not move the old ones.

    One concept in five is held out (md5 mod 5 = 0): it tests where its group is measured, and is left out elsewhere.
    One in ten of the measured groups (md5 mod 10 = 1) validates. The rest trains.

    Args:
        hexcode: as emojibase writes it.
        group: key of the concept's group.

    Example:
        >>> part_of("1F436", "animals-nature"), part_of("1F436", "flags"), part_of("1F600", "smileys-emotion")
        ('test', 'left out', 'train')
    """
    digest = int.from_bytes(hashlib.md5(hexcode.encode(), usedforsecurity=False).digest())
    measured = group in MEASURED_GROUPS
    if digest % 5 == 0:
        return "test" if measured else "left out"
    return "valid" if measured and digest % 10 == 1 else "train"


def read_concepts(packages: Path) -> list[Concept]:
    """Join the annotations in two languages with both picture sets.

    A picture is found by its hexcode with the variation selector FE0F taken out, which the sets write differently.
    Skin tones are variants of a concept, not concepts of their own: the default tone is read.

    Args:
        packages: the ``node_modules`` folder.

    Returns:
        The concepts that all four have, by hexcode.

    Raises:
        ValueError: an annotation file is unreadable, or the sets have nothing in common.
    """
    annotations = packages / ANNOTATIONS
    english = read_json(annotations / "en" / "data.json")
    chinese = {entry["hexcode"]: entry for entry in read_json(annotations / "zh" / "data.json")}
    names = read_json(annotations / "meta" / "groups.json")
    renders, drawings = _pictures(packages / RENDERS, ".webp"), _pictures(packages / DRAWINGS, ".png")
    concepts = []
    for entry in english:
        hexcode, key = entry["hexcode"], _key(entry["hexcode"])
        # Without a group it is not an emoji but a letter that flags are spelt with.
        if "group" not in entry or hexcode not in chinese or key not in renders or key not in drawings:
            continue
        translated = chinese[hexcode]
        concepts.append(
            Concept(
                hexcode=hexcode,
                group=names["groups"][str(entry["group"])],
                subgroup=names["subgroups"][str(entry["subgroup"])],
                english=entry["label"],
                chinese=translated["label"],
                english_tags=tuple(entry.get("tags", ())),
                chinese_tags=tuple(translated.get("tags", ())),
                render=renders[key],
                drawing=drawings[key],
            )
        )
    if not concepts:
        raise ValueError(f"{packages}: the picture sets and the annotations have no concept in common")
    log.info("%d of %d concepts are annotated in both languages and drawn by both artists", len(concepts), len(english))
    return sorted(concepts, key=lambda concept: concept.hexcode)


def _key(hexcode: str) -> str:
    return hexcode.upper().replace("-FE0F", "")


def _pictures(folder: Path, suffix: str) -> dict[str, str]:
    """File name by key; of two spellings of one sequence the fully qualified, which is the longer, wins."""
    files = sorted(folder.glob(f"*{suffix}"), key=lambda path: (len(path.name), path.name))
    return {_key(path.stem): path.name for path in files}
