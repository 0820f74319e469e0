"""The promise of every optimizer factory: it makes a stage's optimizer, once there are parameters and a trainer."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import moonlib.compat  # noqa: F401
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from moonlib.encoders.encoder import Encoder

WRAPPED = "_fsdp_wrapped_module."
"""FSDP puts this into the names of parameters."""


@dataclass(frozen=True)
class TrainedParameter:
    """A parameter that an optimizer is to train.

    Attributes:
        name: in the stage, without what a strategy adds.
        parameter: the parameter, or this process's shard of it.
        factor: its learning rate is this times the optimizer's.
        decays: whether weight decay applies, where the optimizer has any.
    """

    name: str
    parameter: nn.Parameter
    factor: float = 1.0
    decays: bool = True


@dataclass(frozen=True)
class OptimizerContext:
    """Facts of a training that an optimizer or its schedule may depend on.

    Attributes:
        device: where the parameters are.
        mixed_precision: whether gradients are computed in half precision and scaled, see Lightning's MixedPrecision.
        clips_gradients: whether the trainer clips gradients.
        count_steps: counts the optimizer's steps in all of the training; asked by schedules alone.
    """

    device: torch.device
    mixed_precision: bool
    clips_gradients: bool
    count_steps: Callable[[], int]

    @classmethod
    def of(cls, stage: LightningModule) -> OptimizerContext:
        """Facts of the training that a stage is in."""
        trainer = stage.trainer
        return cls(
            stage.device,
            isinstance(trainer.precision_plugin, MixedPrecision),
            bool(trainer.gradient_clip_val),
            lambda: _steps(trainer),
        )


class OptimizerFactory(ABC):
    """Makes an optimizer and, if it has one, its schedule of learning rates.

    A constructor takes the recipe's arguments and does no work.

    Attributes:
        takes_sparse: True if the optimizer takes sparse gradients, such as those of embedding tables.
    """

    takes_sparse: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> OptimizerLRScheduler:
        """Make the optimizer.

        Args:
            parameters: see `TrainedParameter`; each is to be trained, at its own factor of the learning rate.
            context: see `OptimizerContext`.

        Returns:
            One optimizer, alone or with its schedule: what Lightning's ``configure_optimizers`` may return.
        """


def trained_parameters(
    stage: nn.Module, encoder: Encoder | None = None, decayed: frozenset[str] | None = None
) -> list[TrainedParameter]:
    """Parameters of a stage that have gradients, in the order of the module.

    Args:
        stage: its parameters are trained.
        encoder: its parameters are trained at `Encoder.learning_rate_factor`; None for a stage without one.
        decayed: names of the parameters with weight decay; None for all. See `matrices`.
    """
    # By identity: it makes no difference what the stage calls its encoder.
    factors = {}
    if encoder is not None:
        for name, parameter in encoder.named_parameters():
            factors[id(parameter)] = encoder.learning_rate_factor(name.replace(WRAPPED, ""))
    named = [(name.replace(WRAPPED, ""), parameter) for name, parameter in stage.named_parameters()]
    return [
        TrainedParameter(name, parameter, factors.get(id(parameter), 1.0), decayed is None or name in decayed)
        for name, parameter in named
        if parameter.requires_grad
    ]


def matrices(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of more than one dimension.

    Asked for before a trainer starts: a strategy that shards the weights leaves each process pieces of one dimension.
    """
    return frozenset(name for name, parameter in module.named_parameters() if parameter.ndim > 1)


def by_factor(parameters: Sequence[TrainedParameter], learning_rate: float) -> list[dict[str, Any]]:
    """Group parameters by their factor, with the learning rate of each: groups as torch's optimizers take them.

    Args:
        parameters: any number.
        learning_rate: of a parameter with factor 1.

    Returns:
        One group per factor, in order of appearance.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> by_factor([TrainedParameter("weight", weight, factor=0.5)], 0.1)[0]["lr"]
        0.05
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for each in parameters:
        groups.setdefault(each.factor, []).append(each.parameter)
    return [{"params": found, "lr": factor * learning_rate} for factor, found in groups.items()]


def chosen(
    optimizer: OptimizerFactory | None, default: Callable[[], OptimizerFactory], stage: type, **arguments: float
) -> OptimizerFactory:
    """The optimizer that a stage is given, or else its default.

    Args:
        optimizer: as the recipe names it, None if it names none.
        default: makes the default of the arguments.
        stage: whose constructor takes the arguments.
        arguments: those that an ``optimizer`` takes the place of, with their values.

    Raises:
        ValueError: there is an optimizer, and an argument is not at its default, which would have no effect.
    """
    if optimizer is None:
        return default()
    defaults = inspect.signature(stage).parameters
    for name, value in arguments.items():
        if value != defaults[name].default:
            raise ValueError(
                f"{name}: {value} has no effect beside 'optimizer': give it in optimizer.init_args, and {name}: null"
            )
    return optimizer


def _steps(trainer: Trainer) -> int:
    if trainer.max_steps > 0:
        return trainer.max_steps
    steps = trainer.estimated_stepping_batches
    if steps != steps or steps == float("inf"):
        raise ValueError(
            "the schedule of the learning rate ends where training does: set trainer.max_steps or max_epochs"
        )
    return int(steps)
