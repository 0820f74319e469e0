"""The base class of contrastive losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Loss(nn.Module, ABC):
    """A function of scores and masks: one value per query.

    Scale, bias and margins are parameters or arguments of the loss. Reduction, weights, chunking, the reverse
    direction and Matryoshka truncation belong to the stage.
    """

    def start_from(self, logit_scale: tuple[float, float] | None) -> None:
        """Start from the scale and the bias that the encoder was trained with, where a recipe says so.

        A stage calls it once, before training; by default it changes nothing.

        Args:
            logit_scale: factor of the scores and what is added to them; None for an encoder that has none, see
                `moonlib.encoders.encoder.Encoder.logit_scale`.

        Raises:
            ValueError: the recipe says so, and the encoder has none.
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


def told(logit_scale: tuple[float, float] | None, argument: str) -> tuple[float, float]:
    """The encoder's scale and bias.

    Raises:
        ValueError: it has none; ``argument`` asks for it.
    """
    if logit_scale is None:
        raise ValueError(f"loss: {argument}: the encoder was not trained with a logit scale; give a number")
    return logit_scale
