"""Products that come by HTTP, written to a center."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder
    from moonlib.inference.center import Center
    from moonlib.inference.upserting import Upserted


class CenterWriter:
    """Writes to a center, which is opened by the first write: most servers never write.

    Args:
        path: folder of the center.
        alias: whose space tells what was done.
        encoders: encoders that are open already, by their fingerprints.
    """

    def __init__(self, path: Path, alias: str, encoders: Mapping[str, Encoder] = {}) -> None:
        self._path, self._alias, self._encoders = path, alias, encoders
        self._opened: Center | None = None

    def upsert(self, products: Sequence[Mapping[str, Any]]) -> Upserted:
        """Add products, or replace them by their id; see `moonlib.Center.upsert`."""
        return self._center.upsert(products)

    def delete(self, ids: Sequence[int | str]) -> Upserted:
        """Delete products; see `moonlib.Center.delete`."""
        return self._center.delete(ids)

    def send_canary(self) -> int:
        """Write a row that no search finds; see `moonlib.Center.send_canary`."""
        return self._center.send_canary()

    @property
    def _center(self) -> Center:
        if self._opened is None:
            from moonlib.inference.center import Center

            self._opened = Center(self._path, self._alias, self._encoders)
        return self._opened
