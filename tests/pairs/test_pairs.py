"""Pairs know their positives, and which tasks they can serve."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.content import Task
from moonlib.pairs.pairs import Pairs, product_pairs, search_pairs, serviceable

PRODUCTS = pl.DataFrame(
    {
        "item_id": [30, 10, 20, 40],
        "title": ["mug", "lamp", None, "hat"],
        "category": ["a", "a", "b", "b"],
        "image": ["30.jpg", None, "20.jpg", "40.jpg"],
    }
)
QUERIES = pl.DataFrame({"query_id": [7, 5, 6], "text": ["red mug", None, ""], "image": [None, "5.jpg", "6.jpg"]})


def searches(rows: list[tuple[int, int, str, int]]) -> pl.DataFrame:
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    frame = pl.DataFrame(
        dict(zip(("query_id", "item_id", "action", "ts"), map(list, columns), strict=True)),
        schema={"query_id": pl.Int64, "item_id": pl.Int64, "action": pl.String, "ts": pl.Int64},
    )
    return frame.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))


def test_product_pairs() -> None:
    pairs = product_pairs(PRODUCTS)
    assert pairs.query_side == "product"
    assert pairs.query_id.tolist() == pairs.item_id.tolist() == [30, 10, 20, 40]
    assert pairs.positives.tolist() == [[30], [10], [20], [40]]
    assert pairs.ts is None
    listed = PRODUCTS.with_columns(listed_at=pl.lit(datetime(1970, 1, 2, tzinfo=UTC)))
    assert product_pairs(listed).ts.tolist() == [86_400_000_000] * 4


def test_search_pairs_by_hand() -> None:
    pairs = search_pairs(
        searches([(2, 9, "order", 5), (1, 8, "click", 1), (1, 8, "order", 4), (1, 7, "cart", 2), (1, 6, "click", 3)])
    )
    assert pairs.query_side == "query"
    assert list(zip(pairs.query_id.tolist(), pairs.item_id.tolist(), strict=True)) == [(1, 6), (1, 7), (1, 8), (2, 9)]
    # The pair's own item, then the query's others from the newest on, then padding.
    assert pairs.positives.tolist() == [[6, 8, 7], [7, 8, 6], [8, 6, 7], [9, 9, 9]]
    assert pairs.ts is not None and pairs.ts.tolist() == [3, 2, 4, 5]
    assert pairs[np.array([3, 0])].ts.tolist() == [5, 3]


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([-(2**63), 0, 1, 2**63 - 1]),
            st.sampled_from([-(2**63), -1, 0, 1, 2, 2**63 - 1]),
            st.sampled_from(["click", "order"]),
            st.integers(0, 5),
        ),
        max_size=25,
    ),
    cap=st.integers(1, 5),
    actions=st.sampled_from([("click", "order"), ("order",)]),
)
def test_search_pairs_equal_the_loop(rows: list[tuple[int, int, str, int]], cap: int, actions: tuple[str, ...]) -> None:
    latest: dict[int, dict[int, int]] = {}
    for query, item, action, ts in rows:
        if action in actions:
            items = latest.setdefault(query, {})
            items[item] = max(ts, items.get(item, ts))
    pairs = search_pairs(searches(rows), actions, max_positives=cap)
    assert pairs.query_id.dtype == pairs.item_id.dtype == pairs.positives.dtype == np.int64
    expected = [(query, item) for query in sorted(latest) for item in sorted(latest[query])]
    assert list(zip(pairs.query_id.tolist(), pairs.item_id.tolist(), strict=True)) == expected
    width = min(cap, max(map(len, latest.values()), default=1))
    for (query, item), positives in zip(expected, pairs.positives.tolist(), strict=True):
        others = sorted((-ts, other) for other, ts in latest[query].items() if other != item)
        known = [item, *(other for _, other in others[: width - 1])]
        assert positives == known + [item] * (width - len(known))


def test_serviceable_needs_every_modality_on_both_sides() -> None:
    tasks = [Task.parse(text) for text in ("image -> title", "image -> title+image", "title -> rich")]
    assert serviceable(product_pairs(PRODUCTS), tasks, PRODUCTS, QUERIES).tolist() == [
        [True, True, True],
        [False, False, True],
        [False, False, False],
        [True, True, True],
    ]
    item = np.array([30, 30, 20, 10])
    pairs = Pairs(np.array([5, 7, 6, 6]), item, item[:, None], "query")
    tasks = [Task.parse("image -> image"), Task.parse("text -> title")]
    assert serviceable(pairs, tasks, PRODUCTS, QUERIES).tolist() == [
        [True, False],
        [False, True],
        [True, False],
        [False, False],
    ]


def test_pairs_of_unknown_products_serve_nothing() -> None:
    known = PRODUCTS.filter(pl.col("item_id") != 40)
    assert serviceable(product_pairs(PRODUCTS), [Task.parse("rich -> rich")], known, QUERIES).tolist() == [
        [True], [True], [True], [False]
    ]  # fmt: skip


def test_no_task_can_be_served() -> None:
    queries = QUERIES.with_columns(image=pl.lit(None, pl.String))
    pairs = search_pairs(searches([(7, 30, "order", 1), (5, 20, "order", 1)]))
    with pytest.raises(ValueError, match="none of 2 pairs can serve 'image -> title\\+image': ") as error:
        serviceable(pairs, [Task.parse("image -> title+image")], PRODUCTS, queries)
    assert "queries are 3 queries, 0 with an image, 1 with a text" in str(error.value)
    assert "items are 4 products, 3 with an image, 3 with a text" in str(error.value)


def test_a_task_without_pairs_beside_others_is_told(caplog: pytest.LogCaptureFixture) -> None:
    queries = QUERIES.with_columns(image=pl.lit(None, pl.String))
    pairs = search_pairs(searches([(7, 30, "order", 1)]))
    with caplog.at_level(logging.WARNING):
        eligible = serviceable(pairs, [Task.parse("image -> image"), Task.parse("text -> image")], PRODUCTS, queries)
    assert eligible.tolist() == [[False, True]]
    assert "none of 1 pairs can serve 'image -> image'" in caplog.text


def test_times_are_compared_not_rows() -> None:
    late, early = datetime(2025, 1, 2, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {"query_id": [1] * 3, "item_id": [5, 6, 7], "action": ["order"] * 3, "ts": [late, early, late]}
    )
    pairs = search_pairs(frame.cast({"ts": pl.Datetime("us", "UTC")}), max_positives=2)
    assert pairs.positives.tolist() == [[5, 7], [6, 5], [7, 5]]
