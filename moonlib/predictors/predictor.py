"""The base class of predictors, which turn features into a logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Predictor(nn.Module, ABC):
    """Maps features to one logit per row; `setup` makes the weights once the width is known.

    *Matching points.* An adapter may hold a model of its own, whose hidden outputs and logit are joined to the
    predictor's. A predictor that can join them says ``joins = True`` and takes one more argument in both methods::

        setup(in_features, matching=())
        forward(features, matched=())

    ``matching`` are the widths of what is joined: nothing at all; or k hidden outputs, in order, and, always last, the
    logit, of width 1. ``matched`` holds a float tensor [B, width] for each. Hidden output i is concatenated to the
    output of the predictor's hidden layer i, both counted from 0, before the next layer reads it. The logit, times a
    learned scalar that starts at 1, is added to the predictor's own. Where k is less than the number of hidden layers,
    the later ones join nothing; more is a `ValueError`, and so is a last width other than 1.

    To a predictor that does not join, the adapter's hidden outputs and logit come as features among the others.

    Attributes:
        joins: whether `setup` and `forward` take matching points.

    Source: the matching points are those of MAKE (arXiv 2407.19467); which layer joins which, and the scalar, are our
    choice.
    """

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
