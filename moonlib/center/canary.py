"""A canary: a row of an id that no product has, written to measure how long an upsert takes to be found.

It is a tombstone from the beginning: no search can find it, and no count of products has it. When a view knows its
sequence, a product that was upserted with it would be found.
"""

from __future__ import annotations

import polars as pl

from moonlib.center.record import Record
from moonlib.center.rows import Rows, id_dtype

CANARIES: dict[type[pl.DataType], int | str] = {pl.Int64: -(2**63), pl.String: "moonlib:canary"}
"""The id of canaries, by the type of a space's ids."""


def append_canary(record: Record, received_at: int) -> int:
    """Append a canary. The caller holds the lock, and has called `Record.refresh`.

    Args:
        record: of a space whose first product has said what ids are.
        received_at: microseconds since 1970 UTC.

    Returns:
        Its sequence.
    """
    space = record.space
    if space.ids is None:
        raise ValueError(f"{space.name} has no product yet, and so no type of ids; upsert one before a canary")
    dtype = id_dtype(space.ids)
    ids = pl.Series("id", [CANARIES[dtype]], dtype=dtype)
    return record.append(Rows.tombstones(ids, space.dim, space.dtype, record.no_columns, received_at))


def refuse_canaries(ids: pl.Series) -> None:
    """Refuse the canary's id as that of a product, which the next canary would delete.

    Raises:
        ValueError: it is among the ids.
    """
    canary = CANARIES.get(type(ids.dtype))
    if canary is not None and (ids == canary).any():
        raise ValueError(f"item_id {canary!r} is reserved: monitoring writes rows of this id; give the product another")
