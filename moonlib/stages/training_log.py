"""The log of a training: metrics for loggers and callbacks, and the line of its progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import moonlib.compat  # noqa: F401
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from moonlib.stages.clipping import gradient_norm
from moonlib.system.progress import Task

EVERY = 50
"""Steps between two rows of a log by Lightning's default."""


class TrainingLog(Callback):
    """Logs learning rates, gradient norm and samples per second where Lightning logs, and counts the steps.

    ``learning_rate`` is the one that the step is made with, of the group of parameters that has the largest; others are
    ``learning_rate/2`` and so on. ``gradient_norm`` is what clipping sees: of all gradients of a step together, after
    accumulation and before they are clipped. Both are computed every ``trainer.log_every_n_steps`` steps alone, and at
    the first, so that callbacks find them. Lightning's default of 50 becomes a twentieth of a training that has fewer
    than 1,000 steps, which would hardly leave a curve.

    Args:
        task: counts the steps.
        batch_size: samples in a batch, over all devices; None where that is not known.
    """

    def __init__(self, task: Task, batch_size: int | None) -> None:
        self.task, self.batch_size = task, batch_size
        self.step = 0
        self.before: Any = None
        self.logged: tuple[float, int] | None = None
        self.first = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step, self.task.total = trainer.global_step, steps_of(trainer)
        if self.batch_size is not None:
            self.task.counts("samples", self.batch_size * trainer.accumulate_grad_batches)
        else:
            self.task.counts("steps", 1)
        if trainer.log_every_n_steps == EVERY and self.task.total is not None:  # type: ignore[attr-defined]
            trainer.log_every_n_steps = max(1, min(EVERY, self.task.total // 20))  # type: ignore[attr-defined]
        if self.step:
            self.task.resume(self.step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        due = trainer._logger_connector.should_update_logs
        if not due and not self.first:
            return
        self.first = False
        for name, rate in learning_rates(optimizer).items():
            pl_module.log(name, rate)
        pl_module.log("gradient_norm", whole_norm(trainer, optimizer))
        now, step = time.monotonic(), trainer.global_step
        if self.logged is not None and step > self.logged[1] and self.batch_size is not None:
            samples = (step - self.logged[1]) * self.batch_size * trainer.accumulate_grad_batches
            pl_module.log("samples_per_second", samples / max(now - self.logged[0], 1e-9))
        self.logged = now, step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        # The loss of the batch before has long been computed: to read it makes no accelerator wait.
        known, self.before = (loss if self.before is None else self.before), loss
        step = trainer.global_step
        if step == self.step:  # gradients are being accumulated
            return
        self.step = step
        if isinstance(known, Tensor):
            # Lightning has divided it by the number of batches that a step accumulates.
            self.task.at(self.step, lambda: float(known) * trainer.accumulate_grad_batches)
        else:
            self.task.at(self.step)


def steps_of(trainer: Trainer) -> int | None:
    """Steps of the optimizer that a training has in all; None where nothing limits them."""
    try:
        steps = trainer.estimated_stepping_batches
    except MisconfigurationException:  # the number of accumulated batches changes
        return None
    return int(steps) if 0 < steps < float("inf") else None


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Learning rates of an optimizer's groups, by what they are logged as; equal ones once.

    Groups are told apart by the rates that their schedule starts from: two that are both 0 for a moment stay two.

    Example:
        >>> groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.01, 0.1, 0.1)]
        >>> learning_rates(torch.optim.SGD(groups))
        {'learning_rate': 0.1, 'learning_rate/2': 0.01}
    """
    rates: dict[float, float] = {}
    for group in optimizer.param_groups:
        if group["params"]:
            rates[float(group.get("initial_lr", group["lr"]))] = float(group["lr"])
    ordered = [rates[initial] for initial in sorted(rates, reverse=True)]
    return {"learning_rate" if i == 1 else f"learning_rate/{i}": rate for i, rate in enumerate(ordered, 1)}


def whole_norm(trainer: Trainer, optimizer: Optimizer) -> Tensor:
    """The 2-norm of all gradients of an optimizer, those that other processes hold included; a tensor of no dimensions.

    To be called by all processes.
    """
    norm = gradient_norm(parameters_of(optimizer))
    if isinstance(norm, DTensor):
        return norm.full_tensor()
    if isinstance(trainer.strategy, FSDPStrategy):  # each process holds a piece of every gradient
        squared = norm.to(trainer.strategy.root_device).square()
        torch.distributed.all_reduce(squared)
        return squared.sqrt()
    return norm


def parameters_of(optimizer: Optimizer) -> Iterable[Tensor]:
    """The parameters of all groups."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
