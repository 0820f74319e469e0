"""Write products into the record of a space: encode what changed, and reuse the vectors of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.center.record import Record
from moonlib.center.rows import Dtype, Rows
from moonlib.center.writing import writing_to
from moonlib.embedding.changed import encode_changed
from moonlib.inference.incoming import Incoming
from moonlib.representations.store import Representations

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder


@dataclass(frozen=True)
class Upserted:
    """Outcome of an upsert, for a space.

    Attributes:
        encoded: products that are new or whose content changed.
        unchanged: products that are as they were; nothing was written.
        changed_columns_only: products of which only kept columns changed; their vectors were reused.
        deleted: products that were deleted.
        quarantined: why an image can't be read, by the id of the product, which is represented by what else it has.
        sequence: of the space's last row; a view with this sequence or a later one answers with what was upserted.
    """

    encoded: int = 0
    unchanged: int = 0
    changed_columns_only: int = 0
    deleted: int = 0
    quarantined: dict[int | str, str] = field(default_factory=dict)
    sequence: int = 0

    def __str__(self) -> str:
        return (
            f"{self.encoded:,} encoded, {self.changed_columns_only:,} with changed columns only, {self.unchanged:,} "
            f"unchanged, {self.deleted:,} deleted, {len(self.quarantined):,} with an image that can't be read"
        )


def write_products(
    center: Path,
    record: Record,
    incoming: Incoming,
    received_at: int,
    encoder: Encoder,
    batch_size: int,
    workers: int = 0,
    device: str | None = None,
) -> Upserted:
    """Encode of some products those that changed, and write what is new chunk by chunk, each with one fsync.

    Args:
        center: its folder; its lock is held while a chunk is written.
        record: of the space.
        incoming: the products.
        received_at: microseconds since 1970 UTC.
        encoder: of the space.
        batch_size: rows encoded at once.
        workers: see `moonlib.embedding.changed.encode_changed`.
        device: where to compute; by default a GPU if there is one.

    Raises:
        Busy: another process writes.
        TooManyUnreadable: more images than tolerated can't be read; what was written before stays.
    """
    space, contents = record.space, incoming.contents
    found = record.find(incoming.ids)
    is_known = found >= 0
    known = np.zeros((len(found), 16), np.uint8)
    known[is_known] = record.content(found[is_known])
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    encoded = columns_only = 0
    again: list[NDArray[np.int64]] = []
    changes = encode_changed(
        encoder,
        contents,
        known,
        is_known,
        batch_size=batch_size,
        pictures=space.pictures,
        device=device,
        workers=workers,
    )
    for number, changed in enumerate(changes):
        start = number * contents.chunk
        rows = np.arange(start, start + len(changed.hashes))
        ids = incoming.ids[start : start + len(rows)]
        columns = incoming.columns[start : start + len(rows)]
        kept = np.ones(len(rows), np.bool_)
        kept[changed.rows] = False
        same = np.flatnonzero(kept)
        with writing_to(center):
            record.refresh()
            before = same
            if len(same):
                before = record.find(ids.gather(same))
                # Somebody else may have changed or deleted these since; then they are encoded after all.
                agree = before >= 0
                agree[agree] = (record.content(before[agree]) == changed.hashes[same[agree]]).all(axis=1)
                again.append(rows[same[~agree]])
                same, before = same[agree], before[agree]
                differ = _differ(record.columns(before), columns[same] if columns.width else columns)
                same, before = same[differ], before[differ]
            vectors = _at_rest(changed.vectors[:, : space.dim], space.dtype)
            written = np.concatenate([changed.rows, same])
            if len(changed.rows) < len(rows):
                ids, columns = ids.gather(written), columns[written] if columns.width else columns
            sequence = record.append(
                Rows(
                    ids,
                    np.concatenate([vectors, record.vectors(before)]),
                    changed.hashes[written],
                    np.full(len(written), received_at),
                    np.zeros(len(written), np.bool_),
                    columns,
                    pl.Series([*changed.pictures, *[None] * len(same)], dtype=pl.Binary),
                )
            )
        encoded += len(changed.rows)
        columns_only += len(same)
    quarantined = {id: reason for (_, id), reason in contents.quarantine.entries().items()}
    left = np.concatenate([np.empty(0, np.int64), *again])
    done = Upserted(encoded, len(found) - encoded - columns_only - len(left), columns_only, 0, quarantined, sequence)
    if len(left):
        part = Incoming(
            contents.only(contents.ids[left]), incoming.ids.gather(left), incoming.columns[left], incoming.given
        )
        more = write_products(center, record, part, received_at, encoder, batch_size, workers, device)
        done = Upserted(
            done.encoded + more.encoded,
            done.unchanged + more.unchanged,
            done.changed_columns_only + more.changed_columns_only,
            0,
            quarantined,
            more.sequence,
        )
    return done


def delete_products(center: Path, record: Record, ids: pl.Series, received_at: int) -> tuple[int, int]:
    """Write tombstones of the products that are there, with one fsync.

    Args:
        center: its folder.
        record: of the space.
        ids: of the products; unknown ones are passed over.
        received_at: microseconds since 1970 UTC.

    Returns:
        How many were deleted, and the sequence of the space's last row.

    Raises:
        Busy: another process writes.
    """
    space = record.space
    with writing_to(center):
        record.refresh()
        there = ids.filter(pl.Series(record.find(ids) >= 0))
        tombstones = Rows.tombstones(there, space.dim, space.dtype, record.no_columns, received_at)
        return len(there), record.append(tombstones)


def _at_rest(vectors: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    return Representations(np.arange(len(vectors)), vectors).as_type(dtype).vectors


def _differ(before: pl.DataFrame, now: pl.DataFrame) -> NDArray[np.bool_]:
    """Which rows have another value in some column, bool [n]."""
    if not now.width:
        return np.zeros(now.height, np.bool_)
    differ = np.zeros(now.height, np.bool_)
    for column in now.columns:
        differ |= before[column].ne_missing(now[column]).to_numpy()
    return differ
