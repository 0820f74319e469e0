"""The batch's own items as negatives."""

from __future__ import annotations

from moonlib.data.reads import NOTHING, Reads
from moonlib.negatives.negative_sampler import NegativeSampler


class InBatch(NegativeSampler):
    """Contrasts a query with the other items of its batch and adds nothing to them.

    The batch's items are always among the candidates; this sampler exists so that a recipe can say
    ``negatives: [in_batch]``.
    """

    def reads(self) -> Reads:
        """Nothing but ids; see `NegativeSampler.reads`."""
        return NOTHING
