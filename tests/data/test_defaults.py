"""Columns that a shop's tables lack: what stands in their place, and what is said of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from moonlib.data.build import build
from moonlib.data.check import check
from moonlib.data.dataset import Dataset
from moonlib.data.defaults import ABSENT, BEFORE_EVERYTHING, consequences, with_spus
from moonlib.data.evaluation import evaluation_searches
from moonlib.data.segments import product_segments
from moonlib.data.splits import Splits
from moonlib.data.tables import SCHEMAS, Tables, validate

OPTIONAL = [("products", "spu_id"), ("products", "category"), ("products", "listed_at"), ("searches", "query_id")]


def without(shop: Tables, table: str, column: str) -> Tables:
    return replace(shop, **{table: shop[table].drop(column)})


def with_gap(shop: Tables, table: str, column: str, row: int) -> Tables:
    frame = shop[table]
    gap = pl.when(pl.int_range(pl.len()) != row).then(column).alias(column)
    return replace(shop, **{table: frame.with_columns(gap)})


def test_an_item_without_spu_is_its_own(shop: Tables) -> None:
    absent = validate(without(shop, "products", "spu_id")).products
    assert absent["spu_id"].to_list() == shop.products["item_id"].to_list()
    gap = validate(with_gap(shop, "products", "spu_id", 2)).products
    assert gap["spu_id"].to_list() == [1, 1, 16777217, 3]


@pytest.mark.parametrize(
    ("items", "spus", "expected"),
    [
        (["A-1", "A-2"], ["A", None], ["A", "A-2"]),
        ([1, 2], ["A", None], ["A", "2"]),
        (["007", "8"], [5, None], ["5", "8"]),
        ([1, 2], [None, None], [1, 2]),
        (["x", "y"], None, ["x", "y"]),
    ],
)
def test_ids_are_filled_as_they_were_read(
    items: list[object], spus: list[object] | None, expected: list[object]
) -> None:
    """Before anything is cast, so that text ids are no trouble."""
    products = pl.DataFrame({"item_id": items} | ({} if spus is None else {"spu_id": spus}))
    assert with_spus(products, "products.csv")["spu_id"].to_list() == expected


def test_products_with_all_their_spus_are_left_alone(shop: Tables) -> None:
    assert with_spus(shop.products, "products.csv") is shop.products


def test_full_range_ids_are_filled_exactly() -> None:
    products = pl.DataFrame({"item_id": [2**63 - 1, -(2**63)], "spu_id": pl.Series([7, None], dtype=pl.Int32)})
    assert with_spus(products, "products")["spu_id"].to_list() == [7, -(2**63)]
    wide = pl.DataFrame({"item_id": pl.Series([2**64 - 1, 1], dtype=pl.UInt64), "spu_id": [None, 1]})
    with pytest.raises(ValueError, match="products: row 1, column 'item_id': 18446744073709551615 is not an int64"):
        with_spus(wide, "products")


def test_a_product_without_a_date_was_listed_before_everything(shop: Tables, splits: Splits) -> None:
    for tables in (without(shop, "products", "listed_at"), with_gap(shop, "products", "listed_at", 3)):
        products = validate(tables).products
        assert products["listed_at"][3] == BEFORE_EVERYTHING == datetime(1, 1, 1, tzinfo=UTC)
        assert splits.known(products).height == 4
    absent = validate(without(shop, "products", "listed_at")).products
    assert Splits.all_training(absent).known(absent).height == 4


def test_what_has_no_category_and_no_query_stays_so(shop: Tables) -> None:
    assert validate(without(shop, "products", "category")).products["category"].null_count() == 4
    assert validate(with_gap(shop, "products", "category", 1)).products["category"][1] is None
    for table in ("searches", "impressions"):
        found = validate(without(shop, table, "query_id"))[table]
        assert found["query_id"].dtype == pl.Int64 and found["query_id"].null_count() == found.height
        assert found.columns == shop[table].columns


def folder_of(tables: dict[str, pl.DataFrame], path: Path) -> Path:
    path.mkdir()
    for table, frame in tables.items():
        frame.write_parquet(path / f"{table}.parquet")
    return path


def bare(shop: Tables) -> dict[str, pl.DataFrame]:
    """The shop as a feed and a log of clicks would have it."""
    products = shop.products.drop("spu_id", "category", "listed_at", "image", "box")
    events = {table: shop[table].drop("query_id") for table in ("searches", "impressions")}
    return {"products": products, **events}


def test_what_follows_is_said_at_build(
    shop: Tables, splits: Splits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "moonlib"):
        build(folder_of(bare(shop), tmp_path / "tables"), None, tmp_path / "out", splits=splits)
    for (table, column), follows in ABSENT.items():
        assert f"{table}.parquet has no {column}: {follows}" in caplog.messages
    dataset = Dataset(tmp_path / "out")
    assert dataset.products["category"].null_count() == 4
    assert dataset.impressions["query_id"].null_count() == 4
    assert not product_segments(dataset)["new"].any()
    assert evaluation_searches(dataset, "test").is_empty()
    assert check(tmp_path / "out").ok


def test_a_column_that_may_be_the_absent_one_is_named(
    tmp_path: Path, shop: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    products = shop.products.select("item_id", "title", item_group_id="spu_id", product_type="category")
    with caplog.at_level(logging.INFO, "moonlib"):
        build(folder_of({"products": products}, tmp_path / "tables"), None, tmp_path / "out")
    for near, column in (("item_group_id", "spu_id"), ("product_type", "category")):
        assert f"products.parquet has {near!r}: if it is the {column}, call it so, or build with --map" in caplog.text
    with pytest.raises(ValueError, match=r"column 'item_id' is missing \(it has id\).*moonlib data map prints which"):
        build(folder_of({"products": pl.DataFrame({"id": [1]})}, tmp_path / "other"), None, tmp_path / "o")


def test_rows_with_gaps_are_counted(shop: Tables) -> None:
    tables = {table: shop[table] for table in SCHEMAS}
    files = {table: f"{table}.csv" for table in SCHEMAS}
    assert consequences(tables, files) == []
    for table, column in [*OPTIONAL, ("impressions", "query_id")]:
        gap = with_gap(shop, table, column, 0)
        (line,) = consequences({name: gap[name] for name in SCHEMAS}, files)
        assert line.startswith(f"{table}.csv: rows without {column}: 1 of {shop[table].height}; ")
        (line,) = consequences({**tables, table: shop[table].with_columns(pl.lit(None).alias(column))}, files)
        assert line == f"{table}.csv has no {column} in any row: {ABSENT[table, column]}"


def test_an_item_that_is_called_as_an_spu_of_others_is_told() -> None:
    products = pl.DataFrame(
        {"item_id": ["A", "A-1", "B"], "spu_id": [None, "A", None], "category": ["c"] * 3, "listed_at": ["2025"] * 3}
    )
    _, line = consequences({"products": products}, {"products": "feed.csv"})
    assert line.startswith(
        "feed.csv: items without spu_id whose item_id is the spu_id of other items: 1 (A); they count"
    )


def test_a_value_that_is_no_id_is_still_refused(shop: Tables) -> None:
    products = shop.products.with_columns(spu_id=pl.Series([1.0, None, 2.5, 3.0]))
    with pytest.raises(ValueError, match="products: column 'spu_id': Float64 is not an int64"):
        validate(Tables(products))
    events = shop.impressions.with_columns(query_id=pl.Series([20, None, 20, 99]))
    with pytest.raises(
        ValueError, match="impressions: row 4, column 'query_id': 99 is the query_id of no row in queries"
    ):
        validate(replace(shop, impressions=events))
