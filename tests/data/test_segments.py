from __future__ import annotations

import polars as pl

from moonlib.data.dataset import Dataset
from moonlib.data.segments import product_segments, traffic_segments


def test_segments_by_a_loop(tiny: Dataset) -> None:
    until = tiny.splits.train_until
    events: dict[int, int] = {}
    for table in (tiny.searches, tiny.impressions):
        for item, ts in table.select("item_id", "ts").iter_rows():
            events[item] = events.get(item, 0) + (ts < until)
    known = sorted(
        events.get(item, 0)
        for item, listed in tiny.products.select("item_id", "listed_at").iter_rows()
        if listed < until
    )
    median = pl.Series(known).median()
    found = product_segments(tiny)
    assert found["item_id"].equals(tiny.products["item_id"])
    assert 0 < found["new"].sum() < len(found) and 0 < found["tail"].sum() < len(found)
    for (item, new, tail), listed in zip(found.iter_rows(), tiny.products["listed_at"], strict=True):
        assert new == (listed >= until)
        assert tail == (not new and events.get(item, 0) <= median)


def test_impressions_with_and_without_a_query_are_told_apart_where_there_are_both(tiny: Dataset) -> None:
    flags = tiny.impressions.select("query_id", *traffic_segments(tiny.impressions))
    assert 0 < flags["feed"].sum() < len(flags)
    for query, searches, feed in flags.iter_rows():
        assert searches == (query is not None) and feed == (query is None)
    for part in (flags.filter("feed"), flags.filter("searches"), flags.clear()):
        assert traffic_segments(part) == []
