"""Filters on the columns that a center keeps beside its vectors, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.categories import with_levels

CATEGORY = "category"
"""The column whose values are paths: a filter for one also lets through what lies below it."""

_RANGE = {"gte": pl.Expr.ge, "gt": pl.Expr.gt, "lte": pl.Expr.le, "lt": pl.Expr.lt}
_INT64 = range(-(2**63), 2**63)


class BadFilter(ValueError):
    """A filter of an unknown column, or of values that its column can't have."""


class Where:
    """Conditions that a product has to fulfil, all of them.

    ==============================  =====================================================
    ``{"merchant_id": 7}``          equal to the value
    ``{"merchant_id": [3, 7]}``     equal to one of the values
    ``{"price": {"gte": 10}}``      a range: any of ``gte``, ``gt``, ``lte`` and ``lt``
    ``{"category": "Shoes"}``       a category, and whatever lies below it
    ==============================  =====================================================

    A missing value fulfils no condition.

    Args:
        conditions: by column, as in the table.

    Raises:
        BadFilter: that is no filter.

    Example:
        >>> products = pl.DataFrame({"category": ["Shoes/Boots", "Shoes", "Bags"], "price": [80.0, 20.0, None]})
        >>> Where({"category": "Shoes", "price": {"lt": 50}}).mask(products)
        array([False,  True, False])
    """

    def __init__(self, conditions: Mapping[str, Any]) -> None:
        if not isinstance(conditions, Mapping):
            raise BadFilter(f"a filter is a mapping of columns to conditions, not {_shown(conditions)}")
        for name, condition in conditions.items():
            if not isinstance(name, str):
                raise BadFilter(f"a filter's columns have names, not {_shown(name)}")
            if isinstance(condition, Mapping):
                if not condition or not set(condition) <= set(_RANGE):
                    raise BadFilter(f"{name}: {_shown(condition)}: a range has one or more of {', '.join(_RANGE)}")
                values = list(condition.values())
            else:
                values = list(condition) if isinstance(condition, list | tuple) else [condition]
            for value in values:
                if not isinstance(value, str | bool | int | float):
                    raise BadFilter(f"{name}: {_shown(value)}: expected a text, a number, true or false")
                if isinstance(value, float) and not math.isfinite(value):
                    raise BadFilter(f"{name}: {value} is no finite number")
        self.conditions = {
            name: dict(value)
            if isinstance(value, Mapping)
            else list(value)
            if isinstance(value, list | tuple)
            else value
            for name, value in conditions.items()
        }
        self.key = json.dumps(self.conditions, sort_keys=True)
        """Equal for equal filters."""

    def __repr__(self) -> str:
        return f"Where({self.conditions!r})"

    @classmethod
    def from_json(cls, text: str) -> Where:
        """Read a filter as the command line and HTTP have it.

        Raises:
            BadFilter: it is no JSON, or no filter.

        Example:
            >>> Where.from_json('{"in_stock": true}')
            Where({'in_stock': True})
        """
        try:
            found = json.loads(text, object_pairs_hook=_once)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadFilter(f'a filter is JSON such as {{"in_stock": true}}: {error}') from None
        return cls(found)

    def check(self, schema: Mapping[str, Any]) -> None:
        """Refuse the filter if it does not fit the columns.

        Args:
            schema: the polars type of each column.

        Raises:
            BadFilter: a column is unknown, or a value is not of its type.
        """
        for name, condition in self.conditions.items():
            if name not in schema:
                known = ", ".join(schema) or "none: they are named when the space is made"
                raise BadFilter(f"unknown column {name!r}; columns to filter by: {known}")
            _condition(name, condition, schema[name])

    def mask(self, columns: pl.DataFrame) -> NDArray[np.bool_]:
        """Which rows fulfil all conditions, bool [n].

        Args:
            columns: the kept columns [n]; texts may be categorical.

        Raises:
            BadFilter: see `check`.
        """
        self.check(columns.schema)
        if not self.conditions:
            return np.ones(columns.height, np.bool_)
        parts = [_condition(name, condition, columns.schema[name]) for name, condition in self.conditions.items()]
        return columns.select(pl.all_horizontal(parts).fill_null(False).alias("")).to_series().to_numpy()


def _condition(name: str, condition: Any, dtype: Any) -> pl.Expr:
    """One column's condition as an expression; null, like false, stands for unfulfilled."""
    column = pl.col(name)
    if isinstance(condition, dict):
        if not dtype.is_numeric():
            raise BadFilter(f"{name}: a range is of numbers; the column is {_kind(dtype)}")
        for value in condition.values():
            _check(name, value, dtype)
        parts = [_bounded(column, bound, value, dtype) for bound, value in condition.items()]
        return pl.all_horizontal(column.is_not_nan(), *parts) if dtype.is_float() else pl.all_horizontal(parts)
    values = condition if isinstance(condition, list) else [condition]
    for value in values:
        _check(name, value, dtype)
    if dtype.is_integer():
        values = [int(value) for value in values if value == int(value) and int(value) in _INT64]
        dtype = pl.Int64
    elif dtype.is_float():
        values = [float(value) for value in values]
    elif name == CATEGORY and _is_text(dtype):
        paths = pl.DataFrame({name: pl.Series(values, dtype=pl.String)}).select(with_levels(pl.col(name))).to_series()
        levels = [path.rstrip("/") for path in paths.drop_nulls().to_list()]
        whole = column.cast(pl.String)
        below = [whole.str.starts_with(f"{path}/") for path in levels if path]
        return pl.any_horizontal(whole.is_in(pl.Series(levels, dtype=pl.String).implode()), *below)
    if _is_text(dtype):
        column, dtype = column.cast(pl.String), pl.String
    return column.is_in(pl.Series(values, dtype=dtype).implode())


def _bounded(column: pl.Expr, bound: str, value: int | float, dtype: Any) -> pl.Expr:
    if dtype.is_float():
        return _RANGE[bound](column, pl.lit(float(value), dtype=dtype))
    # Among integers, x >= 2.5 is x >= 3, and x > 2.5 is x > 2: no integer becomes a float, which would round it.
    whole = math.ceil(value) if bound in ("gte", "lt") else math.floor(value)
    if whole in _INT64:
        return _RANGE[bound](column.cast(pl.Int64), pl.lit(whole, dtype=pl.Int64))
    return pl.lit((whole > 0) == bound.startswith("l")) & column.is_not_null()


def _check(name: str, value: Any, dtype: Any) -> None:
    if dtype == pl.Boolean:
        fits = isinstance(value, bool)
    elif dtype.is_numeric():
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        fits = isinstance(value, str)
    if not fits:
        raise BadFilter(f"{name}: {_shown(value)} is not of the column's type, {_kind(dtype)}")


def _is_text(dtype: Any) -> bool:
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def _kind(dtype: Any) -> str:
    if dtype == pl.Boolean:
        return "true or false"
    return "integer" if dtype.is_integer() else "float" if dtype.is_float() else "text"


def _shown(value: Any) -> str:
    """A value as part of a message, of a length that a message can have."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadFilter(f"a filter names {', '.join(name for name, _ in pairs)}: one of them twice")
    return found
