"""What turns a frozen representation into features of a downstream model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass
class BehaviourBatch:
    """A target, the shopper's behaviours before it and the query it was shown for: ids embedded, content looked up.

    B rows, item history length L, query history length M, id width E, representation width D. Histories run from
    newest to oldest. A ``*_known`` mask is False where there is no representation; its row is then all zeros.

    Attributes:
        target_id: float [B, E], embedding of the target's id.
        target: float [B, D], its representation.
        target_known: bool [B].
        item_ids: float [B, L, E], embeddings of the ids of the items acted upon.
        item_mask: bool [B, L], False for padding.
        items: float [B, L, D], their representations.
        item_known: bool [B, L], a real behaviour that has a representation (implies ``item_mask``).
        queries: float [B, M, D], representations of past queries.
        query_known: bool [B, M], a real past query that has a representation.
        query: float [B, D], representation of the present query.
        has_query: bool [B].
    """

    target_id: Tensor
    target: Tensor
    target_known: Tensor
    item_ids: Tensor
    item_mask: Tensor
    items: Tensor
    item_known: Tensor
    queries: Tensor
    query_known: Tensor
    query: Tensor
    has_query: Tensor


class Adapter(nn.Module, ABC):
    """Maps a behaviour batch to features. Padding contributes exactly nothing.

    A constructor takes the recipe's arguments; `setup` makes the weights once the widths are known.

    Attributes:
        out_features: width F of the output, available after `setup`.
        reads_content: False for an adapter that reads ids only; nothing is then looked up for it (D = 0).
    """

    out_features: int
    reads_content: ClassVar[bool] = True

    @abstractmethod
    def setup(self, id_dim: int, dim: int) -> None:
        """Make the weights.

        Args:
            id_dim: width E of the id embeddings.
            dim: width D of the representations.
        """

    @abstractmethod
    def forward(self, batch: BehaviourBatch) -> Tensor:
        """Compute the features.

        Args:
            batch: B rows.

        Returns:
            float [B, out_features].
        """
