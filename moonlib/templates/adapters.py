"""How much the target is like what the shopper looked at lately."""

from __future__ import annotations

import torch
from torch import Tensor

from moonlib.adapters import Adapter, BehaviourBatch, cosines


class Template(Adapter):
    """The mean cosine of target and history in which recent behaviours weigh more.

    With the cosine c_l of the l-th behaviour, counted from the newest, and w_l = 2 ** (-l / half_life):
    sum of w_l c_l / sum of w_l, over the behaviours that have a representation; beside it, whether there are any.

    Args:
        half_life: after how many behaviours the weight is one half.

    Raises:
        ValueError: if ``half_life`` is not above 0.
    """

    def __init__(self, half_life: float = 5.0) -> None:
        super().__init__()
        if half_life <= 0:
            raise ValueError(f"half_life must be above 0, got {half_life}")
        self.half_life = half_life

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width; there is no weight that depends on it."""
        self.out_features = 2

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 2]."""
        known = batch.item_known & batch.target_known.unsqueeze(1)
        cosine = cosines(batch.target, batch.items, known)  # 0 where not known
        place = torch.arange(known.shape[1], device=cosine.device)
        weights = known * 2.0 ** (-place / self.half_life)
        mean = (weights * cosine).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return torch.stack([mean, known.any(dim=1).to(mean.dtype)], dim=1)
