"""Features of ids that every click model has, with or without content."""

from __future__ import annotations

import torch
from torch import Tensor


def id_features(target: Tensor, history: Tensor, real: Tensor) -> Tensor:
    """Features from the embeddings of item ids: with target e and the mean m of the history, [e, m, e * m].

    Args:
        target: float [B, E].
        history: float [B, L, E].
        real: bool [B, L], False for padding.

    Returns:
        float [B, 3 E]; m is 0 for an empty history.

    Example:
        >>> history, real = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> id_features(torch.tensor([[5.0]]), history, real)
        tensor([[ 5.,  2., 10.]])
    """
    count = real.sum(dim=1, keepdim=True).clamp(min=1)
    mean = history.masked_fill(~real.unsqueeze(-1), 0).sum(dim=1) / count
    return torch.cat([target, mean, target * mean], dim=1)
