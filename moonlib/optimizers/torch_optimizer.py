"""Any optimizer of torch, or with the interface of torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from moonlib.optimizers.optimizer_factory import OptimizerContext, OptimizerFactory, TrainedParameter


class TorchFactory(OptimizerFactory):
    """Any optimizer of torch by its class path, at a constant learning rate.

    A recipe may also give the class path itself where an optimizer is expected.

    Args:
        optimizer: class path, and arguments but for the parameters, for instance
            ``{class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}``. Weight decay, where the optimizer
            has any, applies to the parameters that decay alone.
    """

    takes_sparse: ClassVar[bool] = True  # some do; the others refuse in words of their own

    def __init__(self, optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]) -> None:
        self.optimizer = optimizer

    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> OptimizerLRScheduler:
        """Make the optimizer; see `OptimizerFactory`."""
        groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
        for each in parameters:
            groups.setdefault((each.factor, each.decays), []).append(each.parameter)
        optimizer = self.optimizer([{"params": found} for found in groups.values()])  # type: ignore[misc]
        for group, (factor, decays) in zip(optimizer.param_groups, groups, strict=True):
            if factor != 1:
                group["lr"] *= factor
            if not decays and "weight_decay" in group:
                group["weight_decay"] = 0.0
        return optimizer
