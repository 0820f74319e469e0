"""Validation while a stage trains: measured every so often, logged, and the best weights kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from moonlib.artifacts import logs
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import BEST, VALIDATION, WEIGHTS
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.metrics.key import MetricKey
from moonlib.stages.random_state import generators, set_generators
from moonlib.stages.stage import StageContext

log = logging.getLogger(__name__)

Measure = Callable[[], Mapping[str, float]]
"""Measures a stage as it is: values by name, the same names every time."""


class Validation(Callback):
    """Measures a stage before its first step, every so many steps and at its end, and keeps the best weights.

    Values are logged as ``validation/<name>``: callbacks can monitor them, and are told after each validation as they
    are by Lightning's own. Training is the same to the bit as without: random generators and the modes of modules are
    put back. Of several processes the first measures, and all of them log what it found.

    What was measured so far is in the checkpoints of the training. The best weights are in files of their own, each of
    a step: the one that the last checkpoint knows of is deleted only when a later checkpoint knows of a better one.

    Args:
        context: of the stage, with a schedule.
        module: whose weights are kept.
        measure: what is measured; called in the first process alone.
        higher_is_better: direction of each of the names; the first one decides if the schedule names none.

    Raises:
        ValueError: the schedule names a metric that is not measured, or the weights are sharded.
    """

    def __init__(
        self, context: StageContext, module: nn.Module, measure: Measure, higher_is_better: Mapping[str, bool]
    ) -> None:
        assert context.validate is not None
        self.context, self.module, self.measure = context, module, measure
        self.names = list(higher_is_better)
        self.metric = context.validate.metric or self.names[0]
        if self.metric not in higher_is_better:
            raise ValueError(f"validate.metric: '{self.metric}' is not measured here, only {', '.join(self.names)}")
        if isinstance(context.trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise ValueError("validate: no strategy that shards the weights can be validated on the way: leave it out")
        self.higher_is_better = higher_is_better[self.metric]
        self.history: list[tuple[int, dict[str, float]]] = []
        self.best: int | None = None
        self.known: int | None = None
        self.saving: int | None = None
        self.step = 0
        self.logged = False
        self.kept: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        if self.best is not None and self.keeps_best and not self.file(self.best).exists():
            raise ValueError(
                f"{self.file(self.best)} is missing, the best weights so far; delete {self.context.directory} to start "
                "this stage over"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.history:
            self.validate(trainer, pl_module)
        elif not self.logged:  # a resumed training: callbacks find what was measured last
            self.log_values(pl_module, self.history[-1][1])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.context.validate is not None
        if self.saving is not None:  # that checkpoint is on the disk by now
            self.known, self.saving = self.saving, None
        step = trainer.global_step
        stepped, self.step = step != self.step, step  # of accumulated batches the last one steps
        if stepped and (step % self.context.validate.every == 0 or step == trainer.max_steps):
            self.validate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history and self.history[-1][0] != trainer.global_step:
            self.add(trainer, self.measured(trainer))

    def state_dict(self) -> dict[str, Any]:
        self.saving = self.best
        return {"history": [[step, values] for step, values in self.history], "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(step, dict(values)) for step, values in state_dict["history"]]
        self.best = self.known = state_dict["best"]

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best step are kept, rather than the last ones."""
        return self.context.keep == "best"

    def file(self, step: int) -> Path:
        """The weights of a step that was the best so far."""
        return self.context.directory / BEST / str(step) / WEIGHTS

    def validate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log, and let other callbacks look at it."""
        values = self.measured(trainer)
        self.log_values(pl_module, values)
        self.add(trainer, values)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is not self and not isinstance(callback, ProgressBar):
                callback.on_validation_end(trainer, pl_module)

    def measured(self, trainer: Trainer) -> dict[str, float]:
        """Measure in the first process, and let all know."""
        found = torch.zeros(len(self.names), dtype=torch.float64)
        if trainer.is_global_zero:
            with undisturbed(self.module):
                values = self.measure()
            found = torch.tensor([values[name] for name in self.names], dtype=torch.float64)
        if trainer.world_size > 1:
            found = found.to(trainer.strategy.root_device)
            torch.distributed.broadcast(found, 0)
        return dict(zip(self.names, found.tolist(), strict=True))

    def log_values(self, pl_module: LightningModule, values: Mapping[str, float]) -> None:
        """Log through the module, for callbacks; the loggers get a row of their own, see `add`."""
        for name, value in values.items():
            pl_module.log(logs.VALIDATION + name, value, on_step=True, on_epoch=False, logger=False, batch_size=1)
        self.logged = True

    def add(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Note what was measured at this step, and keep the weights if they are the best so far."""
        step = trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics({logs.VALIDATION + name: value for name, value in values.items()}, step=step)
        self.history.append((step, values))
        if not self.keeps_best or not self.is_better(values):
            return
        self.best = step
        if trainer.is_global_zero:
            save_weights(self.module, self.file(step))
            for folder in (self.context.directory / BEST).glob("*"):
                if folder.name not in (str(step), str(self.known)):
                    shutil.rmtree(folder)

    def is_better(self, values: Mapping[str, float]) -> bool:
        """Whether values are better than the best so far; of equal ones the earliest is kept."""
        value = values[self.metric]
        if value != value:  # not defined: NaN
            return False
        if self.best is None:
            return True
        best = dict(self.history)[self.best][self.metric]
        return value > best if self.higher_is_better else value < best

    def finish(self) -> None:
        """Give the module its best weights where these are kept; called after training, in all processes."""
        if not self.history:
            raise ValueError("validate: the training ended before its first step: raise trainer.max_steps")
        last, values = self.history[-1]
        self.kept = {"step": last, **values}
        if not self.keeps_best:
            return
        if self.best is None:
            log.warning("keep: best: %s was not defined at any step, the last weights are kept", self.metric)
        elif self.best != last:
            load_weights(self.module, self.file(self.best))
            self.kept = {"step": self.best, **dict(self.history)[self.best]}

    def value(self) -> float:
        """The deciding metric of the module as it is; for the first process alone."""
        with undisturbed(self.module):
            return float(self.measure()[self.metric])

    def averaged(self, share: float) -> None:
        """Note that the kept weights were averaged with those at the start, and what they are worth."""
        with undisturbed(self.module):
            self.kept = {"step": self.kept["step"], "start_share": share, **self.measure()}

    def report(self) -> dict[str, float]:
        """Write ``validation.json``; called in the first process alone.

        Returns:
            Results: what the kept weights are worth on validation days, and the step that they are of.
        """

        def defined(values: Mapping[str, float]) -> dict[str, float | None]:
            return {name: None if value != value else value for name, value in values.items()}

        write_json(
            self.context.directory / VALIDATION,
            {
                "metric": self.metric,
                "higher_is_better": self.higher_is_better,
                "keep": self.context.keep,
                "kept": defined(self.kept),
                "history": [{"step": step, **defined(values)} for step, values in self.history],
            },
        )
        return {str(MetricKey("valid", "", self.context.name, name)): value for name, value in self.kept.items()}


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Compute without gradient; random generators and modes of modules are then what they were."""
    state, modes = generators(), [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
        set_generators(state)


def watch_after_validation(trainer: Trainer) -> None:
    """Let an ``EarlyStopping`` that monitors validation look after each one, unless it is told when to look.

    By default it looks at the end of an epoch, and a training that counts in steps has only one.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (
            isinstance(callback, EarlyStopping)
            and callback._check_on_train_epoch_end is None
            and callback.monitor.startswith(logs.VALIDATION)
        ):
            callback._check_on_train_epoch_end = False
