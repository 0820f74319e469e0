from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.tables import Tables
from moonlib.filters import gazetteer as module
from moonlib.filters.gazetteer import Gazetteer
from moonlib.sources.marketplace.phrases import WORDS


def gazetteer(**names: str) -> Gazetteer:
    """Make one of ``attribute="name, name"``."""
    rows = [(name, attribute) for attribute, listed in names.items() for name in listed.split(", ")]
    return Gazetteer(pl.DataFrame(rows, schema=["name", "attribute"], orient="row"))


def units(text: str) -> list[str]:
    """Words, single characters of scripts without spaces, and ``|`` for all that stands between them."""
    found: list[str] = []
    word = False
    for char in unicodedata.normalize("NFKC", text).lower():
        letter = unicodedata.category(char)[0] in "LMN"
        unspaced = unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA LETTER", "THAI"))
        if not letter:
            found += ["|"] * (not found or found[-1] != "|")
        elif word and not unspaced:
            found[-1] += char
        else:
            found.append(char)
        word = letter and not unspaced
    return found


def one_at_a_time(names: list[tuple[str, str]], text: str) -> list[tuple[str, str]]:
    """Walk through a text; at each unit take the longest name that begins there."""
    known: dict[tuple[str, ...], tuple[str, str]] = {}
    for name, attribute in names:
        key = tuple("\0".join(units(name)).strip("|\0").split("\0"))
        if sum(unicodedata.category(char)[0] == "L" for char in "".join(key)) >= 2:
            known.setdefault(key, (name, attribute))
    found, at, words = [], 0, units(text)
    while at < len(words):
        fitting = [key for key in known if tuple(words[at : at + len(key)]) == key]
        if fitting:
            longest = max(fitting, key=len)
            found.append(known[longest])
            at += len(longest)
        else:
            at += 1
    return found


pieces = st.sampled_from(["ab", "Ａb", "c", "é", "红", "红色", "1", " ", "-, "])
phrases = st.lists(pieces, min_size=1, max_size=3).map("".join)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(phrases, st.sampled_from(["x", "y"])), max_size=6),
    st.lists(st.lists(pieces, max_size=8).map("".join), max_size=4),
)
def test_finds_what_a_walk_through_the_text_finds(names: list[tuple[str, str]], texts: list[str]) -> None:
    frame = pl.DataFrame(names, schema={"name": pl.String, "attribute": pl.String}, orient="row")
    mentions = Gazetteer(frame).find(pl.Series(texts, dtype=pl.String))
    expected = [(row, *found) for row, text in enumerate(texts) for found in one_at_a_time(names, text)]
    assert mentions.select("row", "name", "attribute").rows() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red lamp", 2),
        ("RED-Lamp!", 2),
        ("redwood lamps", 0),
        ("a polka-dot lamp", 2),
        ("polka lamp dot", 1),
        ("新款红色台灯", 2),
        ("新款红 色台灯", 1),
        ("ABS塑料台灯", 2),
        ("ＡＢＳ塑料red台灯", 3),
        ("red red lamp", 2),
        ("wine glass", 1),
        ("wine, glass lamp", 2),
        ("glass lamp", 2),
        ("", 0),
        (None, None),
    ],
)
def test_words_and_characters(text: str | None, expected: int | None) -> None:
    found = gazetteer(
        colour="red, 红色", pattern="polka dot", composition="glass, ABS塑料", category="lamp, 台灯, wine, Wine glass"
    )
    assert found.count(pl.Series([text], dtype=pl.String)).to_list() == [expected]


def test_what_is_said_in_two_languages_counts_once() -> None:
    found = gazetteer(colour="red, blue, 红色, 蓝色", brand="Lumo, 露墨")
    texts = ["red Lumo 红色露墨", "red blue 红色", "red 露墨", "红色蓝色 red"]
    assert found.count(pl.Series(texts)).to_list() == [2, 2, 2, 2]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gazetteer(colour="red, blue", category="lamp")
    texts = pl.Series(["red lamp", None, "blue", "", "red blue lamp", "lamp lamp"])
    whole = found.count(texts)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    assert found.count(texts).equals(whole) and whole.to_list() == [2, None, 1, 0, 3, 1]
    assert found.count(texts.clear()).to_list() == []


def test_names_come_from_attribute_values_and_leaf_categories(make_tables: Callable[..., Tables]) -> None:
    products = {
        1: {"category": "home/Desk lamp", "attributes": {"material": "Leather", "size": "M", "pieces": "12"}},
        2: {"category": "home/mug", "attributes": {"style": "leather"}},
        3: {"category": "home/mug", "attributes": {"material": "leather", "颜色": "红色"}},
        4: {"category": "mug"},
    }
    names = Gazetteer.fit(make_tables(products, []).products).names
    # Most products call leather a material; letters and numbers alone name nothing.
    assert sorted(names.select("name", "attribute").iter_rows()) == [
        ("desk lamp", "category"),
        ("leather", "material"),
        ("mug", "category"),
        ("红色", "颜色"),
    ]


def test_a_catalogue_without_attributes_has_categories(make_tables: Callable[..., Tables]) -> None:
    names = Gazetteer.fit(make_tables({1: {"category": "a/lamp"}}, []).products).names
    assert names["name"].to_list() == ["lamp"]
    assert Gazetteer.fit(make_tables({1: {}}, []).products.clear()).count(pl.Series(["lamp"])).to_list() == [0]


def test_what_the_marketplaces_titles_say_is_found(training: Tables, truth: Callable[[str], pl.DataFrame]) -> None:
    """A title that isn't stuffed says exactly its attributes and category, many of them by their names."""
    meaning = {
        (attribute, name.lower()): number
        for attribute, words in WORDS.items()
        for number, word in enumerate(words)
        for name in (word.en, word.zh)
    }
    plain = truth("titles").filter(~pl.col("stuffed")).select("item_id")
    products = training.products.join(plain, on="item_id", how="semi", maintain_order="left")
    gazetteer = Gazetteer.fit(training.products)
    right = wrong = 0
    missed: Counter[str] = Counter()
    counts = gazetteer.count(products["title"])
    mentions = gazetteer.find(products["title"])
    for row, product in enumerate(products.iter_rows(named=True)):
        values = dict(product["attributes"]) | {"category": product["category"].split("/")[-1]}
        said = {(attribute, meaning[attribute, value.lower()]) for attribute, value in values.items()}
        named = mentions.filter(row=row).select("attribute", "name").rows()
        found = {(attribute, meaning[attribute, name]) for attribute, name in named}
        right += len(found & said)
        wrong += len(found - said)
        by_name = {(name, value) for name, value in said if values[name].lower() in product["title"].lower()}
        missed.update(attribute for attribute, _ in by_name - found)
        assert counts[row] == len(found)
    # Measured: precision 1, recall .939: category paths are in the singular, of which many titles say the plural.
    assert right / (right + wrong) > 0.98
    assert right / (right + missed.total()) > 0.9
    assert missed.total() - missed["category"] < 0.01 * right
