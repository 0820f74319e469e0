"""What is said of tables, and what is doubted in them."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from moonlib.data.table_contents import SHARED_ROWS, describe, doubts
from moonlib.data.tables import Tables, near_misses, validate


def _titles(shop: Tables, titles: list[str | None]) -> pl.DataFrame:
    row = shop.products.head(1)
    products = pl.concat([row.with_columns(item_id=pl.lit(i), title=pl.lit(t)) for i, t in enumerate(titles)])
    return validate(Tables(products)).products


def test_only_rows_with_something_are_counted(shop: Tables) -> None:
    products = shop.products.with_columns(title=pl.Series(["a", " ", "", None]))
    words = "4 rows, 3 with an image, 1 with a title, 2 with a price, 2 with attributes; columns of your own: shelf"
    assert describe(products, "products") == words
    assert describe(shop.searches, "searches") == "3 rows"


def test_good_tables_leave_no_doubt(shop: Tables) -> None:
    assert [line for table in ("products", "queries", "searches") for line in doubts(shop[table], table)] == []


@pytest.mark.parametrize("text", ["\\N", "nan", "NaN", "NULL", "None", " null ", "N/A", "<NA>", "undefined"])
def test_text_by_which_programs_say_that_there_is_none(shop: Tables, text: str) -> None:
    (line,) = doubts(_titles(shop, ["a", text, text]), "products")
    assert line.startswith(f"products: column 'title': values that say that there is no text: 2, such as {text!r}")


def test_every_text_is_looked_at(shop: Tables) -> None:
    products = shop.products.with_columns(
        category=pl.lit("NULL"),
        shelf=pl.Series(["None", "x", "x", "x"]),
        attributes=pl.Series([[{"key": "colour", "value": "nan"}]] * 4),
    )
    lines = doubts(validate(Tables(products)).products, "products")
    assert [line.partition(", such")[0] for line in lines] == [
        "products: column 'category': values that say that there is no text: 4",
        "products: column 'attributes': values that say that there is no text: 4",
        "products: column 'shelf': values that say that there is no text: 1",
    ]


def test_escapes_that_were_not_undone_and_characters_that_were_lost(shop: Tables) -> None:
    escaped, lost = doubts(
        _titles(shop, ['a \\"quoted\\" title', "caf\N{REPLACEMENT CHARACTER}", "Noneteen"]), "products"
    )
    assert "values that hold a quote with a backslash before it: 1, such as" in escaped
    assert "values that hold a character that was lost: 1, such as 'caf\N{REPLACEMENT CHARACTER}'; save the" in lost


def test_a_title_that_very_many_rows_share(shop: Tables) -> None:
    others: list[str | None] = [f"title {i}" for i in range(19 * SHARED_ROWS)]
    shared: list[str | None] = ["coming soon"] * SHARED_ROWS
    assert doubts(_titles(shop, others + shared), "products") == [
        f"products: column 'title': {SHARED_ROWS} rows have the same text, 'coming soon'; "
        "give each its own, or leave the field empty"
    ]
    assert doubts(_titles(shop, others + shared[1:]), "products") == []
    assert doubts(_titles(shop, [*others, "one more", *shared]), "products") == []


def test_a_near_miss_is_doubted_where_a_dataset_has_it(shop: Tables) -> None:
    products = shop.products.rename({"title": "product_title"})
    lines = doubts(validate(replace(shop, products=products)).products, "products")
    assert lines == ["products: no value in column 'title'; did you mean 'product_title'? If so, rename it"]


@pytest.mark.parametrize(
    "column", ["subtitle", "list_price", "shelf", "image_url", "brand", "colour", "spu", "name", "sku_count"]
)
def test_a_column_of_ones_own_is_no_near_miss(column: str) -> None:
    required = ["item_id", "spu_id", "category", "listed_at"]
    assert near_misses([*required, column], "products") == {}
