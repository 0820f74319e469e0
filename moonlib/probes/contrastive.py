"""The contrastive loss of held-out pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moonlib.data.reads import Reads
from moonlib.probes.pairs import PAIR_READS, OrderedPairs
from moonlib.probes.probe import Probe, Represented


def held_out_loss(query: Tensor, item: Tensor, spu_id: Tensor, temperature: float, batch_size: int) -> Tensor:
    """InfoNCE of pairs against the other pairs of their batch, from query to item.

    Other items of the pair's SPU are left out of the denominator.

    Args:
        query: float [P, D], unit vectors, zeros for none.
        item: float [P, D], the same.
        spu_id: int64 [P], of the items.
        temperature: divides the cosines.
        batch_size: B. Pairs are batched as they come; the last batch, which may be smaller, has as many negatives as
            the others where it can: it is filled up with the pairs before it, which do not count twice.

    Returns:
        float64 scalar, in nats, mean over the pairs; NaN without pairs. Of vectors that say nothing it is log B.

    Source: van den Oord et al., "Representation learning with contrastive predictive coding" (arXiv 1807.03748).
    """
    losses = []
    for start in range(0, len(query), batch_size):
        first = max(0, min(start, len(query) - batch_size))
        batch = slice(first, first + batch_size)
        same = spu_id[batch].unsqueeze(1) == spu_id[batch]
        same.fill_diagonal_(False)
        scores = (query[batch] @ item[batch].T / temperature).double().masked_fill(same, -torch.inf)
        target = torch.arange(len(scores))
        losses.append(F.cross_entropy(scores, target, reduction="none")[start - first :])
    return torch.cat(losses).mean() if losses else torch.tensor(torch.nan, dtype=torch.float64)


class HeldOutLoss(Probe):
    """The contrastive loss of held-out pairs of a query and what was ordered, whatever the encoder was trained with.

    Temperature and negatives are the same for all representations: the other pairs of a batch that is drawn once and
    for all. A pair without a representation has cosine 0 with everything. Data without orders has no such loss.

    Args:
        temperature: of the softmax.
        batch_size: pairs in a batch, one more than the negatives of each.
    """

    def __init__(self, temperature: float = 0.07, batch_size: int = 256) -> None:
        self.temperature = temperature
        self.batch_size = batch_size

    def reads(self) -> Reads:
        """See `Probe.reads`."""
        return PAIR_READS

    def __call__(self, represented: Represented) -> dict[str, float]:
        """Return ``contrastive_loss``, in nats; less is better."""
        pairs = OrderedPairs.of(represented)
        if not len(pairs.query):
            return {}
        order = torch.randperm(len(pairs.query), generator=torch.Generator().manual_seed(0))
        query, item, spu_id = pairs.query[order], pairs.item[order], pairs.spu_id[order]
        return {"contrastive_loss": float(held_out_loss(query, item, spu_id, self.temperature, self.batch_size))}
