"""Activations of a predictor's hidden layers."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moonlib.system.process_group import together

Activation = Literal["relu", "prelu", "dice"]


def make_activation(name: Activation, width: int) -> nn.Module:
    """Make an activation for a layer.

    Args:
        name: ``relu``; ``prelu``, whose slope below 0 is learnt per unit and starts at 0.25; ``dice``, see `Dice`.
        width: units of the layer.

    Source: He et al., "Delving deep into rectifiers" (2015), for PReLU.
    """
    return nn.ReLU() if name == "relu" else nn.PReLU(width) if name == "prelu" else Dice(width)


class Dice(nn.Module):
    """A PReLU whose corner lies where the unit's values lie, and is as smooth as they are wide:

        f(s) = p(s) s + (1 - p(s)) alpha s,    p(s) = sigmoid((s - mean) / sqrt(var + eps))

    alpha is learnt per unit. ``mean`` and ``var`` are the unit's over the batches of training so far: buffers, moved
    towards each batch after it was passed through, by a tenth of the way (by 1/n for the first ten batches, which is
    their average). So a row's output depends on the weights and on batches gone by, never on the other rows of its own
    batch: training and evaluation compute the same function, a batch of one row will do, and several processes, which
    add up their rows before the buffers move, do what one process does with the whole batch.

    The paper takes the statistics of the present batch in training, and their gradient; ours lag by one batch. They
    only place and widen the gate p, so nothing grows when they are old.

    Args:
        width: units U.

    Source: Zhou et al., "Deep interest network for click-through rate prediction" (arXiv 1706.06978, section 5.3). When
    statistics are taken, the rate 0.1, eps 1e-8 and alpha starting at 0 are our choice.

    Example:
        >>> dice = Dice(1)
        >>> dice(torch.tensor([[-100.0], [0.0], [100.0]])).flatten().tolist()  # at first around 0: as good as a ReLU
        [-0.0, 0.0, 100.0]
    """

    RATE = 0.1
    EPS = 1e-8

    mean: Tensor
    var: Tensor
    batches: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, units: Tensor) -> Tensor:
        """Activate, float [B, U] → float [B, U]."""
        gate = torch.sigmoid((units - self.mean) * (self.var + self.EPS).rsqrt())
        active: Tensor = units * (self.alpha + (1 - self.alpha) * gate)
        if self.training:
            self.follow(units.detach())
        return active

    @torch.no_grad()
    def follow(self, units: Tensor) -> None:
        """Move the statistics towards a batch, float [B, U], of which every process has a part."""
        # Deviations from the mean so far: their squares stay small, so that nothing cancels in float32.
        deviation = units.to(self.mean.dtype) - self.mean
        rows = deviation.new_full((1,), len(units))
        sums = torch.cat([deviation.sum(dim=0), deviation.square().sum(dim=0), rows])
        if together():
            dist.all_reduce(sums)
        shift, square = (sums[:-1] / sums[-1]).chunk(2)
        self.batches += 1
        rate = (1 / self.batches).clamp(min=self.RATE)
        self.mean += rate * shift
        self.var += rate * ((square - shift.square()).clamp(min=0) - self.var)
