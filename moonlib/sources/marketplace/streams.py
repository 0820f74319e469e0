"""Where the marketplace's chance comes from: a stream for each part, and ids without order."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


class Streams:
    """One stream of random numbers for each part of a simulation, so that a change to one part moves no other.

    Args:
        key: what all of them are a function of, non-negative.
    """

    def __init__(self, *key: int) -> None:
        self._key = key

    def __getitem__(self, part: str) -> np.random.Generator:
        """The part's stream from its beginning."""
        return np.random.default_rng([*self._key, zlib.crc32(part.encode())])


def mix(numbers: NDArray[np.integer], salt: int) -> NDArray[np.int64]:
    """Spread running numbers over all of int64, as hashed ids are: distinct numbers give distinct ids.

    Args:
        numbers: [N], not negative.
        salt: another salt gives other ids.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        2014), a bijection.
    """
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)
