"""The base class of filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl

from moonlib.data.reads import EVERYTHING, Declaring, Reads
from moonlib.data.tables import Tables
from moonlib.representations.store import Representations

Removed = Mapping[str, Mapping[str, int]]
"""Table → reason → rows removed."""


@dataclass(frozen=True)
class Filtered:
    """Tables after a filter.

    Attributes:
        tables: the five tables; their rows still refer to each other.
        removed: how many rows of which table went, and why. Rows in = rows out + rows removed, for every table.
    """

    tables: Tables
    removed: Removed


@dataclass(frozen=True)
class Encoded:
    """Representations of the products and queries that a filter sees, by the encoder as it is, not normalised.

    Attributes:
        products: by item_id; some products may have none, or a row of zeros.
        queries: by query_id, likewise.
    """

    products: Representations
    queries: Representations


class Filter(Declaring, ABC):
    """A function of the tables: rows in, rows out, and why. It removes and rewrites rows and never adds any.

    A filter sees what training may see: products listed and events before the end of training. It cleans what an
    encoder learns from; nothing that is measured passes through it. Its constructor takes the recipe's arguments and
    does no work.

    Attributes:
        reads_representations: True for a filter that needs the encoder so far, such as one that removes look-alikes.
    """

    reads_representations: ClassVar[bool] = False

    def reads(self) -> Reads:
        """Which columns of the tables the filter reads; it may be given no others.

        By default it is everything, also for a class that derives from another filter and does not say it again. See
        `moonlib.stages.stage.Stage.reads`.
        """
        return EVERYTHING

    @abstractmethod
    def __call__(self, tables: Tables, encoded: Encoded | None = None) -> Filtered:
        """Filter.

        Args:
            tables: validated; see `moonlib.data.tables`.
            encoded: the representations of the products and queries, where ``reads_representations`` is True.

        Returns:
            The tables that are left, again valid, and what was removed.
        """


def without_products(tables: Tables, item_ids: pl.Series, reason: str) -> Filtered:
    """Remove products, and with them the searches and impressions that name them.

    Args:
        tables: any tables.
        item_ids: int64, products to remove.
        reason: why, in a few words.

    Returns:
        The rest. Events are counted as removed for ``"product removed: <reason>"``.

    Example:
        >>> from moonlib.data.tables import empty
        >>> without_products(Tables(empty("products")), pl.Series([1, 2]), "no title").removed
        {}
    """
    gone = pl.col("item_id").is_in(item_ids.unique().implode())
    rest = {name: tables[name].filter(~gone) for name in ("products", "searches", "impressions")}
    reasons = {"products": reason}
    removed = {
        name: {reasons.get(name, f"product removed: {reason}"): tables[name].height - frame.height}
        for name, frame in rest.items()
        if frame.height < tables[name].height
    }
    left = replace(tables, products=rest["products"], searches=rest["searches"], impressions=rest["impressions"])
    return Filtered(left, removed)


def without_searches(tables: Tables, why: pl.Series) -> Filtered:
    """Remove searches, each for its reason.

    Args:
        tables: any tables.
        why: text [rows of ``searches``], the reason each row goes, in a few words; null for a row that stays.

    Returns:
        The rest; products, queries, users and impressions stay as they are.

    Example:
        >>> from moonlib.data.tables import empty
        >>> without_searches(Tables(empty("products")), pl.Series([], dtype=pl.String)).removed
        {}
    """
    reasons = why.drop_nulls().alias("why").value_counts().sort("why")
    removed = {"searches": dict(reasons.iter_rows())} if len(reasons) else {}
    return Filtered(replace(tables, searches=tables.searches.filter(why.is_null())), removed)
