"""The items of past batches as negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from moonlib.data.reads import NOTHING, Reads
from moonlib.negatives.gathered import gather_candidates
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler, TrainingData


class Queue(NegativeSampler):
    """Contrasts a query with the last items that any process encoded: MOON's temporal negatives.

    A first-in-first-out memory of representations, as they were when their batch was trained on. They get no gradient;
    the encoder moves slowly enough for them to be useful. Whatever a batch brought goes in, in-batch and hard negatives
    alike, after the batch has been contrasted with what was there. Until the queue is full, only its filled part is
    used, never a random vector. An item that is also in the batch, or a positive of a query, is told by its id like any
    other candidate.

    Every process keeps the same queue, so that the first one's checkpoint holds everybody's. In evaluation nothing is
    put in.

    Args:
        size: how many items are kept.

    Raises:
        ValueError: if ``size`` is below 1.

    Source: MOON (arXiv 2511.11305), Fig. 3c; Wang et al., "Cross-batch memory for embedding learning" (2020), section
    3.2.

    Example:
        >>> queue = Queue(size=3)
        >>> queue.setup(TrainingData(..., ..., ..., dim=2))
        >>> for first in (0, 2, 4):
        ...     ids = torch.tensor([first, first + 1])
        ...     pool = queue.extend(Candidates(torch.ones(2, 2), ids, ids, ids))
        >>> pool.item_id.tolist()  # the batch, then what was stored before it
        [4, 5, 3, 1, 2]
    """

    representations: Tensor
    item_id: Tensor
    spu_id: Tensor
    category: Tensor
    pushed: Tensor

    def __init__(self, size: int = 4096) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size

    def reads(self) -> Reads:
        """Nothing but ids; see `NegativeSampler.reads`."""
        return NOTHING

    def setup(self, data: TrainingData) -> None:
        """Make an empty queue of representations as wide as ``data.dim``."""
        self.register_buffer("representations", torch.zeros(self.size, data.dim))
        self.register_buffer("item_id", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("spu_id", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("category", torch.zeros(self.size, dtype=torch.int64))
        # How many items were ever put in: the next goes to place pushed % size.
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def extend(self, pool: Candidates) -> Candidates:
        """Append what is in the queue, then, in training, put into it what all processes have encoded."""
        stored = slice(min(int(self.pushed), self.size))
        extended = pool.extended(
            self.representations[stored], self.item_id[stored], self.spu_id[stored], self.category[stored]
        )
        if self.training:
            self._push(gather_candidates(pool.mine(), gradient=False))
        return extended

    @torch.no_grad()
    def _push(self, batches: list[Candidates]) -> None:
        vectors, item, spu, category = (
            torch.cat([getattr(batch, name) for batch in batches])
            for name in ("representations", "item_id", "spu_id", "category")
        )
        # By id, and copies of one item by what they look like: which of a batch are the first to leave does not depend
        # on which process had which part of it.
        order = torch.argsort(vectors[:, 0], stable=True)
        order = order[torch.argsort(item[order], stable=True)]
        new = len(item)
        # Of a batch larger than the queue, the last items stay; no place is written twice.
        place = (self.pushed + torch.arange(new, device=self.pushed.device))[-self.size :] % self.size
        for buffer, values in (
            (self.representations, vectors),
            (self.item_id, item),
            (self.spu_id, spu),
            (self.category, category),
        ):
            buffer.index_copy_(0, place, values[order[-self.size :]].to(buffer))
        self.pushed += new
