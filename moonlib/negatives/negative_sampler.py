"""The base class of negative samplers: items that a query is contrasted with."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moonlib.data.reads import EVERYTHING, Declaring, Reads
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs
from moonlib.representations.store import Representations

PLANNED_AHEAD = 64
"""Batches that may be planned before they are trained on. A sampler whose proposals follow from the encoder is told so
many batches before they are made use of: which batches these are then depends on no number of workers."""


@dataclass
class Candidates:
    """A pool of items with their representations.

    Attributes:
        representations: float [N, D], not normalised.
        item_id: int64 [N].
        spu_id: int64 [N].
        category: int64 [N], codes of the category; -1 for none, and where no sampler of the stage reads categories.
        own: how many of the first entries this process has encoded for this batch; only these carry a gradient to its
            weights. None: all of them.
    """

    representations: Tensor
    item_id: Tensor
    spu_id: Tensor
    category: Tensor
    own: int | None = None

    def mine(self) -> Candidates:
        """The entries that this process has encoded for this batch."""
        part = slice(self.own)
        return Candidates(self.representations[part], self.item_id[part], self.spu_id[part], self.category[part])

    def extended(self, representations: Tensor, item_id: Tensor, spu_id: Tensor, category: Tensor) -> Candidates:
        """Return a pool with more entries after these.

        Args:
            representations: float [M, D], of any floating type and device.
            item_id: int64 [M].
            spu_id: int64 [M].
            category: int64 [M].
        """
        return replace(
            self,
            representations=torch.cat([self.representations, representations.to(self.representations)]),
            item_id=torch.cat([self.item_id, item_id]),
            spu_id=torch.cat([self.spu_id, spu_id]),
            category=torch.cat([self.category, category]),
            own=len(self.item_id) if self.own is None else self.own,
        )


@dataclass(frozen=True)
class TrainingData:
    """Training data as a sampler sees it: nothing is from after the end of training.

    Attributes:
        pairs: all pairs that are trained on; batches are drawn from their rows.
        catalogue: the products that may be asked for.
        searches: the searches that the pairs come from, columns as in `moonlib.data.tables`; without rows where the
            pairs come from products.
        dim: width of the representations.
    """

    pairs: Pairs
    catalogue: Catalogue
    searches: pl.DataFrame
    dim: int


class NegativeSampler(nn.Module, Declaring, ABC):
    """Proposes items to load with a batch and extends the pool of candidates; samplers chain.

    All methods have a default that adds nothing. State lives in buffers, so that it is saved with the stage.

    Attributes:
        refresh_every: batches after which `refresh` is due again; None for a sampler that needs no vectors. At least
            `PLANNED_AHEAD`.
        spatial: True for a sampler that adds what the other processes have encoded. Where items are contrasted with
            queries, the stage then reads the queries of all processes, too.
    """

    refresh_every: int | None = None
    spatial: ClassVar[bool] = False

    def reads(self) -> Reads:
        """Declare what the sampler reads of the tables, by way of `TrainingData`: columns of searches, and categories.

        By default it is everything, also for a class that derives from another sampler and does not say it again. See
        `moonlib.stages.stage.Stage.reads`.
        """
        return EVERYTHING

    def setup(self, data: TrainingData) -> None:
        """Learn of the data and make the buffers; called once, before anything else and before a state is restored.

        Args:
            data: see `TrainingData`.
        """

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Name items to load as extra negatives; called in the main process while a batch is planned.

        Batches are planned ahead: what is proposed for a step must not depend on how many are.

        Args:
            pairs: the Q pairs of the global batch.
            step: number of the batch.
            rng: the batch's own generator, a function of (seed, step).

        Returns:
            int64 [Q, k], of the catalogue; k = 0 asks for nothing. A pair's own item stands for "none": it is not
            loaded again.
        """
        return np.empty((len(pairs), 0), dtype=np.int64)

    def refresh(self, products: Representations, queries: Representations, step: int) -> None:
        """Look at what the encoder makes of the data by now; called in one process, whose buffers the others receive.

        Args:
            products: vectors of the catalogue's products by item_id, not normalised.
            queries: vectors of the pairs' queries by query_id.
            step: number of the first batch for which `propose` is to make use of it. Batches before it may still be
                planned, or planned again after an interruption, by what the call before has found.
        """

    def extend(self, pool: Candidates) -> Candidates:
        """Return the pool with this sampler's own candidates appended.

        Args:
            pool: the candidates so far, the batch's own items first.

        Returns:
            The extended pool; the first ``len(pool.item_id)`` entries are unchanged.
        """
        return pool
