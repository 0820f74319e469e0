"""From int64 ids to rows of an embedding table, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Vocabulary:
    """Ids seen in training; every other id shares row 0.

    Attributes:
        ids: int64 [V], ascending and distinct.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        """Take the ids of training, in any order and with repeats."""
        self.ids = np.unique(ids)

    def __len__(self) -> int:
        """Rows of the table: one per id and one for all ids not seen in training."""
        return len(self.ids) + 1

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id.

        Args:
            ids: int64 of any shape; the full signed range, never through float.

        Returns:
            int64 of the same shape, 0 for an id not seen in training.

        Example:
            >>> Vocabulary(np.array([-(2**63), 5])).rows(np.array([5, 6, -(2**63)]))
            array([2, 0, 1])
        """
        if not len(self.ids):
            return np.zeros(ids.shape, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows + 1, 0)
