"""Learning rates of an encoder's own, by the names of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn


class LearningRates:
    """Factors on a stage's learning rate, by patterns of parameter names.

    Args:
        factors: pattern → factor. A parameter in whose name the pattern is found (a regular expression; the first
            one counts) is trained at the stage's learning rate times the factor; at 0 it is frozen. Statistics of batch
            normalisation are no parameters, and go on.

    Raises:
        ValueError: a pattern is not a regular expression, or a factor is negative.

    Example:
        >>> LearningRates({"^image": 0.1}).factor("image.body.0.weight")
        0.1
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        for pattern, factor in factors.items():
            if factor < 0:
                raise ValueError(f"learning_rates: '{pattern}': expected a factor >= 0, got {factor}")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"learning_rates: '{pattern}' is no regular expression: {error}") from None
        self.factors = dict(factors)

    def factor(self, name: str) -> float:
        """The factor of the parameter of this name, 1 where no pattern is found in it."""
        return next((factor for pattern, factor in self.factors.items() if re.search(pattern, name)), 1.0)

    def trainable(self, module: nn.Module) -> dict[str, bool]:
        """By name, which parameters of ``module`` are to be trained: those that were, less those with factor 0.

        Raises:
            ValueError: a pattern is found in no name.
        """
        names = [name for name, _ in module.named_parameters()]
        for pattern in self.factors:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"learning_rates: '{pattern}' matches no parameter; names are such as {', '.join(names[:3])}"
                )
        return {
            name: parameter.requires_grad and self.factor(name) > 0 for name, parameter in module.named_parameters()
        }
