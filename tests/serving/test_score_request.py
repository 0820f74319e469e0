"""A request to score, of a shop whose ids are text."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moonlib.data.ids import IdMap, ShopIds
from moonlib.serving.score_request import NOBODY, BadRequest, ScoreRequest

IDS = ShopIds(
    {
        "item": IdMap.of([pl.Series(["A1", "B7"])]),
        "search": IdMap.of([pl.Series(["s1", "s2"])]),
        "user": IdMap.of([pl.Series(["u1"])]),
        "query": IdMap.of([pl.Series(["q1"])]),
    }
)
EVENT = {"item_id": "B7", "ts": "2025-01-01T00:00:00Z"}


def test_a_text_has_one_number_wherever_it_stands_and_no_two_have_the_same() -> None:
    history = [EVENT | {"item_id": item} for item in ("new", "newer", "B7")]
    request = ScoreRequest({"candidates": [{"item_id": "newer"}, {"item_id": "A1"}], "history": history}, IDS)
    newer, known = request.items.tolist()
    new, again, other = request.events["item_id"].to_list()
    assert (known, other, newer) == (0, 1, again)
    assert len({newer, new, NOBODY}) == 3 and newer < 0 and new < 0
    assert request.user_id.tolist() == [NOBODY]
    assert request.names.to_list() == ["newer", "A1"]


def test_searches_are_told_apart_in_the_order_of_their_ids() -> None:
    searches = ("s2", None, "s1", "s2")
    history = [EVENT | ({} if search is None else {"search_id": search}) for search in searches]
    found, present, without = ScoreRequest({"history": history, "search_id": "s1"}, IDS).searches
    assert found[0] == found[3] and found[2] < found[0] and present == found[2]
    assert without == 1 and found[1] not in found[[0, 2, 3]]
    assert ScoreRequest({"history": history}, IDS).searches[1] == -1


def test_numbers_are_refused_where_ids_are_text() -> None:
    request = ScoreRequest({"candidates": [{"item_id": "A1"}, {"item_id": 7}]}, IDS)
    with pytest.raises(BadRequest, match=r"candidates\.1\.item_id: expected text, as the run's data has it, got 7"):
        _ = request.items
    with pytest.raises(BadRequest, match=r"request\.search_id: expected text"):
        _ = ScoreRequest({"search_id": 7}, IDS).searches
    with pytest.raises(BadRequest, match=r"candidates\.item_id: is no valid text"):
        _ = ScoreRequest({"candidates": [{"item_id": "\ud800"}]}, IDS).items


def test_queries_and_moments() -> None:
    history = [EVENT | {"query_id": "q1", "ts": "2025-01-01T02:00:00+02:00"}, EVENT | {"query": "mug"}, EVENT]
    events = ScoreRequest({"history": history}, IDS).events
    assert events["query_id"].to_list() == [0, None, None] and events["query"].to_list() == [None, "mug", None]
    assert events["ts"].n_unique() == 1
    assert ScoreRequest({"query": {"query_id": "q1"}}, IDS).query_id == 0
    np.testing.assert_array_equal(ScoreRequest({"candidates": []}, IDS).items, np.zeros(0))
