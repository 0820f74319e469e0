"""The items of the last batches as more negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from moonlib.negatives.negative_sampler import Candidates, NegativeSampler


class Template(NegativeSampler):
    """A queue of the representations of recent batches: more negatives for the price of memory.

    They were made by the encoder as it was some steps ago, which moves slowly enough for them to be useful. They get
    no gradient. All state is in buffers of fixed shape, so that it is saved with the stage.

    Args:
        size: how many items are kept.
        dim: width of the encoder's representations.

    Raises:
        ValueError: if ``size`` is below 1.

    Source: Wang et al., "Cross-batch memory for embedding learning" (2020), section 3.2.
    """

    representations: Tensor
    ids: Tensor
    filled: Tensor

    def __init__(self, size: int = 256, dim: int = 128) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self.register_buffer("representations", torch.zeros(size, dim))
        self.register_buffer("ids", torch.zeros(size, 3, dtype=torch.int64))  # item, SPU, category
        self.register_buffer("filled", torch.tensor(0))

    def extend(self, pool: Candidates) -> Candidates:
        """Append what is in the queue, then put the pool into it, the newest first."""
        filled = int(self.filled)
        kept, ids = self.representations[:filled].to(pool.representations.dtype), self.ids[:filled]
        extended = Candidates(
            torch.cat([pool.representations, kept]),
            torch.cat([pool.item_id, ids[:, 0]]),
            torch.cat([pool.spu_id, ids[:, 1]]),
            torch.cat([pool.category, ids[:, 2]]),
        )
        new_ids = torch.stack([pool.item_id, pool.spu_id, pool.category], dim=1)
        self.representations = self._pushed(pool.representations.detach(), self.representations)
        self.ids = self._pushed(new_ids, self.ids)
        self.filled = (self.filled + len(new_ids)).clamp(max=self.size)
        return extended

    def _pushed(self, new: Tensor, old: Tensor) -> Tensor:
        return torch.cat([new.to(old.dtype), old])[: self.size]
