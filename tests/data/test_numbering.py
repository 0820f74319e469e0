"""Which ids of a shop's tables are text, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from moonlib.data.ids import FAMILIES
from moonlib.data.numbering import id_doubts
from moonlib.data.tables import SCHEMAS, Tables, validate
from moonlib.testing.data import with_ranked_ids, with_text_ids
from moonlib.testing.examples import example_tables


@pytest.fixture
def raw(shop: Tables) -> Tables:
    """`shop` with text ids, and a history, as they are read from a file."""
    histories = pl.DataFrame({"user_id": [5, 6], "ts": shop.searches["ts"].head(2), "item_ids": [[0, 16777217], []]})
    return with_text_ids(validate(replace(shop, histories=histories)))


def _csv(tables: Tables) -> Tables:
    """All columns of ids as text, lists as JSON, as a CSV file has them."""
    frames = []
    for table in SCHEMAS:
        frame = tables[table]
        for column in [name for name in frame.columns if name in FAMILIES]:
            if column == "item_ids":
                texts = [
                    "[" + ", ".join(f'"{id}"' if isinstance(id, str) else str(id) for id in ids) + "]"
                    for ids in frame[column]
                ]
                frame = frame.with_columns(pl.Series(column, texts, dtype=pl.String))
            else:
                frame = frame.with_columns(pl.col(column).cast(pl.String))
        frames.append(frame)
    return Tables(*frames)


def _refused(tables: Tables, message: str, **files: str) -> None:
    with pytest.raises(ValueError) as error:
        validate(tables, files)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_numbers_are_the_ranks_of_the_ids() -> None:
    tables = example_tables()
    text, ranked = validate(with_text_ids(tables)), validate(with_ranked_ids(tables))
    assert set(text.ids) == {"item", "spu", "user", "query", "search", "merchant"} and not ranked.ids
    for table in SCHEMAS:
        assert text[table].equals(ranked[table])


def test_a_csv_file_and_a_parquet_file_say_the_same(raw: Tables, shop: Tables) -> None:
    parquet, csv = validate(raw), validate(_csv(raw))
    for table in SCHEMAS:
        assert parquet[table].equals(csv[table])
    assert parquet.ids.decode("item_id", parquet.histories["item_ids"].explode()).to_list()[:2] == [
        "item 000001",
        "item 000002",
    ]
    ints = validate(_csv(shop))
    assert not ints.ids and all(ints[table].equals(shop[table]) for table in SCHEMAS)


def test_the_order_of_rows_changes_no_number(raw: Tables) -> None:
    turned = replace(raw, products=raw.products.reverse(), searches=raw.searches.reverse())
    assert validate(turned).products.reverse().equals(validate(raw).products)


def test_what_is_numbered_stays(raw: Tables) -> None:
    once = validate(raw)
    again = validate(once)
    assert all(again[table].equals(once[table]) for table in SCHEMAS) and dict(again.ids) == dict(once.ids)


def test_each_family_by_itself(shop: Tables) -> None:
    searches = shop.searches.with_columns(search_id=pl.format("s-{}", "search_id"))
    impressions = shop.impressions.with_columns(search_id=pl.format("s-{}", "search_id"))
    tables = validate(replace(shop, searches=searches, impressions=impressions))
    assert set(tables.ids) == {"search"}
    assert tables.products.equals(shop.products)  # at both ends of int64
    assert tables.ids.decode("search_id", tables.searches["search_id"]).to_list() == ["s-100", "s-101", "s-102"]


def test_a_family_of_two_types_is_refused_naming_both_tables(shop: Tables) -> None:
    files = {"products": "products.parquet", "searches": "searches.csv"}
    odd = shop.searches.with_columns(item_id=pl.Series(["0", "A7", "0"]))
    message = (
        "searches.csv: row 2, column 'item_id': 'A7' is not an int64, and column 'item_id' of products.parquet is "
        "Int64: item ids are of one type in all tables"
    )
    _refused(replace(shop, searches=odd), message, **files)
    zeros = shop.searches.with_columns(item_id=pl.Series(["0", "007", "0"]))
    _refused(
        replace(shop, searches=zeros), "row 2, column 'item_id': '007' would lose its sign or leading zeros", **files
    )
    floats = shop.products.with_columns(pl.col("item_id").cast(pl.Float64))
    _refused(replace(shop, searches=odd, products=floats), "column 'item_id' of products.parquet is Float64", **files)


def test_json_lists_of_integers_do_not_go_with_text(raw: Tables) -> None:
    histories = raw.histories.with_columns(item_ids=pl.Series(["[1, 2]", "[]"]))
    _refused(
        replace(raw, histories=histories), "column 'item_ids' of histories is List(Int64): item ids are of one type"
    )


def test_other_ways_to_write_text(raw: Tables, shop: Tables) -> None:
    expected = validate(raw)
    categories = raw.searches.with_columns(pl.col("user_id").cast(pl.Categorical))
    arrays = raw.histories.head(1).with_columns(pl.col("item_ids").list.to_array(2))
    found = validate(replace(raw, searches=categories, histories=arrays))
    assert found.searches.equals(expected.searches) and found.histories.equals(expected.histories.head(1))
    integers = shop.searches.with_columns(pl.col("user_id").cast(pl.String).cast(pl.Categorical))
    lists = pl.DataFrame({"user_id": [5], "ts": shop.searches["ts"].head(1), "item_ids": ['["7", "-8"]']})
    found = validate(replace(shop, searches=integers, histories=lists))
    assert found.searches.equals(shop.searches) and found.histories["item_ids"].to_list() == [[7, -8]]


@pytest.mark.parametrize("value", ['["a", 1]', '["a"', '{"a": 1}', '"a"', '["a", null]'])
def test_json_that_is_no_list_of_ids(raw: Tables, value: str) -> None:
    histories = raw.histories.with_columns(item_ids=pl.Series(["[]", value]))
    _refused(replace(raw, histories=histories), "histories.csv: row 2, column 'item_ids': ", histories="histories.csv")


def test_ids_that_are_missing_blank_twice_or_unknown_are_named_as_the_shop_does(raw: Tables) -> None:
    def products(values: list[str | None]) -> Tables:
        return replace(raw, products=raw.products.with_columns(item_id=pl.Series(values)))

    names = [f"item {number:06d}" for number in (0, 3, 2, 1)]
    _refused(products([*names[:3], None]), "row 4, column 'item_id': the value is missing")
    _refused(products([*names[:3], " "]), "row 4, column 'item_id': ' ' is a blank id")
    _refused(products([*names[:3], ""]), "row 4, column 'item_id': '' is a blank id")
    _refused(products([*names[:3], names[1]]), "row 4, column 'item_id': 'item 000003' appears a second time")
    gone = raw.searches.with_columns(query_id=pl.lit("query x"))
    _refused(
        replace(raw, searches=gone),
        "searches.csv: row 1, column 'query_id': 'query x' is the query_id of no row in queries.csv",
        searches="searches.csv",
        queries="queries.csv",
    )
    padded = raw.impressions.with_columns(user_id=pl.col("user_id") + " ")
    _refused(replace(raw, impressions=padded), "'user 000000 ' is the user_id of no row in users")
    twice = raw.histories.with_columns(user_id=pl.lit("user 000001"), ts=raw.histories["ts"][0])
    _refused(
        replace(raw, histories=twice), "row 2, column 'user_id': 'user 000001' appears a second time with the same ts"
    )
    holes = raw.histories.with_columns(item_ids=pl.Series([["item 000001", None], []]))
    _refused(replace(raw, histories=holes), "holds an item_id that is missing")


def test_text_of_a_family_that_is_numbered_is_looked_up(raw: Tables) -> None:
    known = validate(raw)
    texts = known.ids.decoded(known.searches, "query_id")
    assert validate(replace(known, searches=texts)).searches.equals(known.searches)
    new = texts.with_columns(query_id=pl.lit("new"))
    _refused(replace(known, searches=new), "row 1, column 'query_id': 'new' is none of the query ids of the dataset")


def test_spaces_and_few_odd_ids_are_doubted(shop: Tables) -> None:
    ids = pl.Series([f"{number}" for number in range(18)] + ["A1 ", "A1"])
    products = pl.DataFrame({"item_id": ids}).with_columns(
        spu_id=pl.lit("1"), category=pl.lit("x"), listed_at=shop.products["listed_at"][0]
    )
    doubts = id_doubts(validate(Tables(products)).ids)
    assert doubts[0].startswith("item ids with spaces around them: 1, such as 'A1 '; they are kept")
    assert doubts[1].startswith("item ids are text, because 2 of 20 are no int64, such as 'A1'")
    assert len(doubts) == 2
