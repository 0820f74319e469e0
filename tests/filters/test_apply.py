from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from moonlib.data.tables import OPTIONAL_TABLES, SCHEMAS, Tables, validate
from moonlib.filters.apply import apply_filters
from moonlib.filters.category_rebalance import CategoryRebalance
from moonlib.filters.entity_filter import EntityFilter
from moonlib.filters.filter import Encoded, Filter, Filtered, without_products, without_searches
from moonlib.filters.similarity_dedup import SimilarityDedup
from moonlib.filters.spu_merge import SpuMerge
from moonlib.testing import example_representations, example_tables


class Without(Filter):
    """Removes some products and what names them."""

    def __init__(self, *item_ids: int) -> None:
        self.item_ids = item_ids

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        return without_products(tables, pl.Series(self.item_ids, dtype=pl.Int64), "unwanted")


class Careless(Filter):
    """Removes a search in silence."""

    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        return Filtered(replace(tables, searches=tables.searches[1:]), {})


def encoder(calls: list[int]) -> Callable[[], Encoded]:
    def encoded() -> Encoded:
        calls.append(1)
        tables = example_tables()
        return Encoded(*example_representations(tables.products["item_id"], tables.queries["query_id"])["random"])

    return encoded


def test_each_filter_sees_what_the_one_before_left_and_reports_it() -> None:
    tables = example_tables()
    item = int(tables.searches["item_id"][0])
    filters = [Without(item), SpuMerge(), EntityFilter(1), CategoryRebalance()]
    left, reports = apply_filters(filters, tables)
    expected = tables
    for filter, report in zip(filters, reports, strict=True):
        result = filter(expected)
        # Histories are not told of where there are none.
        assert list(report["tables"]) == [table for table in SCHEMAS if table not in OPTIONAL_TABLES]
        for table in report["tables"]:
            assert report["tables"][table] == {
                "in": expected[table].height,
                "out": result.tables[table].height,
                "removed": dict(result.removed.get(table, {})),
            }
        expected = result.tables
    assert all(left[table].equals(expected[table]) for table in SCHEMAS)
    validate(left)
    assert reports[0]["tables"]["products"]["removed"] == {"unwanted": 1}
    assert reports[1]["filter"] == "moonlib.filters.spu_merge.SpuMerge"
    assert json.loads(json.dumps(reports)) == reports


def test_no_filter_changes_nothing() -> None:
    tables = example_tables()
    assert apply_filters([], tables) == (tables, [])


def test_representations_are_made_once_and_only_where_they_are_read() -> None:
    calls: list[int] = []
    apply_filters([SpuMerge(), EntityFilter(1)], example_tables(), encoder(calls))
    assert not calls
    _, reports = apply_filters(
        [SimilarityDedup(keep=2), SpuMerge(), SimilarityDedup()], example_tables(), encoder(calls)
    )
    assert len(calls) == 1
    assert reports[2]["tables"]["searches"]["removed"]
    with pytest.raises(ValueError, match=r"SimilarityDedup reads the representations of an encoder, and there is none"):
        apply_filters([SimilarityDedup()], example_tables())


def test_the_filter_that_removes_the_last_search_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"EntityFilter removed all 160 searches that the filters before it had left "
        r"\(the query names fewer than 9 entities: 80; the title names fewer than 9 entities: \d+\), so there is "
        "nothing to train on: loosen its arguments",
    ):
        apply_filters([Without(), EntityFilter(9), SpuMerge()], with_titles(example_tables()))


def with_titles(tables: Tables) -> Tables:
    titled = tables.products.with_columns(pl.col("title").fill_null("a thing"))
    return replace(tables, products=titled)


def test_tables_without_searches_pass(make_tables: Callable[..., Tables]) -> None:
    _, reports = apply_filters([SpuMerge(), CategoryRebalance(), EntityFilter()], make_tables({1: {}}, []))
    assert [report["tables"]["searches"] for report in reports] == [{"in": 0, "out": 0, "removed": {}}] * 3


def test_no_row_is_dropped_in_silence() -> None:
    with pytest.raises(ValueError, match=r"Careless: searches: 160 rows in, 159 out, but it says it removed nothing"):
        apply_filters([Careless()], example_tables())


def test_reasons_are_counted_apart(make_tables: Callable[..., Tables]) -> None:
    tables = make_tables({1: {}}, [(1, 1, second) for second in range(5)])
    result = without_searches(tables, pl.Series(["old", None, "odd", "old", None]))
    assert result.removed == {"searches": {"odd": 1, "old": 2}}
    assert result.tables.searches["search_id"].to_list() == [1, 4]
