"""Items that are often wanted as more negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moonlib.negatives import NegativeSampler, TrainingData
from moonlib.pairs import Pairs


class Template(NegativeSampler):
    """Asks for k items per pair, each drawn in proportion to its number of training pairs to some power.

    An item that many queries led to is in the way of many others; with a power below 1 it is not all there is. The
    items are loaded and encoded with the batch. One that happens to be a positive of the query is told by its id.

    Args:
        k: items per pair.
        power: 0 draws all items that have a pair alike, 1 by their number of pairs.

    Raises:
        ValueError: if ``k`` is below 1 or ``power`` below 0.

    Source: Mikolov et al., "Distributed representations of words and phrases and their compositionality" (2013),
    section 2.2.
    """

    def __init__(self, k: int = 1, power: float = 0.75) -> None:
        super().__init__()
        if k < 1 or power < 0:
            raise ValueError(f"k must be at least 1 and power at least 0, got {k} and {power}")
        self.k = k
        self.power = power

    def setup(self, data: TrainingData) -> None:
        """Count the pairs of each item."""
        self.items, pairs = np.unique(data.pairs.item_id, return_counts=True)
        self.bounds = (pairs**self.power).cumsum()

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw from all items alike for every query."""
        drawn = rng.random((len(pairs), self.k)) * self.bounds[-1]
        return self.items[np.searchsorted(self.bounds, drawn, side="right")]
