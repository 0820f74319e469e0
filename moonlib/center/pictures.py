"""Small pictures of the rows of a record: where they are, in its base or its logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moonlib.center.base import Base
from moonlib.center.log import Log

_IN_BASE = -1
"""In place of the number of a log: the picture is in the base."""


class Pictures(NamedTuple):
    """Where the small JPEGs of rows are; they stay readable when the record goes on, or is compacted.

    Attributes:
        base: of the record.
        logs: of the record.
        places: int64 [n, 3]: log, place, bytes; of the base, its row is the place.
    """

    base: Base | None
    logs: Sequence[Log]
    places: NDArray[np.int64]

    def take(self, rows: NDArray[np.integer[Any]]) -> Pictures:
        """Those of some of the rows."""
        return self._replace(places=self.places[rows])

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which rows have one, bool [n]."""
        logs, at, sizes = self.places.T
        found = sizes > 0
        in_base = logs == _IN_BASE
        found[in_base] = False if self.base is None else self.base.pictured[at[in_base]]
        return found

    def read(self, row: int) -> bytes | None:
        """The picture of a row; None if it has none."""
        log, at, size = self.places[row].tolist()
        if log == _IN_BASE:
            return None if self.base is None else self.base.picture(at)
        return self.logs[log].picture(at, size) if size else None


def in_base(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the pictures of the base's rows, int64 [m, 3]."""
    return np.column_stack([np.full(len(rows), _IN_BASE), rows, np.zeros_like(rows)])
