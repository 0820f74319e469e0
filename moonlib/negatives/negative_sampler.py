"""What a query is contrasted with."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass
class Candidates:
    """A pool of items with their representations.

    Attributes:
        representations: float [N, D], not normalised.
        item_id: int64 [N].
        spu_id: int64 [N].
        category: int64 [N], codes of the leaf category.
    """

    representations: Tensor
    item_id: Tensor
    spu_id: Tensor
    category: Tensor


class NegativeSampler(nn.Module, ABC):
    """Proposes items to load with a batch and extends the pool of candidates; samplers chain.

    Both methods have a default that adds nothing. State lives in buffers, so that it is saved with the stage.
    """

    def propose(self, item_ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Name items to load as extra negatives; called in the main process while a batch is planned.

        Args:
            item_ids: int64 [Q], the positive item of each query of the batch.
            rng: the batch's own generator, a function of (seed, step).

        Returns:
            int64 [Q, k]; k = 0 asks for nothing.
        """
        return np.empty((len(item_ids), 0), dtype=np.int64)

    def extend(self, pool: Candidates) -> Candidates:
        """Return the pool with this sampler's own candidates appended.

        Args:
            pool: the candidates so far, the batch's own items first.

        Returns:
            The extended pool; the first ``len(pool.item_id)`` entries are unchanged.
        """
        return pool
