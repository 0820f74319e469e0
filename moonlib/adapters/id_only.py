"""Ids alone: what every representation is measured against."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from moonlib.adapters.adapter import Adapter, BehaviourBatch


class IdOnly(Adapter):
    """Features from the embeddings of item ids; the other adapters add content to them.

    With target e and the mean m of the history's embeddings: [e, m, e * m]. m is 0 for an empty history. The
    representations are not read.
    """

    reads_content: ClassVar[bool] = False

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width; there is no weight that depends on it."""
        self.out_features = 3 * id_dim

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 3 E]."""
        real = batch.item_mask.unsqueeze(-1)
        count = real.sum(dim=1).clamp(min=1)
        mean = batch.item_ids.masked_fill(~real, 0).sum(dim=1) / count
        return torch.cat([batch.target_id, mean, batch.target_id * mean], dim=1)
