"""Gradient descent with momentum, at a learning rate that falls to 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from moonlib.optimizers import OptimizerContext, OptimizerFactory, TrainedParameter


class Template(OptimizerFactory):
    """Stochastic gradient descent with momentum; the learning rate falls linearly to 0 at the last step.

    Args:
        learning_rate: of the first step.
        momentum: share of the step before that is kept.

    Raises:
        ValueError: if ``momentum`` is not in [0, 1).
    """

    def __init__(self, learning_rate: float = 0.05, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.learning_rate = learning_rate
        self.momentum = momentum

    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> OptimizerLRScheduler:
        """Make the optimizer and its schedule; see `OptimizerFactory`."""
        groups = [{"params": [each.parameter], "lr": each.factor * self.learning_rate} for each in parameters]
        optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
        total = context.count_steps()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
