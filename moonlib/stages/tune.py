"""Tuning of frozen representations: a click model trains a low-rank residual of them, and no encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moonlib.adapters.adapter import Adapter


@dataclass
class Tune:
    """How a click model tunes the representations that it reads, see `LowRankResidual`.

    Args:
        rank: R, how many directions are tuned.

    Raises:
        ValueError: if ``rank`` is below 1.
    """

    rank: int = 32

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")


def require_tunable(adapter: Adapter) -> None:
    """Refuse an adapter that takes nothing from tuned representations.

    Raises:
        ValueError: it reads no representations, or it is frozen once it is pretrained.
    """
    name = type(adapter).__name__
    if not adapter.reads_content:
        raise ValueError(f"tune: {name} reads no representations that could be tuned; leave tune out")
    if adapter.pretraining_epochs:
        raise ValueError(
            f"tune: {name} is frozen once it is pretrained, and would read what goes on changing; leave tune out"
        )


class LowRankResidual(nn.Module):
    """r + r A B: representations as they are, and a correction of low rank that is learnt.

    Clicks then say which of the differences that the encoder has learnt to see count, and the encoder stays as it is:
    one representation still serves every model. B begins at zero, so that the first step sees the representations
    as they are; of those of length zero, which stand for what has none, nothing comes.

    Args:
        dim: width D of the representations.
        rank: R.

    Source: LEMUR (arXiv 2511.10962) lets clicks train the encoder itself; here they train what stands behind it. The
    form is that of LoRA, Hu et al. (arXiv 2106.09685, section 4.1), applied to vectors in place of weights.

    Example:
        >>> tune = LowRankResidual(dim=4, rank=2)
        >>> bool((tune(torch.ones(3, 4)) == 1).all())
        True
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(dim, rank) * dim**-0.5)
        self.up = nn.Parameter(torch.zeros(rank, dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """Tune representations, float [..., D] to float [..., D]."""
        return vectors + vectors @ self.down @ self.up
