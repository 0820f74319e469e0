"""Titles by merchants, and queries typed by shoppers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moonlib.sources.marketplace.catalogue import SimulatedCatalogue
from moonlib.sources.marketplace.latents import Factors
from moonlib.sources.marketplace.phrases import LANGUAGES, WORDS, Language, write
from moonlib.sources.marketplace.words import BRANDS, HYPE, STYLES, UNITS

MISSING, WRONG, STUFFED, MISFILED = 0.30, 0.05, 0.20, 0.02
TYPO = 0.08

LEAD = 0.12
LEADS: dict[Language, tuple[str, ...]] = {
    "en": ("looking for ", "i need ", "where to buy ", "show me "),
    "zh": ("想买", "求推荐", "哪里有卖", "有没有"),
}
"""How one query in eight begins."""

ATTRIBUTES = ("colour", "pattern", "brand", "composition", "function", "style", "size")


@dataclass(frozen=True)
class Listings:
    """Texts of N listings.

    Attributes:
        category: int64 [N], index of the category each is filed under.
        attributes: a word or None for each listing, by attribute; None where the merchant says nothing.
        wrong: bool [N] by attribute, where the merchant says something that is not so.
        stuffed: bool [N], titles with words of other products.
    """

    title: list[str]
    category: NDArray[np.int64]
    attributes: dict[str, list[str | None]]
    wrong: dict[str, NDArray[np.bool_]]
    stuffed: NDArray[np.bool_]


def write_listings(catalogue: SimulatedCatalogue, sold: NDArray[np.int64], rng: np.random.Generator) -> Listings:
    """Write a title and attributes for every listing, with the mistakes merchants make.

    Args:
        catalogue: what is listed.
        sold: the categories that exist, for filing something in the wrong one.
        rng: the stream that this is a function of.
    """
    n, f = len(catalogue), catalogue.factors
    category = np.where(rng.random(n) < MISFILED, rng.choice(sold, size=n), f.category)
    said: dict[str, NDArray[np.int64]] = {}
    wrong: dict[str, NDArray[np.bool_]] = {}
    for name in ATTRIBUTES:
        true = catalogue.size if name == "size" else getattr(f, name)
        value = np.where(rng.random(n) < WRONG, rng.integers(0, len(WORDS[name]), size=n), true)
        wrong[name] = value != true
        said[name] = np.where(rng.random(n) < MISSING, -1, value)
        wrong[name] &= said[name] >= 0
    stuffed = rng.random(n) < STUFFED
    foreign = {
        "category": rng.choice(sold, size=n),
        "style": rng.integers(0, len(STYLES), size=n),
        "brand": rng.integers(0, len(BRANDS), size=n),
        "hype": rng.integers(0, len(HYPE), size=n),
    }
    columns = [("category", category), *said.items()]
    columns += [(name, np.where(stuffed & (rng.random(n) < 0.6), value, -1)) for name, value in foreign.items()]
    columns.append(("hype", np.where(rng.random(n) < 0.3, rng.integers(0, len(HYPE), size=n), -1)))
    columns.append(("unit", np.where(rng.random(n) < 0.15, rng.integers(0, len(UNITS), size=n), -1)))
    kind = rng.choice(3, size=n, p=[0.4, 0.35, 0.25])
    english, chinese = (write(columns, language, rng) for language in LANGUAGES)
    bilingual = [f"{en} {zh}" for en, zh in zip(english, chinese, strict=True)]
    title = [texts[k] for *texts, k in zip(english, chinese, bilingual, kind, strict=True)]
    speaks = np.where(kind == 2, rng.integers(0, 2, size=n), kind)
    attributes = {name: _words(name, value, speaks) for name, value in said.items()}
    return Listings(title, category, attributes, wrong, stuffed)


def write_queries(
    factors: Factors, told: dict[str, NDArray[np.bool_]], chinese: NDArray[np.bool_], rng: np.random.Generator
) -> list[str | None]:
    """Write the texts shoppers type.

    Args:
        factors: of what each query's writer has in mind, Q rows.
        told: bool [Q] by block, what the query names; a row without any is a query without text.
        chinese: bool [Q], in which language.
        rng: the stream that this is a function of.

    Returns:
        Texts, None for queries without text.
    """
    columns = [(name, np.where(told[name], getattr(factors, name), -1)) for name in told]
    written = [_led(write(columns, language, rng), LEADS[language], rng) for language in LANGUAGES]
    texts = [zh if speaks else en.lower() for en, zh, speaks in zip(*written, chinese, strict=True)]
    # A typo drops a character or doubles it.
    slips, where, times = rng.random(len(texts)) < TYPO, rng.random(len(texts)), 2 * rng.integers(0, 2, size=len(texts))
    for row in np.flatnonzero(slips):
        text, at = texts[row], int(where[row] * len(texts[row]))
        if len(text) > 2:
            texts[row] = text[:at] + text[at] * times[row] + text[at + 1 :]
    return [text or None for text in texts]


def _words(name: str, index: NDArray[np.int64], chinese: NDArray[np.int64]) -> list[str | None]:
    """Names by index, none where it is negative."""
    words = np.array([[word.en, word.zh] for word in WORDS[name]], dtype=object)
    found = words[index, chinese]
    found[index < 0] = None
    return list(found)


def _led(texts: list[str], leads: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Texts, some of which begin with one of `leads`; empty ones stay empty."""
    n = len(texts)
    lead = np.where(rng.random(n) < LEAD, rng.integers(0, len(leads), size=n), -1)
    return [(*leads, "")[k] + text if text else text for k, text in zip(lead.tolist(), texts, strict=True)]
