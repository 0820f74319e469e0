from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from moonlib.metrics.ctr import ctr_metrics, segment_table

METRICS = ["auc", "gauc", "logloss", "ne", "pcoc", "ece"]


def predictions(n: int = 300) -> pl.DataFrame:
    """Predictions of three categories and a fourth without a click; a few rows have no category."""
    rng = np.random.default_rng(0)
    category = rng.choice(["Vase", "Mug", "Lamp", "Rug"], n)
    probability = rng.random(n)
    return pl.DataFrame(
        {
            "probability": probability,
            "clicked": (rng.random(n) < probability) & (category != "Rug"),
            "user_id": rng.integers(40, size=n) + 2**60,
            "category": category,
        }
    ).with_columns(category=pl.when(pl.int_range(n) >= 9).then("category"))


def test_a_segment_has_the_metrics_of_its_rows() -> None:
    table, rows = segment_table(predictions(), "category"), predictions()
    assert table.columns == ["category", "rows", "clicks", "base_rate", *METRICS]
    assert table["category"].to_list() == [None, "Lamp", "Mug", "Rug", "Vase"]
    for name in ("Lamp", "Mug", "Vase"):
        part = rows.filter(category=name)
        found = table.row(by_predicate=pl.col("category") == name, named=True)
        assert (found["rows"], found["clicks"]) == (len(part), part["clicked"].sum())
        assert found["base_rate"] == pytest.approx(found["clicks"] / found["rows"])
        assert {key: found[key] for key in METRICS} == ctr_metrics(part)


def test_no_row_is_left_out() -> None:
    """Neither those without a segment nor those of a segment without a click."""
    table = segment_table(predictions(), "category")
    assert table["rows"].sum() == 300
    assert table.filter(pl.col("category").is_null())["rows"].to_list() == [9]
    rug = table.row(by_predicate=pl.col("category") == "Rug", named=True)
    assert (rug["clicks"], rug["base_rate"]) == (0, 0)
    assert [name for name in METRICS if rug[name] is None] == ["auc", "gauc", "ne", "pcoc"]
    assert rug["logloss"] > 0


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = predictions().sample(fraction=1, shuffle=True, seed=1)
    assert_frame_equal(segment_table(shuffled, "category"), segment_table(predictions(), "category"))


@pytest.mark.parametrize("by", ["user_id", "clicked"])
def test_a_column_of_the_predictions_can_be_the_segment(by: str) -> None:
    table = segment_table(predictions(), by)
    assert table[by].to_list() == sorted(predictions()[by].unique())


def test_no_rows_are_an_empty_table() -> None:
    empty, full = (segment_table(rows, "category") for rows in (predictions().clear(), predictions()))
    assert empty.schema == full.schema
    assert not len(empty)
    assert all(math.isnan(value) for value in ctr_metrics(predictions().clear()).values())


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no column 'brand' to part them by; they have .*'category'"):
        segment_table(predictions(), "brand")
    with pytest.raises(ValueError, match="predictions need probability, clicked, user_id; there is no user_id"):
        ctr_metrics(predictions().drop("user_id"))
    with pytest.raises(ValueError, match="9 of 300 values of clicked are null"):
        ctr_metrics(predictions().with_columns(clicked=pl.when(pl.int_range(300) >= 9).then("clicked")))
    with pytest.raises(ValueError, match="users must be int64, got torch"):
        ctr_metrics(predictions().with_columns(user_id=pl.lit(3, dtype=pl.Int32)))
