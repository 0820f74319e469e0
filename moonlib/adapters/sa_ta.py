"""Semantic-aware target attention: ids and content decide together which behaviours matter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.cosine import cosines
from moonlib.adapters.target_attention import attend


class SATA(Adapter):
    """Σ_b w_b e_b with w = softmax(β1 dot_b + β2 cos_b / τ + β3 dot_b cos_b / τ) over the real behaviours b.

    dot_b = e_t · e_b compares id embeddings, without a factor 1 / sqrt(E); cos_b = cos(r_t, r_b) compares
    representations and is 0 where one of them is missing. β and τ are learnt.

    Args:
        beta: β1, β2 and β3 at the start.
        temperature: τ at the start.

    Raises:
        ValueError: if there are not three β, or ``temperature`` is not above 0.

    Source: SA-TA of MUSE (arXiv 2512.07216), which starts at β = 1 and τ = 0.1.

    Example:
        >>> adapter = SATA()
        >>> adapter.setup(id_dim=16, dim=128)
        >>> adapter.out_features
        16
    """

    reads_queries = False

    def __init__(self, beta: tuple[float, float, float] = (1.0, 1.0, 1.0), temperature: float = 0.1) -> None:
        super().__init__()
        if len(beta) != 3:
            raise ValueError(f"beta must have three values, got {list(beta)}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.beta = nn.Parameter(torch.tensor(beta, dtype=torch.float32))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width; there is no weight that depends on it."""
        self.out_features = id_dim

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the interest, float [B, E]."""
        ids = batch.item_ids.masked_fill(~batch.item_mask.unsqueeze(-1), 0)
        dots = torch.matmul(ids, batch.target_id.unsqueeze(-1)).squeeze(-1)
        known = batch.item_known & batch.target_known.unsqueeze(1)
        sharp = cosines(batch.target, batch.items, known) / self.log_temperature.exp()
        scores = self.beta[0] * dots + self.beta[1] * sharp + self.beta[2] * dots * sharp
        return attend(scores, ids, batch.item_mask)
