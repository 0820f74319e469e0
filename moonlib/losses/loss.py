"""The base class of contrastive losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Loss(nn.Module, ABC):
    """A function of scores and masks: one value per query.

    Scale, bias and margins are parameters or arguments of the loss. Reduction, weights, chunking, the reverse
    direction and Matryoshka truncation belong to the stage.
    """

    @abstractmethod
    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        """Compute one loss per query.

        Args:
            scores: float [Q, N], cosine of each query with each candidate.
            positive: bool [Q, N], the candidates that the query is known to have led to.
            ignore: bool [Q, N], candidates that are neither positive nor negative (other SKUs of a positive's SPU).
                Disjoint from ``positive``.

        Returns:
            float [Q]; 0 for a query without any positive.
        """
