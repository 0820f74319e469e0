"""A factorisation machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.predictors import Predictor


class Template(Predictor):
    """A linear model of the features and of all their products, the products' weights of low rank.

    logit = b + sum over i of w_i x_i + sum over i < j of <v_i, v_j> x_i x_j

    Args:
        rank: width of each v.

    Raises:
        ValueError: if ``rank`` is below 1.

    Source: Rendle, "Factorization machines" (2010), equations 1 and 5.
    """

    def __init__(self, rank: int = 8) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.rank = rank

    def setup(self, in_features: int) -> None:
        """Make the weights."""
        self.linear = nn.Linear(in_features, 1)
        self.factors = nn.Parameter(0.01 * torch.randn(in_features, self.rank))

    def forward(self, features: Tensor) -> Tensor:
        """Predict logits, float [B]."""
        # All pairs i < j at once: half of (the square of the sum minus the sum of the squares).
        squared_sum = (features @ self.factors).square()
        sum_squared = features.square() @ self.factors.square()
        logits: Tensor = self.linear(features).squeeze(1) + (squared_sum - sum_squared).sum(dim=1) / 2
        return logits
