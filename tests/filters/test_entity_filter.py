from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.tables import Tables, validate
from moonlib.filters.entity_filter import EntityFilter
from moonlib.filters.gazetteer import Gazetteer
from moonlib.testing import check_filter

QUERY, TITLE = "the query names fewer than 2 entities", "the title names fewer than 2 entities"
ATTRIBUTES = {"colour": "red", "颜色": "红色"}
TITLES = ["a red lamp", "红色 lamp", "lamp", "gift", " ", None]


def test_keeps_the_promises_of_a_filter() -> None:
    check_filter(EntityFilter)
    check_filter(lambda: EntityFilter(1))


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.integers(1, 5), st.sampled_from(TITLES), min_size=1),
    st.dictionaries(st.integers(1, 5), st.sampled_from(TITLES), min_size=1),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.just(0)), max_size=10),
)
def test_equals_the_definition(
    make_tables: Callable[..., Tables],
    titles: dict[int, str | None],
    texts: dict[int, str | None],
    picks: list[tuple[int, int, int]],
) -> None:
    events = [(list(texts)[q % len(texts)], list(titles)[i % len(titles)], ts) for q, i, ts in picks]
    products = {item: {"title": title, "attributes": ATTRIBUTES, "category": "lamp"} for item, title in titles.items()}
    tables = make_tables(products, events, texts=texts)
    enough = {"a red lamp", "红色 lamp"}
    reasons = [
        QUERY
        if (texts[query] or " ").strip() and texts[query] not in enough
        else TITLE
        if (titles[item] or " ").strip() and titles[item] not in enough
        else None
        for query, item, _ in events
    ]
    result = EntityFilter()(tables)
    assert result.tables.searches["search_id"].to_list() == [n for n, why in enumerate(reasons) if why is None]
    expected = {why: reasons.count(why) for why in (QUERY, TITLE) if why in reasons}
    assert result.removed == ({"searches": expected} if expected else {})


def test_the_catalogue_of_the_tables_is_the_vocabulary(make_tables: Callable[..., Tables]) -> None:
    for attributes, rows in (({"brand": "Zorp"}, 1), ({}, 0)):
        tables = make_tables({1: {"category": "lamp", "attributes": attributes}}, [(1, 1, 0)], texts={1: "zorp lamp"})
        assert EntityFilter()(tables).tables.searches.height == rows


def test_at_least_one_entity_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match="min_entities must be at least 1, got 0"):
        EntityFilter(0)


def test_vague_queries_of_the_marketplace_go_and_its_photos_stay(training: Tables) -> None:
    result = EntityFilter()(training)
    validate(result.tables)
    titles = Gazetteer.fit(training.products).count(training.products["title"])
    clear = training.products.filter(titles >= 2).select("item_id")
    asked = training.searches.join(clear, on="item_id", how="semi", maintain_order="left")
    asked = asked.join(training.queries, on="query_id", how="left", maintain_order="left")
    left = result.tables.searches.join(training.queries, on="query_id", how="left", maintain_order="left")
    photos = pl.col("text").is_null()
    assert left.filter(photos)["search_id"].equals(asked.filter(photos)["search_id"])
    words = asked.filter(~photos).select("query_id", "text").unique()
    counts = dict(zip(words["query_id"], Gazetteer.fit(training.products).count(words["text"]), strict=True))
    stayed = set(left.filter(~photos)["query_id"])
    assert stayed == {query for query, count in counts.items() if count >= 2}
    assert 0.1 < 1 - len(stayed) / len(counts) < 0.5


def test_it_finds_vague_titles_not_wrong_ones(training: Tables, truth: Callable[[str], pl.DataFrame]) -> None:
    """What to expect of it: a wrong word is a named entity like any other."""
    products = training.products.join(truth("titles"), on="item_id", how="left", maintain_order="left")
    counts = Gazetteer.fit(training.products).count(products["title"]).to_numpy()
    wrong = (products["wrong"].list.len() > 0).to_numpy()
    assert counts.min() >= 1 and 0 < np.mean(counts < 2) < 0.05  # by default, few titles of the marketplace go
    assert np.mean(counts[wrong] < 5) < np.mean(counts[~wrong] < 5)
