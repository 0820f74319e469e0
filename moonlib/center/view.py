"""A view: what a reader of a center holds. One space at one snapshot, and the rows after it, up to a sequence.

CENTER/
  center.json             format number; made first
  .lock                   the one writer's; readers take none
  aliases.json            {"live": {"space": ..., "snapshot": 41, "previous": {...}}}; replaced in one rename
  spaces/<fingerprint[:12]>-<dim>-<dtype>/
    space.json            see `moonlib.center.space`
    encoder/              what `moonlib export` writes: queries are encoded with this, never with another
    record/               the truth about every product of this space, see `moonlib.center.record`
    snapshots/000041/     see `moonlib.center.snapshot`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.center.aliases import Alias, find_alias
from moonlib.center.layout import ALIASES, SPACES
from moonlib.center.record import Record, Stamp, stamp
from moonlib.center.rows import id_dtype
from moonlib.center.space import Space
from moonlib.center.writing import require_center
from moonlib.representations.store import unit

Ids = pl.Series | NDArray[np.int64] | Sequence[Any]


@dataclass(frozen=True)
class Found:
    """Products that were found for q queries.

    Attributes:
        ids: q * k, the shop's; null where there are fewer than k.
        scores: cosines, float32 [q, k]; -inf where there are fewer.
        rows: numbers of the rows within the view, int64 [q, k]; -1 where there are fewer.
    """

    ids: pl.Series
    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class View:
    """One space at one snapshot, and the rows after it. It never changes; `refreshed` makes a newer one.

    Attributes:
        center: its folder.
        alias: that it was opened by.
        space: the space.
        snapshot: number of the snapshot; 0 before the first.
        sequence: of the last row that it knows.
    """

    def __init__(self, center: Path, alias: str, target: Alias, record: Record, stamps: tuple[Stamp, ...]) -> None:
        self.center, self.alias, self._target, self._record, self._stamps = center, alias, target, record, stamps
        self.space: Space = record.space
        self.snapshot, self.sequence = target.now.snapshot, record.sequence
        self._ids, self._rows = record.live()
        self._store = record.vectors(self._rows)
        self._unit = unit(self._store)

    @classmethod
    def open(cls, center: Path, alias: str = "live") -> View:
        """Open what an alias leads to.

        Raises:
            FileNotFoundError: there is no center.
            ValueError: there is no such alias, or it leads to what is not there any more.
        """
        require_center(center)
        aliases = stamp(center / ALIASES)
        target = find_alias(center, alias)
        record = Record(Space.open(center / SPACES / target.now.space))
        return cls(center, alias, target, record, (aliases,))

    def refreshed(self) -> View:
        """The same view if nothing is new, or a newer one: of what the alias leads to now, with all rows."""
        if stamp(self.center / ALIASES) == self._stamps[0] and not self._record.changed:
            return self
        return View.open(self.center, self.alias)

    @property
    def name(self) -> str:
        """Of the space and the snapshot, such as ``3f2ab1c09d77-128-int8@000041``."""
        return f"{self.space.name}@{self.snapshot:06d}"

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> pl.Series:
        """Ids of all products [n], ascending."""
        return self._ids

    @property
    def received_at(self) -> NDArray[np.int64]:
        """When each product was received, int64 [n], microseconds since 1970 UTC, in the order of `ids`."""
        return self._record.received_at(self._rows)

    def search(self, vectors: NDArray[np.float32], k: int, where: Any = None, exact: bool = False) -> Found:
        """Find the nearest products.

        Args:
            vectors: float32 [q, D], of any length but 0.
            k: products wanted.
            where: which of the products to choose from.
            exact: whether to look at every product.
        """
        if where is not None:
            raise NotImplementedError("filters")
        cosines = unit(vectors) @ self._unit.T
        cosines[:, ~self._unit.any(axis=1)] = -np.inf
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        scores = np.full((len(vectors), k), -np.inf, np.float32)
        rows = np.full((len(vectors), k), -1)
        rows[:, : best.shape[1]], scores[:, : best.shape[1]] = best, np.take_along_axis(cosines, best, axis=1)
        rows[~np.isfinite(scores)] = -1
        flat = pl.Series(rows.reshape(-1)).replace(-1, None)
        return Found(self._ids.gather(flat), scores, rows)

    def _places(self, ids: Ids) -> NDArray[np.int64]:
        """Row of each id within the view, int64 [n]; -1 where there is none."""
        wanted = as_series(ids, self.space)
        known = pl.DataFrame({"id": self._ids, "row": np.arange(len(self._ids))})
        return (
            wanted.to_frame("id")
            .join(known, on="id", how="left", maintain_order="left")["row"]
            .fill_null(-1)
            .to_numpy()
        )

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """Whether there is a product of each id, bool [n]."""
        found: NDArray[np.bool_] = self._places(ids) >= 0
        return found

    def lookup(self, ids: Ids) -> NDArray[np.float32]:
        """Vectors of products, float32 [n, D], of unit length; zeros where there is none."""
        places = self._places(ids)
        found = np.zeros((len(places), self.space.dim), np.float32)
        found[places >= 0] = self._unit[places[places >= 0]]
        return found

    def rows(self, ids: Ids) -> pl.DataFrame:
        """The kept columns of products, ``item_id`` first, n rows; nulls where there is no product."""
        wanted, places = as_series(ids, self.space), self._places(ids)
        there = np.flatnonzero(places >= 0)
        columns = self._record.columns(self._rows[places[there]])
        row = np.full(len(places), -1)
        row[there] = np.arange(len(there))
        numbers = pl.Series(row).replace(-1, None)
        taken = [column.gather(numbers) for column in columns]
        return pl.DataFrame([wanted.alias("item_id"), *taken])

    def picture(self, id: int | str) -> bytes | None:
        """The small JPEG of a product; None if there is none."""
        place = int(self._places([id])[0])
        return None if place < 0 else self._record.picture(int(self._rows[place]))


def as_series(ids: Ids, space: Space) -> pl.Series:
    """Ids as a series of the type that the space's ids have.

    Raises:
        ValueError: they are of another type.
    """
    if isinstance(ids, np.ndarray):
        ids = pl.Series(ids)
    wanted = id_dtype(space.ids)
    series = ids if isinstance(ids, pl.Series) else pl.Series(ids, dtype=wanted if not len(ids) else None, strict=False)
    if wanted == pl.Int64 and series.dtype.is_integer():
        series = series.cast(pl.Int64)
    if series.dtype != wanted and not series.is_empty():
        kind = "text" if wanted == pl.String else "int64"
        raise ValueError(f"ids are {series.dtype}, such as {series[0]!r}; those of {space.name} are {kind}")
    return series.cast(wanted)
