"""AdamW with a linear warm-up and half a cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import moonlib.compat  # noqa: F401
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from moonlib.encoders.encoder import Encoder
from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    TrainedParameter,
    matrices,
    trained_parameters,
)
from moonlib.registry.deprecation import warn_once

__all__ = ["AdamWFactory", "adamw", "matrices", "warmup_cosine"]


class AdamWFactory(OptimizerFactory):
    """AdamW; the learning rate rises over the first steps, then follows half a cosine down to 0 at the last.

    Args:
        learning_rate: peak of the schedule.
        weight_decay: of the parameters that decay: a stage names the matrices alone.
        warmup: share of the steps over which the learning rate rises.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (arXiv 1711.05101) and "SGDR" (arXiv
    1608.03983) for the cosine.
    """

    def __init__(self, learning_rate: float = 1e-3, weight_decay: float = 0.05, warmup: float = 0.05) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup

    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> OptimizerLRScheduler:
        """Make the optimizer and its schedule; see `OptimizerFactory`."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
        for each in parameters:
            groups.setdefault((each.factor, each.decays), []).append(each.parameter)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": found,
                    "lr": factor * self.learning_rate,
                    "weight_decay": self.weight_decay if decays else 0.0,
                }
                for (factor, decays), found in groups.items()
            ],
            lr=self.learning_rate,
            # Ten times faster on a CPU. Elsewhere torch knows best, and Lightning can't clip gradients of a fused one;
            # nor here under mixed precision.
            fused=True
            if context.device.type == "cpu" and not (context.mixed_precision and context.clips_gradients)
            else None,
        )
        total = context.count_steps()
        rising = max(1, round(self.warmup * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, rising, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at a step: a linear rise over ``warmup`` steps, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def adamw(
    stage: LightningModule,
    encoder: Encoder,
    decayed: frozenset[str],
    learning_rate: float,
    weight_decay: float,
    warmup: float,
) -> OptimizerLRScheduler:
    """Make the optimizer of a stage; what `AdamWFactory` is for now.

    Args:
        stage: its parameters are trained.
        encoder: of the stage.
        decayed: names of the parameters with weight decay.
        learning_rate: see `AdamWFactory`.
        weight_decay: see `AdamWFactory`.
        warmup: see `AdamWFactory`.
    """
    warn_once("moonlib.optimizers.adamw.adamw is AdamWFactory now; the old name works until release 0.6")
    make = AdamWFactory(learning_rate, weight_decay, warmup)
    return make(trained_parameters(stage, encoder, decayed), OptimizerContext.of(stage))
