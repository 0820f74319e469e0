from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.center.where import BadFilter, Where

PRODUCTS = pl.DataFrame(
    {
        "category": ["Shoes", "Shoes/Boots", "Shoes/Boots/Rubber", "Shoestrings", "Bags", None],
        "price": [10.0, 49.99, 50.0, math.nan, None, 0.0],
        "merchant_id": [3, 7, 2**53 + 1, 2**53, -(2**63), None],
        "in_stock": [True, False, None, True, True, False],
        "brand": ["Ka", "ka", "", None, "Ka", "Ö"],
    }
)


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"category": "Shoes"}, [0, 1, 2]),
        ({"category": "Shoes > Boots"}, [1, 2]),
        ({"category": "Shoes/Boots/"}, [1, 2]),
        ({"category": ["Bags", "Shoes > Boots > Rubber"]}, [2, 4]),
        ({"category": "Shoe"}, []),
        ({"category": []}, []),
        ({"price": {"gte": 10, "lt": 50}}, [0, 1]),
        ({"price": {"gt": 10, "lte": 50.0}}, [1, 2]),
        ({"price": {"gte": -1}}, [0, 1, 2, 5]),
        ({"price": 50}, [2]),
        ({"merchant_id": [3, 7]}, [0, 1]),
        ({"merchant_id": 7.0}, [1]),
        ({"merchant_id": 7.5}, []),
        ({"merchant_id": {"gt": 6.5, "lt": 7.5}}, [1]),
        ({"merchant_id": {"gte": 2**53 + 1}}, [2]),
        ({"merchant_id": 2**53}, [3]),
        ({"merchant_id": -(2**63)}, [4]),
        ({"merchant_id": 2**70}, []),
        ({"merchant_id": {"lt": 2**70}}, [0, 1, 2, 3, 4]),
        ({"merchant_id": {"gt": 1e300}}, []),
        ({"in_stock": True}, [0, 3, 4]),
        ({"in_stock": [True, False]}, [0, 1, 3, 4, 5]),
        ({"brand": "Ka"}, [0, 4]),
        ({"brand": ""}, [2]),
        ({"category": "Shoes", "price": {"lt": 50}, "in_stock": True}, [0]),
    ],
)
def test_a_filter_lets_through_what_fulfils_all_of_it(conditions: dict[str, Any], rows: list[int]) -> None:
    assert np.flatnonzero(Where(conditions).mask(PRODUCTS)).tolist() == rows
    categorical = PRODUCTS.with_columns(pl.col("category", "brand").cast(pl.Categorical))
    assert np.flatnonzero(Where(conditions).mask(categorical)).tolist() == rows


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": "red"}, "unknown column 'colour'; columns to filter by: category, price, merchant_id, in_stock"),
        ({"price": "cheap"}, "price: 'cheap' is not of the column's type, float"),
        ({"merchant_id": True}, "merchant_id: True is not of the column's type, integer"),
        ({"in_stock": 1}, "in_stock: 1 is not of the column's type, true or false"),
        ({"brand": 3}, "brand: 3 is not of the column's type, text"),
        ({"brand": {"gte": "a"}}, "brand: a range is of numbers; the column is text"),
        ({"merchant_id": [3, "7"]}, "merchant_id: '7' is not of the column's type, integer"),
        ({"price": {}}, "price: {}: a range has one or more of gte, gt, lte, lt"),
        ({"price": {"min": 3}}, "a range has one or more of gte"),
        ({"price": None}, "price: None: expected a text, a number, true or false"),
        ({"price": [[1]]}, r"price: \[1\]: expected a text"),
        ({"price": {"gte": math.inf}}, "price: inf is no finite number"),
        ({"price": "x" * 500}, r"price: 'x{70,76}\.\.\. is not"),
        ([], r"a filter is a mapping of columns to conditions, not \[\]"),
        ({3: 4}, "a filter's columns have names, not 3"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_with_what_is_known(conditions: Any, message: str) -> None:
    with pytest.raises(BadFilter, match=message):
        Where(conditions).mask(PRODUCTS)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"price": NaN}', '{"price": 3, "price": 4}', "[" * 100_000])
def test_json_that_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(BadFilter):
        Where.from_json(text)


def test_equal_filters_have_equal_keys() -> None:
    a, b = (
        Where.from_json('{"price": {"lt": 3, "gte": 1}, "in_stock": true}'),
        Where({"in_stock": True, "price": {"gte": 1, "lt": 3}}),
    )
    assert a.key == b.key != Where({"in_stock": True}).key
    assert Where({"in_stock": True}).key != Where({"in_stock": 1}).key


NUMBERS = st.integers(-3, 3) | st.sampled_from([-2.5, 0.0, 1.5, 2.0])


@given(
    cells=st.lists(st.none() | st.integers(-3, 3)),
    bounds=st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), NUMBERS, min_size=1),
    floats=st.booleans(),
)
def test_ranges_are_those_of_python(cells: list[int | None], bounds: dict[str, float], floats: bool) -> None:
    compare = {"gte": "__ge__", "gt": "__gt__", "lte": "__le__", "lt": "__lt__"}
    expected = [
        cell is not None and all(getattr(float(cell), compare[name])(float(value)) for name, value in bounds.items())
        for cell in cells
    ]
    columns = pl.DataFrame({"x": pl.Series(cells, dtype=pl.Float64 if floats else pl.Int64)})
    assert Where({"x": bounds}).mask(columns).tolist() == expected
