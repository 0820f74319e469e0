"""What turns features into a click logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Predictor(nn.Module, ABC):
    """Maps features to one logit per row; `setup` makes the weights once the width is known."""

    joins: ClassVar[bool] = False

    @abstractmethod
    def setup(self, in_features: int) -> None:
        """Make the weights for inputs of width ``in_features``."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Predict.

        Args:
            features: float [B, in_features].

        Returns:
            logits, float [B].
        """
