"""Category paths of feeds."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.categories import column_with_levels, read_levels, with_levels


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Home > Kitchen > Mug", "Home/Kitchen/Mug"),
        ("Home>Kitchen>Mug", "Home/Kitchen/Mug"),
        ("Home › Kitchen›Mug", "Home/Kitchen/Mug"),
        ("Apparel & Accessories > Clothing > Shirts/Tops", "Apparel & Accessories/Clothing/Shirts／Tops"),
        ("Home > > Mug >", "Home/Mug"),
        (" > ", None),
        ("家居 > 杯子", "家居/杯子"),
        ("Home/Kitchen", "Home/Kitchen"),
        ("Home / Kitchen", "Home / Kitchen"),
        (" Home", " Home"),
        ("", ""),
        (None, None),
    ],
)
def test_a_path_is_read_by_itself(given: str | None, read: str | None) -> None:
    frame = pl.DataFrame({"category": [given]}, schema={"category": pl.String})
    assert frame.select(with_levels(pl.col("category"))).item() == read
    assert column_with_levels(frame["category"]).to_list() == [read]


@given(st.lists(st.none() | st.text("a/> ›é", max_size=6)), st.integers(0, 3))
def test_a_column_is_read_as_each_of_its_paths(paths: list[str | None], start: int) -> None:
    column = pl.Series("category", paths, dtype=pl.String)[start:]
    expected = column.to_frame().select(with_levels(pl.col("category"))).to_series()
    assert column_with_levels(column).equals(expected, null_equal=True)


def test_what_was_read_how_is_told() -> None:
    products = pl.DataFrame({"item_id": [1, 2, 3], "category": ["A > B", "A/B", "A > C/D"]})
    found, lines = read_levels(products, "feed.csv")
    assert found["category"].to_list() == ["A/B", "A/B", "A/C／D"]
    assert lines == [
        "feed.csv: column 'category': 2 paths with > or › between their levels were read as with /: 'A > B' is 'A/B'",
        "feed.csv: column 'category': in 1 of these a / stood within a level; it is written ／ there: 'A > C/D' is "
        "'A/C／D'",
        "feed.csv: column 'category': 1 other paths have / and neither > nor ›; there / separates levels, such as in "
        "'A/B'",
    ]


def test_other_paths_stay_as_they_are() -> None:
    for category in (["A/B", None], [None, None], pl.Series(["A / B", "x"], dtype=pl.Categorical), [1, 2]):
        products = pl.DataFrame({"category": category})
        found, lines = read_levels(products, "feed.csv")
        assert found is products and not lines
    assert read_levels(pl.DataFrame({"item_id": [1]}), "feed.csv")[1] == []
