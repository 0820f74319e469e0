"""Which candidates are positives of a query and which are neither positive nor negative."""

from __future__ import annotations

import torch
from torch import Tensor


def positive_and_ignore(
    positive_ids: Tensor, positive_spus: Tensor, item_id: Tensor, spu_id: Tensor
) -> tuple[Tensor, Tensor]:
    """Mark each query's positives by item id and the other SKUs of their SPUs.

    Ids decide, never a place in the batch: a positive that enters the pool through another query, as an extra
    negative, from a queue or from another process is recognised all the same.

    Args:
        positive_ids: int64 [Q, K], known positives of each query, padded by repeating one of them.
        positive_spus: int64 [Q, L], their SPUs, and others that are no negatives.
        item_id: int64 [N], the pool.
        spu_id: int64 [N].

    Returns:
        ``positive`` bool [Q, N] and ``ignore`` bool [Q, N]: another SKU of a positive's SPU. They are disjoint.
    """
    positive = torch.zeros(len(positive_ids), len(item_id), dtype=torch.bool, device=item_id.device)
    same_spu = positive.clone()
    for known in positive_ids.T:  # one column at a time: [Q, K, N] would be K times the memory of the scores
        positive |= known[:, None] == item_id
    for known in positive_spus.T:
        same_spu |= known[:, None] == spu_id
    return positive, same_spu & ~positive
