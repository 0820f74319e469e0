"""benchmarks/weeks.py changes products from one week to the next."""

from __future__ import annotations

import runpy
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/weeks.py"


def test_a_product_that_changes_twice_goes_on_from_the_first_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = runpy.run_path(str(SCRIPT))
    shop_class = loaded["Shop"]
    monkeypatch.setitem(shop_class.week.__globals__, "CHANGED", 1.0)
    starts = datetime(2025, 1, 1)
    n = 30
    products = pl.DataFrame(
        {
            "item_id": range(n),
            "listed_at": [starts] * n,
            "price": [100.0] * n,
            "title": ["mug"] * n,
            "image": pl.Series([None] * n, dtype=pl.String),
        }
    )
    events = pl.DataFrame({"ts": [starts], "query_id": [0]})
    tables = {"products": products, "queries": pl.DataFrame({"query_id": [0]}), "users": pl.DataFrame({"user_id": [0]})}
    shop = shop_class(tables | {"searches": events, "impressions": events}, tmp_path, starts, 21)
    shop.week(1, 7, None, 0)
    weeks = [pl.read_parquet(shop.week(i, 7 * i, 7 * (i - 1), 0) / "products.parquet") for i in (2, 3)]
    assert [week.height for week in weeks] == [n, n]
    before, after = weeks
    changes = ((after["price"] / before["price"]).round(6), after["title"].str.count_matches("new season"))
    assert set(changes[0]) == {0.9, 1.0} and changes[1].max() == 2
    assert (before["price"] < 100).any() and (after.filter(before["price"] < 100)["price"] <= 90).all()
