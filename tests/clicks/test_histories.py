"""Histories agree with a slow oracle and never see the future or their own search."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.clicks.histories import Histories

LOW, HIGH = -(2**63), 2**63 - 1
ids = st.sampled_from([LOW, LOW + 1, -1, 0, 1, 2, 3, HIGH - 1, HIGH])
times = st.integers(-3, 3) | st.sampled_from([-(2**62), 2**62])
Event = tuple[int, int, int, int]


def frame(events: list[Event]) -> pl.DataFrame:
    schema = {"search_id": pl.Int64, "user_id": pl.Int64, "item_id": pl.Int64, "ts": pl.Datetime("us", "UTC")}
    return pl.DataFrame(
        {name: pl.Series([event[i] for event in events], dtype=pl.Int64) for i, name in enumerate(schema)}
    ).cast({"ts": schema["ts"]})


def oracle(events: list[Event], user: int, ts: int, search: int, length: int) -> list[int]:
    first: dict[tuple[int, int], int] = {}
    for s, u, item, when in events:
        if u == user and s != search:
            first[s, item] = min(when, first.get((s, item), when))
    past = [(when, s, item) for (s, item), when in first.items() if when < ts]
    return [item for _, _, item in sorted(past, reverse=True)][:length]


@settings(deadline=None)
@given(
    events=st.lists(st.tuples(ids, ids, ids, times), max_size=25),
    asked=st.lists(st.tuples(ids, times, ids), min_size=1, max_size=8),
    length=st.integers(0, 6),
)
def test_equals_the_oracle(events: list[Event], asked: list[tuple[int, int, int]], length: int) -> None:
    # Events and questions share users and searches often, so that the exclusions bite.
    user, ts, search = (np.array(column, dtype=np.int64) for column in zip(*asked, strict=True))
    found, mask = Histories(frame(events)).before(user, ts, search, length)
    assert found.shape == mask.shape == (len(asked), length)
    assert found.dtype == np.int64
    assert (found[~mask] == 0).all()
    for row, question in enumerate(asked):
        expected = oracle(events, *question, length)
        assert mask[row].tolist() == [True] * len(expected) + [False] * (length - len(expected))
        assert found[row, : len(expected)].tolist() == expected


def test_one_behaviour_per_search_and_item_at_its_first_time() -> None:
    searches = frame([(10, 1, 5, 100), (10, 1, 5, 300), (11, 1, 6, 200), (12, 1, 5, 50)])
    found, mask = Histories(searches).before(np.array([1]), np.array([301]), np.array([99]), 5)
    assert found[0, mask[0]].tolist() == [6, 5, 5]


def test_a_full_window_in_spite_of_a_long_search_of_its_own() -> None:
    own = [(10, 1, item, 100 + item) for item in range(50)]
    older = [(9, 1, 1000 + item, item) for item in range(4)]
    found, mask = Histories(frame(own + older)).before(np.array([1]), np.array([200]), np.array([10]), 3)
    assert found.tolist() == [[1003, 1002, 1001]] and mask.all()


def test_queries_as_behaviours() -> None:
    searches = frame([(10, 1, 5, 100), (11, 1, 6, 200)]).with_columns(query_id=pl.Series([70, HIGH]))
    found, _ = Histories(searches, key="query_id").before(np.array([1]), np.array([500]), np.array([0]), 2)
    assert found.tolist() == [[HIGH, 70]]


@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_other_time_units_are_brought_to_microseconds(unit: str) -> None:
    searches = frame([(10, 1, 5, 1_000_000)]).with_columns(pl.col("ts").dt.cast_time_unit(unit))
    histories = Histories(searches)
    for ts, expected in ((1_000_000, False), (1_000_001, True)):
        _, mask = histories.before(np.array([1]), np.array([ts]), np.array([0]), 1)
        assert mask.item() is expected
