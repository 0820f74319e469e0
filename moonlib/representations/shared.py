"""Products that two sets of vectors have in common, by the ids that the shop uses."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.representations.store import Representations


def shop_ids(store: Representations) -> pl.Series:
    """The ids of vectors as the shop writes them, row by row: int64, or text."""
    return pl.Series(store.ids) if store.names is None else store.names


def rows_of_named(store: Representations, ids: pl.Series) -> NDArray[np.int64]:
    """Row of each of the shop's ids.

    Args:
        store: vectors.
        ids: int64 or text [n], each of them once.

    Returns:
        int64 [n]; -1 where there is no vector.

    Raises:
        ValueError: ids of one are text and of the other int64: they can't be of one shop.

    Example:
        >>> store = Representations(np.array([3, 7]), np.eye(2, dtype=np.float32))
        >>> rows_of_named(store, pl.Series([7, 5]))
        array([ 1, -1])
    """
    named = shop_ids(store)
    if named.dtype != ids.dtype and len(named) and len(ids):
        kinds = {True: "text", False: "int64"}
        raise ValueError(
            f"its ids are {kinds[named.dtype == pl.String]}, such as {named[0]!r}, and here they are "
            f"{kinds[ids.dtype == pl.String]}, such as {ids[0]!r}: they are not the same shop's"
        )
    if store.names is None:
        return store.rows(ids.cast(pl.Int64).to_numpy())
    table = pl.DataFrame({"id": named}).with_row_index("row")
    found = pl.DataFrame({"id": ids.cast(pl.String)}).join(table, on="id", how="left", maintain_order="left")
    return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()
