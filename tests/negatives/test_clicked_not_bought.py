from __future__ import annotations

import logging
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.tables import empty
from moonlib.negatives.clicked_not_bought import ClickedNotBought
from moonlib.negatives.negative_sampler import TrainingData
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs, product_pairs, search_pairs
from moonlib.testing import check_negative_sampler, example_tables

ITEM = np.array([-(2**63), -5, 0, 1, 2, 3, 4, 2**63 - 1])
SPU = np.array([1, 1, 2, 2, 3, 4, 5, 6])
CATALOGUE = Catalogue(ITEM, SPU, np.zeros(8, dtype=np.int64))

Event = tuple[int, int, str]


def searches(events: list[Event]) -> pl.DataFrame:
    """Events of (search, item, action); searches 2 n and 2 n + 1 are of query 10 n."""
    search, item, action = zip(*events, strict=True)
    return pl.DataFrame(
        {
            "search_id": pl.Series(search, dtype=pl.Int64),
            "user_id": pl.Series(search, dtype=pl.Int64),
            "query_id": pl.Series([s // 2 * 10 for s in search], dtype=pl.Int64),
            "item_id": pl.Series([int(ITEM[i]) for i in item], dtype=pl.Int64),
            "action": action,
            "ts": [datetime(2025, 3, 1, tzinfo=UTC)] * len(events),
        }
    )


def proposals(
    events: list[Event], k: int = 8, actions: tuple[str, ...] = ("order",)
) -> dict[tuple[int, int], set[int]]:
    """Query and item → what is proposed for them."""
    table = searches(events)
    pairs = search_pairs(table, actions)
    sampler = ClickedNotBought(k)
    sampler.setup(TrainingData(pairs, CATALOGUE, table, dim=4))
    proposed = sampler.propose(pairs, 0, np.random.default_rng(0))
    assert proposed.shape == (len(pairs), k) and proposed.dtype == np.int64
    found = {}
    for query, item, row in zip(pairs.query_id.tolist(), pairs.item_id.tolist(), proposed.tolist(), strict=True):
        others = [other for other in row if other != item]
        assert len(others) == len(set(others))
        found[query, item] = set(others)
    return found


@pytest.mark.parametrize("k", [1, 4])
def test_it_keeps_the_promises_of_a_negative_sampler(k: int) -> None:
    check_negative_sampler(lambda: ClickedNotBought(k))


actions = st.sampled_from(["click", "cart", "order"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), actions), min_size=1, max_size=30))
def test_equals_the_definition(events: list[Event]) -> None:
    expected: dict[tuple[int, int], set[int]] = {}
    for search, ordered, action in events:
        if action != "order":
            continue
        query = search // 2
        bought = {SPU[item] for s, item, a in events if s // 2 == query and a == "order"}
        clicked = {item for s, item, a in events if s == search and a != "order" and SPU[item] not in bought}
        expected.setdefault((query * 10, int(ITEM[ordered])), set()).update(int(ITEM[item]) for item in clicked)
    assert proposals(events) == expected


def test_only_the_searches_that_ended_in_the_order_count() -> None:
    events = [(0, 3, "click"), (0, 4, "order"), (1, 5, "click"), (1, 6, "order"), (2, 7, "click")]
    assert proposals(events) == {(0, 2): {1}, (0, 4): {3}}


def test_what_was_clicked_and_then_ordered_is_no_negative_in_any_search_of_the_query() -> None:
    events = [(0, 4, "click"), (0, 4, "order"), (0, 5, "cart"), (0, 6, "click"), (1, 5, "order")]
    assert proposals(events) == {(0, 2): {4}, (0, 3): set()}


def test_an_order_counts_also_where_no_pair_was_made_of_it() -> None:
    """As where a filter has left it out."""
    table = searches([(0, 4, "order"), (0, 5, "click"), (0, 6, "click"), (1, 5, "order")])
    pairs = search_pairs(table.head(3), ["order"])
    sampler = ClickedNotBought(2)
    sampler.setup(TrainingData(pairs, CATALOGUE, table, dim=4))
    assert set(sampler.propose(pairs, 0, np.random.default_rng(0))[0].tolist()) == {2, 4}


def test_where_clicks_make_pairs_nothing_is_left() -> None:
    events = [(0, 4, "order"), (0, 5, "click")]
    assert proposals(events, actions=("order", "click")) == {(0, 2): set(), (0, 3): set()}


def test_k_are_drawn_alike() -> None:
    table = searches([(0, 4, "order"), (0, 5, "click"), (0, 6, "click"), (0, 7, "cart")])
    pairs = search_pairs(table, ["order"])
    sampler = ClickedNotBought(2)
    sampler.setup(TrainingData(pairs, CATALOGUE, table, dim=4))
    proposed = sampler.propose(pairs[np.zeros(9000, dtype=np.int64)], 0, np.random.default_rng(0))
    items, count = np.unique(proposed, return_counts=True)
    assert items.tolist() == [3, 4, 2**63 - 1]
    assert count / 9000 == pytest.approx(np.full(3, 2 / 3), abs=0.02)


def test_a_pair_that_no_search_ordered_gets_none() -> None:
    """Queries below, between and above those that are known, and items that the query did not lead to."""
    table = searches([(0, 4, "order"), (0, 5, "click"), (4, 4, "order"), (4, 6, "click")])
    sampler = ClickedNotBought(1)
    sampler.setup(TrainingData(search_pairs(table, ["order"]), CATALOGUE, table, dim=4))
    query, item = np.array([-7, 0, 0, 10, 20, 99]), np.array([2, 2, 1, 2, 2, 2])
    proposed = sampler.propose(Pairs(query, item, item[:, None], "query"), 0, np.random.default_rng(0))
    assert proposed[:, 0].tolist() == [2, 3, 1, 2, 4, 2]


def test_without_searches_it_says_so_and_asks_for_none(caplog: pytest.LogCaptureFixture) -> None:
    products = example_tables().products
    pairs = product_pairs(products)
    sampler = ClickedNotBought(2)
    with caplog.at_level(logging.WARNING):
        sampler.setup(TrainingData(pairs, Catalogue.of(products), empty("searches"), dim=4))
    assert "nothing to propose" in caplog.text and "actions: [order]" in caplog.text
    proposed = sampler.propose(pairs, 0, np.random.default_rng(0))
    assert np.array_equal(proposed, np.repeat(pairs.item_id[:, None], 2, axis=1))


def test_asking_for_none_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ClickedNotBought(0)
