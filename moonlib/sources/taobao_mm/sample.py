"""Which users are read, and hashes that are the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mixed(ids: NDArray[np.int64], salt: int = 0) -> NDArray[np.uint64]:
    """Scatter ids over all 64 bits; of one salt, no two ids meet.

    The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

    Args:
        ids: int64, any shape.
        salt: another one gives an independent hash.

    Example:
        >>> mixed(np.array([0, 1, -1])).tolist()
        [0, 6238072747940578789, 13029008266876403067]
    """
    bits = ids.astype(np.int64, copy=False).view(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def place(ids: NDArray[np.int64], salt: int) -> NDArray[np.float64]:
    """Where the hash of each id falls in [0, 1), float64: ids below p are a share p of them."""
    fraction: NDArray[np.float64] = (mixed(ids, salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fraction
