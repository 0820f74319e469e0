"""Adam at a constant learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from moonlib.optimizers.lazy_adam import LazyAdam
from moonlib.optimizers.optimizer_factory import OptimizerContext, OptimizerFactory, TrainedParameter, by_factor


class AdamFactory(OptimizerFactory):
    """Adam at a constant learning rate, without weight decay.

    Args:
        learning_rate: of all steps.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization" (arXiv 1412.6980).
    """

    def __init__(self, learning_rate: float = 1e-3) -> None:
        self.learning_rate = learning_rate

    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> OptimizerLRScheduler:
        """Make the optimizer; see `OptimizerFactory`."""
        return torch.optim.Adam(by_factor(parameters, self.learning_rate), lr=self.learning_rate)


class LazyAdamFactory(OptimizerFactory):
    """Adam that, of a table with sparse gradients, moves only the rows in the batch; see `LazyAdam`.

    Args:
        learning_rate: of all steps.
    """

    takes_sparse: ClassVar[bool] = True

    def __init__(self, learning_rate: float = 1e-3) -> None:
        self.learning_rate = learning_rate

    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> OptimizerLRScheduler:
        """Make the optimizer; see `OptimizerFactory`."""
        return LazyAdam(by_factor(parameters, self.learning_rate), lr=self.learning_rate)
