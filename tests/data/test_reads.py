"""Declarations of what is read: their union, and their rows."""

from __future__ import annotations

import pytest

from moonlib.data.content import Modalities
from moonlib.data.reads import EVERYTHING, Reads, TableReads


def test_a_union_has_the_columns_the_pictures_and_the_later_rows_of_both() -> None:
    early = Reads.of(products=["title"], moments=["train_until"]).before("behaviour_until")
    late = Reads.content("products", [Modalities.parse("image")]).before("train_until")
    both = early | late
    assert both == late | early
    columns = frozenset({"item_id", "title", "image", "box"})
    assert both.tables == {"products": TableReads(columns, pictures=True, until="train_until")}
    assert (both | Reads.of(products=[])).tables["products"].until is None
    assert (both | Reads({"products": TableReads()})).tables["products"].columns is None
    assert (both | Reads.of(truth=True)).truth and (both | EVERYTHING).whole and not both.whole
    assert (
        both.before("valid_until") == both and both.before("behaviour_until").tables["products"].until != "train_until"
    )


def test_what_rows_are_told_apart_and_dated_by_is_always_read() -> None:
    reads = Reads.of(searches=[], users=[]) | Reads.named(["impressions.position", "no.such", "word"])
    assert {name: sorted(table.columns or ()) for name, table in reads.tables.items()} == {
        "searches": ["search_id", "ts"],
        "users": ["user_id"],
        "impressions": ["position", "search_id", "ts"],
    }
    assert reads.includes("impressions", "position") and not reads.includes("products", "price")
    assert EVERYTHING.includes("products", "price")
    with pytest.raises(KeyError, match="no table 'product'; the tables are products, "):
        Reads.of(product=["title"])


def test_a_table_is_read_as_declared_or_whole_or_not_at_all() -> None:
    reads = Reads.of(products=["title"])
    assert reads.table("products") == reads.tables["products"]
    assert reads.table("queries") is None
    assert EVERYTHING.table("queries") == (reads | EVERYTHING).table("products") == TableReads(pictures=True)


def test_content_is_what_the_modalities_show() -> None:
    def columns(table: str, words: str) -> list[str]:
        return sorted(Reads.content(table, [Modalities.parse(words)]).tables[table].columns or ())

    assert columns("products", "title") == ["item_id", "title"]
    assert columns("products", "rich") == ["attributes", "category", "item_id", "title"]
    assert columns("products", "image") == ["box", "image", "item_id"]
    assert columns("queries", "rich+image") == ["box", "image", "query_id", "text"]
    assert not Reads.content("products", [Modalities.parse("title")]).tables["products"].pictures
