"""Attention of the Qwen vision towers over all images of a batch at once.

transformers hands their patches over as one long sequence, cut into images or windows. Its `sdpa` attends to each of
these cuts in a Python loop: in every layer one call per image, and per window where there are windows. Here they are
one call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Only to a name with "flash" in it does transformers hand the whole sequence, with the ends of its parts.
IMAGES = "moonlib_flash_images"


def attend_within(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scale: float | None, dropout: float = 0.0
) -> Tensor:
    """Softmax attention in which every part of a sequence sees itself and nothing else.

    Args:
        query: float [H, S, D], H heads, the parts one behind another; so are ``key`` and ``value``.
        ends: integer [n], where each part ends, ascending; the last is S. Parts may be empty.
        longest: length of the longest part.
        scale: of the products of query and key; None for 1/√D.
        dropout: share of the attention weights that is dropped.

    Returns:
        float [S, H, D].

    Example:
        >>> value = torch.tensor([[[1.0], [3.0], [5.0]]])
        >>> attend_within(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1), value, torch.tensor([2, 3]), 2, None).flatten()
        tensor([2., 2., 5.])
    """
    if len(ends) * longest == query.shape[1]:
        q, k, v = (x.unflatten(1, (len(ends), longest)).transpose(0, 1) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v, scale=scale, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(0, 1)
    lengths = ends.diff(prepend=ends.new_zeros(1))
    exists = torch.arange(longest, device=ends.device) < lengths[:, None]
    # A part without anything sees padding: softmax over nothing is NaN, in the gradient too.
    seen = (exists | (lengths == 0)[:, None])[:, None, None]

    def padded(x: Tensor) -> Tensor:
        laid = x.new_zeros(len(ends), longest, x.shape[0], x.shape[2])
        laid[exists] = x.transpose(0, 1)
        return laid.transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        padded(query), padded(key), padded(value), attn_mask=seen, scale=scale, dropout_p=dropout
    )
    return attended.transpose(1, 2)[exists]


def attend_images_at_once(tower: nn.Module) -> None:
    """Have a vision tower of transformers attend with `attend_within` from now on."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMAGES, _attend)
    config: Any = tower.config
    config._attn_implementation = IMAGES


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, with states [1, H, S, D]; returns [1, S, H, D] and no attention weights."""
    ends = torch.tensor([query.shape[2]], device=query.device) if cu_seq_lens_q is None else cu_seq_lens_q[1:]
    longest = query.shape[2] if cu_seq_lens_q is None or max_length_q is None else int(max_length_q)
    return attend_within(query[0], key[0], value[0], ends, longest, scaling, dropout)[None], None
