"""Which token may look at which, rows packed into sequences, and pooling: functions of plain tensors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "last"]


def attention_mask(segments: Tensor, causal: bool) -> Tensor:
    """Let every token look at those of its own segment and at no other.

    Padding is a segment of its own, so that no row of the mask is empty (softmax over nothing is NaN, in the gradient
    too), and is looked at by nothing else.

    Args:
        segments: int64 [N, L], number of the row that a token belongs to, -1 for padding.
        causal: a token sees itself and what stands before it only.

    Returns:
        bool [N, 1, L, L], True where the query (third dimension) may look at the key (fourth).

    Example:
        >>> attention_mask(torch.tensor([[0, 0, 1]]), causal=True).int()[0, 0].tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    allowed = segments[:, :, None] == segments[:, None, :]
    if causal:
        allowed = allowed.tril()
    return allowed[:, None]


def pack(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Lay rows one behind another into sequences of ``capacity`` tokens, or of the longest row if that is more.

    Rows keep their order and are never split: a sequence takes rows until the next one no longer fits.

    Args:
        mask: bool [B, T], True for tokens; each row's come first.
        capacity: tokens of a sequence.

    Returns:
        The place of every token, int64 [mask.sum()] in the order of ``x[mask]``, within the N sequences laid flat, and
        the segments of `attention_mask`, int64 [N, L].

    Example:
        >>> mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
        >>> places, segments = pack(mask, 4)
        >>> places.tolist(), segments.tolist()
        ([0, 1, 4, 5, 6, 7], [[0, 0, -1, -1], [1, 1, 1, 2]])
    """
    lengths = mask.sum(dim=1)
    length = max(capacity, int(lengths.max()), 1)
    ends = lengths.cumsum(0)
    # One look-up per sequence: how many rows end within ``length`` tokens of its start.
    starts, first = torch.zeros_like(lengths), 0
    begins = (ends - lengths).tolist()
    count = 0
    while first < len(lengths):
        last = int(torch.searchsorted(ends, begins[first] + length, right=True))
        starts[first:last] = count * length - begins[first]
        first, count = last, count + 1
    rows = mask.nonzero()[:, 0]
    places = torch.arange(len(rows), device=mask.device) + starts[rows]
    segments = rows.new_full((count * length,), -1)
    segments[places] = rows
    return places, segments.view(count, length)


def pool(states: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """Make one vector of a row's tokens, padding and nothing else left out.

    Args:
        states: float [B, T, H].
        mask: bool [B, T], True for tokens; each row's come first.
        how: ``"mean"`` of all, or the ``"last"`` one.

    Returns:
        float [B, H], zeros for a row without tokens.

    Example:
        >>> pool(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]), "mean").item()
        3.0
    """
    if how == "mean":
        weights = mask.to(states.dtype).unsqueeze(2)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    lengths = mask.sum(dim=1)
    last = states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)]
    return last * (lengths > 0).to(states.dtype).unsqueeze(1)
