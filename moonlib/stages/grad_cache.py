"""Batches larger than memory: encode in parts, keep the representations only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moonlib.encoders.encoder import ContentBatch, Encoder


def encode(encoder: Encoder, content: ContentBatch, rows: int | None) -> Tensor:
    """Encode a batch, of which no more than ``rows`` rows hold activations at a time.

    Each part is encoded without keeping its activations. When the gradient of its representations is known, it is
    encoded once more, under the random state of the first time, and backpropagated. So the gradient is that of the
    whole batch, the memory that of a part, and the price one more forward pass. It works for any encoder whose rows do
    not depend on each other, and for any loss.

    Args:
        encoder: see `Encoder`.
        content: B rows.
        rows: size of a part; None, or at least B, encodes everything at once.

    Returns:
        float [B, D].

    Source: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup" (2021), GradCache;
    here by torch's activation checkpointing of each part, which replays the random state.
    """
    size = len(next(iter(content.values())))
    if rows is None or rows >= size or not torch.is_grad_enabled():
        return encoder(content)
    parts = [{name: tensor[start : start + rows] for name, tensor in content.items()} for start in range(0, size, rows)]
    return torch.cat([checkpoint(encoder, part, use_reentrant=False) for part in parts])


def refuse_batch_statistics(encoder: nn.Module) -> None:
    """Refuse an encoder whose rows depend on the rest of their batch: in parts, it would be another encoder.

    Raises:
        ValueError: naming the module.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"grad_cache: the encoder's {name} is a {type(module).__name__}, whose output depends on the whole "
                "batch. Use an encoder with group or layer normalisation, or remove grad_cache"
            )
