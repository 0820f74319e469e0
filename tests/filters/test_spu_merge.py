from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.tables import Tables, validate
from moonlib.filters.spu_merge import SpuMerge
from moonlib.pairs.pairs import search_pairs
from moonlib.testing import check_filter

LOWEST, HIGHEST = -(2**63), 2**63 - 1
SPU_OF = {LOWEST: 1, 2: 1, HIGHEST: 1, 4: HIGHEST, 5: HIGHEST, 6: 3}
REASON = "the query led to another item of the SPU later"

rows = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(SPU_OF)), st.integers(0, 3)), max_size=14)


def one_at_a_time(tables: Tables) -> list[int]:
    """The searches that stay, by the definition."""
    spu_of = dict(tables.products.select("item_id", "spu_id").iter_rows())
    events = list(tables.searches.select("search_id", "query_id", "item_id", "ts").iter_rows())
    stay = []
    for search, query, item, _ in events:
        rivals = [(ts, i) for _, q, i, ts in events if q == query and spu_of[i] == spu_of[item]]
        if max(rivals)[1] == item:
            stay.append(search)
    return stay


def test_keeps_the_promises_of_a_filter() -> None:
    check_filter(SpuMerge)


@settings(deadline=None, max_examples=50)
@given(events=rows)
def test_equals_the_definition(make_tables: Callable[..., Tables], events: list[tuple[int, int, int]]) -> None:
    tables = make_tables({item: {"spu_id": spu} for item, spu in SPU_OF.items()}, events)
    result = SpuMerge()(tables)
    assert result.tables.searches["search_id"].to_list() == one_at_a_time(tables)
    gone = len(events) - result.tables.searches.height
    assert result.removed == ({"searches": {REASON: gone}} if gone else {})
    assert replace(result.tables, searches=tables.searches) == tables  # nothing else was touched
    assert not SpuMerge()(result.tables).removed


def test_all_events_of_the_item_stay_and_other_queries_keep_their_own(make_tables: Callable[..., Tables]) -> None:
    products = {item: {"spu_id": spu} for item, spu in SPU_OF.items()}
    tables = make_tables(products, [(7, 4, 0), (7, 5, 1), (7, 4, 2), (7, 6, 0), (8, 5, 0)])
    left = SpuMerge()(tables).tables.searches
    assert left.select("query_id", "item_id").rows() == [(7, 4), (7, 4), (7, 6), (8, 5)]


def test_true_variants_and_duplicates_of_the_marketplace_become_one(
    training: Tables, truth: Callable[[str], pl.DataFrame]
) -> None:
    result = SpuMerge()(training)
    validate(result.tables)
    spu_of = dict(truth("products").select("item_id", "spu_id").iter_rows())
    before, after = defaultdict(set), defaultdict(set)
    for table, groups in ((training, before), (result.tables, after)):
        for query, item in table.searches.select("query_id", "item_id").drop_nulls("query_id").iter_rows():
            groups[query, spu_of[item]].add(item)
    assert before.keys() == after.keys()  # no product is lost to a query
    assert all(len(items) == 1 for items in after.values())
    assert all(after[group] == items for group, items in before.items() if len(items) == 1)
    # Both kinds of sameness occur: another merchant's listing, and another variant.
    original = dict(truth("duplicates").select("item_id", "original_id").iter_rows())
    relisted = [group for group, items in before.items() if any(original.get(item) in items for item in items)]
    several = [group for group, items in before.items() if len(items) > 1]
    assert 20 < len(relisted) < len(several)
    assert len(search_pairs(result.tables.searches)) == len(before)
