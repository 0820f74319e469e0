"""Cosines of the target with the shopper's history as features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines


class Similarity(Adapter):
    """cos(target, behaviour) for the newest behaviours, and cos(target, query) with whether it is known.

    The cosines keep their order, newest first. A shorter history is padded with 0, which is also the value of a
    behaviour (or a target) without representation.

    Args:
        length: how many of the newest behaviours are compared, a number fixed ahead of the batches.

    Raises:
        ValueError: if ``length`` is below 1.

    Source: "similarity" baseline of Sheng et al., "Enhancing Taobao display advertising with multimodal
    representations" (arXiv 2407.19467).
    """

    def __init__(self, length: int = 20) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.length = length

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width; there is no weight that depends on it."""
        self.out_features = self.length + 2

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, length + 2]."""
        items = batch.items[:, : self.length]
        known = batch.item_known[:, : self.length] & batch.target_known.unsqueeze(1)
        history = cosines(batch.target, items, known)
        history = F.pad(history, (0, self.length - history.shape[1]))
        query_known = (batch.target_known & batch.has_query).unsqueeze(1)
        query = cosines(batch.target, batch.query.unsqueeze(1), query_known)
        return torch.cat([history, query, query_known.to(query.dtype)], dim=1)
