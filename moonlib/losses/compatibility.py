"""How far vectors have moved away from those that an earlier encoder made of the same products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def movement(new: Tensor, old: Tensor) -> Tensor:
    """1 - cosine of the new and the old vector of each product.

    Its gradient pulls a new vector back to where the old one is. In backward-compatible training it stands beside the
    contrastive loss of new queries on old products: that makes new queries find old vectors, and this keeps the old
    products' neighbours.

    Args:
        new: float [N, D], of any length, with gradient.
        old: float [N, D], of any length, constant; a row of zeros for a product that the earlier encoder did not know.

    Returns:
        float [N], from 0 to 2, in float32 or wider; 0, with gradient 0, for a row of ``old`` that is zeros.

    Source: Shen et al., "Towards backward-compatible representation learning" (CVPR 2020), for training against what
    the old model makes; the regression onto the old vectors is its baseline of section 4, there by L2, which of unit
    vectors is 2 - 2 cosine.

    Example:
        >>> movement(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        tensor([0.4000, 0.0000])
    """
    new = new.to(torch.promote_types(new.dtype, torch.float32))
    old = old.to(new.dtype)
    return (1 - F.cosine_similarity(new, old, dim=1)).masked_fill(~old.any(dim=1), 0)
