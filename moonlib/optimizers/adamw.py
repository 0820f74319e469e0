"""How encoders are optimised: AdamW with a linear warm-up and half a cosine, at rates of an encoder's own."""

from __future__ import annotations

import math

import moonlib.compat  # noqa: F401
import torch
from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

WRAPPED = "_fsdp_wrapped_module."
"""What FSDP puts into the names of parameters."""


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at a step: a linear rise over ``warmup`` steps, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def matrices(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of more than one dimension.

    Asked for before a trainer starts: a strategy that shards the weights leaves each process pieces of one dimension.
    """
    return frozenset(name for name, parameter in module.named_parameters() if parameter.ndim > 1)


def adamw(
    stage: LightningModule,
    encoder: nn.Module,
    decayed: frozenset[str],
    learning_rate: float,
    weight_decay: float,
    warmup: float,
) -> OptimizerLRScheduler:
    """AdamW over what is trainable of a stage, with its schedule.

    An encoder may ask for rates of its own: where it has a method ``learning_rate_factor``, that is called with the
    name of each of its parameters, and the parameter is trained at ``learning_rate`` times what it returns.

    Args:
        stage: its parameters are trained; holds ``encoder`` under that name.
        encoder: see above.
        decayed: names of the parameters with weight decay.
        learning_rate: peak of the schedule, which decays to 0 at the trainer's ``max_steps``.
        weight_decay: see ``decayed``.
        warmup: share of the steps over which the learning rate rises.
    """
    factor = getattr(encoder, "learning_rate_factor", None)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:
            name = name.replace(WRAPPED, "")
            own = factor(name.removeprefix("encoder.")) if factor and name.startswith("encoder.") else 1.0
            groups.setdefault((own, name in decayed), []).append(parameter)
    mixed = isinstance(stage.trainer.precision_plugin, MixedPrecision)
    optimizer = torch.optim.AdamW(
        [
            {"params": found, "lr": own * learning_rate, "weight_decay": weight_decay if decays else 0.0}
            for (own, decays), found in groups.items()
        ],
        lr=learning_rate,
        # Ten times faster on a CPU. Elsewhere torch knows best, and Lightning can't clip gradients of a fused one; nor
        # here under mixed precision.
        fused=True if stage.device.type == "cpu" and not (mixed and stage.trainer.gradient_clip_val) else None,
    )
    total = stage.trainer.max_steps
    rising = max(1, round(warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, rising, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
