"""The held-out pairs of a query and the item it led to, with their vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moonlib.data.evaluation import EVALUATION_READS, evaluation_searches
from moonlib.probes.probe import Represented
from moonlib.representations.store import unit

PAIR_READS = EVALUATION_READS
"""What `OrderedPairs.of` reads."""


@dataclass(frozen=True)
class OrderedPairs:
    """P pairs of a query and an item that was ordered, in order of time; unit vectors, zeros where there is none.

    Attributes:
        query: float [P, D].
        item: float [P, D].
        spu_id: int64 [P], of the item.
    """

    query: Tensor
    item: Tensor
    spu_id: Tensor

    @classmethod
    def of(cls, represented: Represented) -> OrderedPairs:
        """The searches of the split's days that ended in an order, one pair per search and ordered SPU."""
        searches = evaluation_searches(represented.dataset, represented.split).sort("ts", "search_id", "spu_id")
        return cls(
            torch.from_numpy(unit(represented.queries.gather(searches["query_id"].to_numpy()))),
            torch.from_numpy(unit(represented.products.gather(searches["item_id"].to_numpy()))),
            torch.from_numpy(searches["spu_id"].to_numpy().copy()),
        )
