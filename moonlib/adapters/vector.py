"""The representation itself as features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.adapters.adapter import Adapter, BehaviourBatch


class Vector(Adapter):
    """The target's and the present query's representation, and whether each is known.

    Representations are scaled to length sqrt(D), that is components of about unit size, whatever the scale at which the
    encoder left them: beside ids and counts, components of size 1 / sqrt(D) would be learnt last. There is no
    projection, since the predictor's first layer is one.

    Source: "vector" baseline of Sheng et al., "Enhancing Taobao display advertising with multimodal representations"
    (arXiv 2407.19467); the scale and the flags are our choice.
    """

    def setup(self, id_dim: int, dim: int) -> None:
        """Fix the width; there is no weight that depends on it."""
        self.out_features = 2 * (dim + 1)

    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features, float [B, 2 (D + 1)]."""
        target = unit_size(batch.target, batch.target_known)
        query = unit_size(batch.query, batch.has_query)
        flags = torch.stack([batch.target_known, batch.has_query], dim=1).to(target.dtype)
        return torch.cat([target, query, flags], dim=1)


def unit_size(vectors: Tensor, known: Tensor) -> Tensor:
    """Scale vectors to length sqrt(D).

    Args:
        vectors: float [..., D].
        known: bool [...].

    Returns:
        float [..., D]; exactly 0 where not known, whatever stands there.
    """
    return F.normalize(vectors.masked_fill(~known.unsqueeze(-1), 0), dim=-1) * vectors.shape[-1] ** 0.5
