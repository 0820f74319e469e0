"""How merchants and shoppers put attributes into words: names or synonyms of them, in phrases, in an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.synonyms import SYNONYMS
from moonlib.sources.marketplace.words import (
    BRANDS,
    COLOURS,
    COMPOSITIONS,
    FUNCTIONS,
    HYPE,
    PATTERNS,
    SIZES,
    STYLES,
    UNITS,
    Word,
)

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

LOOSE = 0.35
"""Share of the texts that are a heap of phrases in any order, without what comes before and after the noun."""

PLAIN = 0.55
"""Share of the words that stand for themselves, without anything that connects them."""

WORDS: dict[str, Sequence[Word]] = {
    "category": [Word(c.name_en, c.name_zh) for c in CATEGORIES],
    "colour": COLOURS,
    "pattern": PATTERNS,
    "style": STYLES,
    "brand": BRANDS,
    "composition": COMPOSITIONS,
    "function": FUNCTIONS,
    "size": SIZES,
    "hype": HYPE,
    "unit": UNITS,
}


@dataclass(frozen=True)
class Form:
    """A phrase around a word.

    Attributes:
        before, after: what is said before and after the word.
        place: of the phrase: -1 before the noun, 0 the noun itself, 1 after it.
    """

    before: str
    after: str
    place: int


def _forms(*phrases: str) -> tuple[Form, ...]:
    """Forms of phrases such as ``... *in {}``: `*` stands for the noun, `{}` for the word."""
    forms = []
    for phrase in phrases:
        before, after = phrase.strip("*").split("{}")
        forms.append(Form(before, after, place=int(phrase[0] == "*") - int(phrase[-1] == "*")))
    return tuple(forms)


# The first form of each is the plain one.
FORMS: dict[Language, dict[str, tuple[Form, ...]]] = {
    "en": {
        "category": _forms("{}"),
        "colour": _forms("{}*", "*in {}", "{}-coloured*"),
        "pattern": _forms("{}*", "*with {} pattern", "*in {} print"),
        "style": _forms("{}*", "*in {} style", "{}-style*"),
        "brand": _forms("{}*", "*by {}", "*from {}"),
        "composition": _forms("{}*", "*made of {}", "*in {}"),
        "function": _forms("{}*", "*that is {}", "*{}"),
        "size": _forms("{}*", "*size {}", "*({})"),
        "hype": _forms("{}*", "*{}", "*- {}"),
        "unit": _forms("{}*", "*({})", "*{}"),
    },
    "zh": {
        "category": _forms("{}"),
        "colour": _forms("{}*", "{}的*", "*{}款"),
        "pattern": _forms("{}*", "{}图案的*", "*{}款"),
        "style": _forms("{}*", "{}的*", "*{}系列"),
        "brand": _forms("{}*", "【{}】*", "{}牌*"),
        "composition": _forms("{}*", "{}做的*", "*{}材质"),
        "function": _forms("{}*", "{}的*", "*{}功能"),
        "size": _forms("{}*", "*{}", "*尺码{}"),
        "hype": _forms("{}*", "*{}", "【{}】*"),
        "unit": _forms("*{}", "{}*", "*/{}"),
    },
}


def plural(noun: str) -> str:
    """An English noun of `WORDS` or `SYNONYMS` for more than one of it."""
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    if noun.endswith(("ss", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith(("rf", "lf", "fe")):
        return noun.rstrip("e")[:-1] + "ves"
    return noun[:-1] + "ies" if noun.endswith("ly") else noun + "s"


@cache
def ways_to_say(name: str, language: Language) -> tuple[tuple[str, ...], ...]:
    """Words for each value of an attribute: its name, then its synonyms, then the plurals of nouns in English."""
    ways = []
    for word in WORDS[name]:
        said = (getattr(word, language), *SYNONYMS.get(word.en, ((), ()))[LANGUAGES.index(language)])
        ways.append((*said, *map(plural, said)) if name == "category" and language == "en" else said)
    return tuple(ways)


@cache
def _table(name: str, language: Language) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """`ways_to_say` as a table of objects [V, most ways], and how many ways each value has, [V]."""
    ways = ways_to_say(name, language)
    count = np.array([len(said) for said in ways])
    return np.array([[*said, *[None] * (count.max() - len(said))] for said in ways], dtype=object), count


def write(columns: list[tuple[str, NDArray[np.int64]]], language: Language, rng: np.random.Generator) -> list[str]:
    """Write one text per row of what the columns say.

    Args:
        columns: attributes of `WORDS` and int64 [N], the index of the value, negative where nothing is said; an
            attribute may come more than once.
        language: of the texts. Chinese is mostly written without spaces.
        rng: the stream that this is a function of.

    Returns:
        N texts, empty where no column says anything.
    """
    n = len(columns[0][1])
    loose = rng.random(n) < LOOSE
    phrases, keys = np.empty((n, len(columns)), dtype=object), np.empty((n, len(columns)))
    for number, (name, index) in enumerate(columns):
        phrases[:, number], place = _phrases(name, index, loose, language, rng)
        keys[:, number] = np.where(loose, 0, place) + rng.random(n)
    spaced = np.where(rng.random(n) < (0.25 if language == "zh" else 1.0), " ", "")
    ordered = np.take_along_axis(phrases, keys.argsort(axis=1), axis=1)
    return [space.join(filter(None, row)) for space, row in zip(spaced.tolist(), ordered, strict=True)]


def _phrases(
    name: str, index: NDArray[np.int64], loose: NDArray[np.bool_], language: Language, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A phrase for each row, None where there is none, and its place."""
    table, count = _table(name, language)
    word = table[index, rng.integers(0, count[index])]
    forms = FORMS[language][name]
    plain = loose | (rng.random(len(index)) < PLAIN)
    form = np.where(plain, 0, rng.integers(0, len(forms), size=len(index)))
    before, after = (np.array([getattr(f, part) for f in forms], dtype=object) for part in ("before", "after"))
    phrase = before[form] + word + after[form]
    phrase[index < 0] = None
    return phrase, np.array([f.place for f in forms])[form]
