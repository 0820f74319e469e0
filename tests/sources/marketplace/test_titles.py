from __future__ import annotations

import numpy as np
import pytest

from moonlib.sources.marketplace.phrases import LANGUAGES, WORDS, ways_to_say
from moonlib.sources.marketplace.titles import ATTRIBUTES, write_listings, write_queries
from moonlib.sources.marketplace.world import World


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_merchants_leave_out_and_get_wrong(world: World, name: str) -> None:
    c, listings = world.catalogue, write_listings(world.catalogue, np.arange(50), np.random.default_rng(7))
    true = c.size if name == "size" else getattr(c.factors, name)
    said = listings.attributes[name]
    missing = np.array([word is None for word in said])
    wrong = np.array(
        [w is not None and w not in (WORDS[name][t].en, WORDS[name][t].zh) for w, t in zip(said, true, strict=True)]
    )
    np.testing.assert_array_equal(wrong, listings.wrong[name])
    assert 0.22 < missing.mean() < 0.38
    assert 0.005 < wrong.mean() < 0.08


def test_titles_say_what_the_attributes_say_in_other_words_too(world: World) -> None:
    listings = world.listings

    def says(title: str, name: str, value: int) -> bool:
        return any(way in title for language in LANGUAGES for way in ways_to_say(name, language)[value])

    named = repeated = 0
    for row, title in enumerate(listings.title):
        assert says(title, "category", int(listings.category[row]))
        for name in ATTRIBUTES:
            word = listings.attributes[name][row]
            if word is not None:
                (value,) = [number for number, w in enumerate(WORDS[name]) if word in (w.en, w.zh)]
                assert says(title, name, value)
                named, repeated = named + 1, repeated + (word in title)
    assert 0.6 < repeated / named < 0.95


def test_some_titles_are_stuffed_and_some_listings_misfiled(world: World) -> None:
    listings = write_listings(world.catalogue, np.arange(50), np.random.default_rng(7))
    assert 0.13 < listings.stuffed.mean() < 0.27
    misfiled = (listings.category != world.catalogue.factors.category).mean()
    assert 0 < misfiled < 0.06
    length = np.array([len(title) for title in listings.title])
    assert length[listings.stuffed].mean() > length[~listings.stuffed].mean() + 3


def test_words_come_in_any_order(world: World) -> None:
    first = {title.split()[0].lower() for title in world.listings.title if title.isascii()}
    assert len(first) > 20


def test_a_text_names_what_it_is_told(world: World) -> None:
    n = 400
    factors = world.catalogue.factors.take(np.arange(n) % len(world.catalogue))
    told = {name: np.arange(n) % k == 0 for k, name in enumerate(("category", "colour", "brand"), start=2)}
    chinese = np.arange(n) % 7 == 0
    texts = write_queries(factors, told, chinese, np.random.default_rng(0))
    exact = 0
    for row, text in enumerate(texts):
        named = [name for name in told if told[name][row]]
        assert (text is None) == (not named)
        if text is not None:
            ways = [ways_to_say(name, LANGUAGES[int(chinese[row])])[getattr(factors, name)[row]] for name in named]
            exact += all(any(way.lower() in text for way in each) for each in ways)
    written = sum(text is not None for text in texts)
    assert 0.88 < exact / written < 0.98  # the others have a typo
