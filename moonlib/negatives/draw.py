"""Drawing some of a different number of things for each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_distinct(available: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw k different numbers below a bound for each row; every set of k is equally likely.

    Where fewer than k are available, all of them are drawn. Floyd's algorithm: the i-th draw is of the first j + 1
    numbers, j = available - k + i, and a number that was drawn before gives way to j itself, which cannot have been.

    Args:
        available: int64 [Q], bounds, at least 0.
        k: how many to draw.
        rng: what is drawn from.

    Returns:
        int64 [Q, k], from 0 to ``available - 1``; -1 where nothing is left.

    Source: Bentley and Floyd, "A sample of brilliance" (Communications of the ACM 30(9), 1987), algorithm F2.

    Example:
        >>> draw_distinct(np.array([0, 1, 2]), 2, np.random.default_rng(0)).tolist()
        [[-1, -1], [-1, 0], [0, 1]]
    """
    drawn = np.full((len(available), k), -1, dtype=np.int64)
    for i in range(k):
        last = available - k + i
        number = rng.integers(0, last.clip(min=0) + 1)
        again = (drawn[:, :i] == number[:, None]).any(axis=1)
        drawn[:, i] = np.where(last < 0, -1, np.where(again, last, number))
    return drawn
