"""Other items of the positive's category as negatives."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from moonlib.data.reads import Reads
from moonlib.negatives.draw import draw_distinct
from moonlib.negatives.negative_sampler import NegativeSampler, TrainingData
from moonlib.pairs.pairs import Pairs

log = logging.getLogger(__name__)


class SameCategory(NegativeSampler):
    """Asks for k other items of the leaf category of each pair's item: hard to tell from it, yet not what was wanted.

    They are drawn uniformly and without repetition from the items of the category that are no SKU of a known positive's
    SPU; the pair's own item is such a positive. Where there are k of those, k are proposed, otherwise all there are;
    for an item without a category, none.

    Args:
        k: items per pair.

    Raises:
        ValueError: if ``k`` is below 1.

    Source: MOON (arXiv 2511.11305), Fig. 3c: hard negatives of the same category.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    def reads(self) -> Reads:
        """Categories; see `NegativeSampler.reads`."""
        return Reads.of(products=["category"]).before("train_until")

    def setup(self, data: TrainingData) -> None:
        """Sort the catalogue by category and, within it, by SPU."""
        self._catalogue = data.catalogue
        spus, self._spu = np.unique(data.catalogue.spu_id, return_inverse=True)
        self._spus = len(spus)
        # A number for each SPU in each category: both are stretches of the sorted items.
        key = data.catalogue.category * self._spus + self._spu
        order = np.argsort(key, kind="stable")
        order = order[data.catalogue.category[order] >= 0]
        if not len(order):
            log.warning("same_category: no product has a category: nothing to propose")
        self._keys, self._items = key[order], data.catalogue.item_id[order]

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw among the places of the category's stretch that are left without those of the positives' SPUs."""
        base = self._catalogue.category[self._catalogue.rows(pairs.item_id)] * self._spus
        positives = base[:, None] + self._spu[self._catalogue.rows(pairs.positives)]
        positives.sort(axis=1)
        first, end = (np.searchsorted(self._keys, base + spu) for spu in (0, self._spus))
        start = np.searchsorted(self._keys, positives)
        length = np.searchsorted(self._keys, positives, side="right") - start
        length[:, 1:][positives[:, 1:] == positives[:, :-1]] = 0  # SKUs of one SPU share a stretch
        drawn = draw_distinct(end - first - length.sum(axis=1), self.k, rng)
        place = first[:, None] + drawn
        for skipped in range(positives.shape[1]):  # from left to right, each stretch moves what is not before it
            place += length[:, skipped, None] * (place >= start[:, skipped, None])
        proposed = np.repeat(pairs.item_id[:, None], self.k, axis=1)
        found = drawn >= 0
        proposed[found] = self._items[place[found]]
        return proposed
