"""Cosines between a target and other representations, row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def cosines(target: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """Compare each target with its own others.

    Args:
        target: float [B, D].
        others: float [B, L, D].
        known: bool [B, L], the pairs of which both sides have a representation.

    Returns:
        float [B, L] in [-1, 1]; exactly 0 where not known, whatever stands there.
    """
    dots = torch.matmul(others, target.unsqueeze(-1)).squeeze(-1)
    norms = others.norm(dim=-1) * target.norm(dim=-1, keepdim=True)
    return (dots / norms.clamp(min=1e-12)).clamp(-1, 1).masked_fill(~known, 0)
