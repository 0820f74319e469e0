from __future__ import annotations

import numpy as np
import pytest

from moonlib.sources.marketplace.phrases import LANGUAGES, WORDS, Language, plural, ways_to_say, write
from moonlib.sources.marketplace.synonyms import SYNONYMS
from moonlib.sources.marketplace.titles import ATTRIBUTES

N = 2_000


def texts(language: Language, **columns: int) -> list[str]:
    rows = [(name, np.full(N, value)) for name, value in columns.items()]
    return write(rows, language, np.random.default_rng(0))


def number(name: str, english: str) -> int:
    return [word.en for word in WORDS[name]].index(english)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", WORDS)
def test_a_word_means_one_value_of_its_attribute(name: str, language: Language) -> None:
    meanings: dict[str, set[int]] = {}
    for value, ways in enumerate(ways_to_say(name, language)):
        for way in ways:
            meanings.setdefault(way.lower(), set()).add(value)
    assert {way for way, values in meanings.items() if len(values) > 1} == set()


def test_a_third_of_the_words_have_two_or_three_synonyms_in_each_language() -> None:
    names = [word.en for words in WORDS.values() for word in words]
    assert all(names.count(name) == 1 for name in SYNONYMS)
    assert all(2 <= len(ways) <= 3 for both in SYNONYMS.values() for ways in both)
    for attributes in (["category"], [name for name in ATTRIBUTES if name != "brand"]):
        words = [word for name in attributes for word in WORDS[name]]
        assert 0.3 < sum(word.en in SYNONYMS for word in words) / len(words) < 0.45


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_says_what_it_is_told_and_no_more(language: Language) -> None:
    black = number("colour", "black")
    said = texts(language, category=number("category", "Mug"), colour=black, brand=-1)
    nouns = ways_to_say("category", language)[number("category", "Mug")]
    colours = ways_to_say("colour", language)[black]
    for text in said:
        assert any(noun in text for noun in nouns) and any(colour in text for colour in colours)
    used = {way for way in (*nouns, *colours) if any(way in text for text in said)}
    assert used == {*nouns, *colours}
    others = {way for name in ("brand", "style") for ways in ways_to_say(name, language) for way in ways}
    assert not any(way in text for text in said for way in others)
    assert set(texts(language, colour=-1, category=-1)) == {""}


def test_phrases_stand_before_or_after_the_noun_and_some_anywhere() -> None:
    said = texts("en", category=number("category", "Desk"), colour=number("colour", "navy"))
    share = {text: said.count(text) / N for text in set(said)}
    assert {"navy Desk", "Desk in navy", "navy-coloured Desk", "Desk navy", "Desks in navy"} <= set(share)
    assert not any(text.startswith("in navy") for text in share)
    assert share["navy Desk"] > share["Desk in navy"] > share["navy-coloured Desks"] * 0.5 > 0
    chinese = texts("zh", category=number("category", "Desk"), colour=number("colour", "navy"))
    assert {"藏青书桌", "藏青的书桌", "书桌藏青款", "书桌藏青"} <= set(chinese)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("Mug", "Mugs"),
        ("Dress", "Dresses"),
        ("Toothbrush", "Toothbrushes"),
        ("Lunch box", "Lunch boxes"),
        ("Scarf", "Scarves"),
        ("Kitchen knife", "Kitchen knives"),
        ("Bookshelf", "Bookshelves"),
        ("Brolly", "Brollies"),
        ("Trousers", "Trousers"),
        ("Chest of drawers", "Chest of drawers"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many
