"""An array that grows by rows, without a copy of all of it each time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Growing:
    """An array that grows by rows. What was handed out of it stays as it was.

    Args:
        dtype: of its values.
        shape: of a row.
    """

    def __init__(self, dtype: Any, *shape: int) -> None:
        self._array = np.empty((256, *shape), dtype)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def extend(self, values: NDArray[Any]) -> None:
        """Append rows."""
        end = self._rows + len(values)
        if end > len(self._array):
            larger = np.empty((max(end, 2 * len(self._array)), *self._array.shape[1:]), self._array.dtype)
            larger[: self._rows] = self._array[: self._rows]
            self._array = larger
        self._array[self._rows : end] = values
        self._rows = end

    @property
    def values(self) -> NDArray[Any]:
        """All rows."""
        return self._array[: self._rows]
