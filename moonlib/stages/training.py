"""Train a stage so that it can be killed at any moment and still ends with the same bits.

The state of a training is the module (weights, buffers of the loss and the negative samplers), the optimizer, the
schedule, the random generators and the position in the data. `Checkpoints` writes all of it every so often into one
file beside what the stage writes; `train` begins from that file where there is one.

The position is read before Lightning is started and handed to the stage's sampler, so that batches resume where
they stopped. Lightning alone would restore a stateful loader after it may have been asked for batches already
(pytorch-lightning#20550), or count the batches of a plain one as done without having seen them.
"""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import moonlib.compat  # noqa: F401
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from moonlib.artifacts.layout import CHECKPOINT, LOG, SNAPSHOTS, WEIGHTS
from moonlib.artifacts.logs import read_log
from moonlib.clicks.impressions import BatchRows
from moonlib.encoders.weights import first_difference, save_state, save_weights
from moonlib.stages.position import Position
from moonlib.stages.random_state import generators, set_generators
from moonlib.stages.training_log import TrainingLog
from moonlib.stages.validation import Validation, watch_after_validation
from moonlib.system.disk import rename, replacing, unfinished, writing
from moonlib.system.interruption import Interruption
from moonlib.system.workers import end_at_a_lost_batch

if TYPE_CHECKING:
    from moonlib.stages.stage import Stage, StageContext

T = TypeVar("T")

OURS = ("moonlib.", "lightning.")
"""Modules whose stages and callbacks log nothing at the end of an epoch that they did not log before."""


class NotFinite(ValueError):
    """The loss of a batch is NaN or infinite; raised in all processes of a run at once."""

    collective = True


class NotLogged(ValueError):
    """A callback of the recipe waits for a metric that the training does not log; raised in all processes at once."""

    collective = True


def require_monitored(trainer: Trainer) -> None:
    """Raise `NotLogged` if a callback, such as an ``EarlyStopping``, monitors what was not logged up to now.

    Or if it looks at it after validation only, and this training has none: Lightning would say nothing.
    """
    logged = trainer.callback_metrics
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        validated = trainer.enable_validation or any(isinstance(each, Validation) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if getattr(callback, "_check_on_train_epoch_end", None) is False and not validated:
            raise NotLogged(
                f"{type(trainer.lightning_module).__name__}: trainer.callbacks: {type(callback).__name__} checks after "
                "validation only, and this training has none: set its check_on_train_epoch_end: true"
            )
        monitor = getattr(callback, "monitor", None) if getattr(callback, "strict", True) else None
        if monitor is not None and monitor not in (*logged, "epoch", "step"):
            stage = type(trainer.lightning_module).__name__
            raise NotLogged(
                f"{stage}: trainer.callbacks: {type(callback).__name__} monitors '{monitor}', and this training logs "
                f"no such metric, only {', '.join(logged) or 'none'}; let it monitor one of these, or leave it out"
            )


def train(stage: Stage, context: StageContext, validation: Validation | None = None) -> None:
    """Fit a stage, from its last checkpoint where there is one.

    Call it from `Stage.run` in place of ``trainer.fit``. ``context.position`` tells the stage's ``train_dataloader``
    where the data resumes: at batch ``position.batch`` of epoch ``position.epoch``. Its loader draws from a generator
    of its own (``DataLoader(generator=...)``), so that starting it leaves the global generators alone.

    Args:
        stage: the module to train.
        context: what the stage was given.
        validation: measures it on the way, and keeps the best weights where it is to; None for neither.

    Raises:
        ValueError: the checkpoint is broken, unsafe to load, or of another architecture.
        NotFinite: the loss became NaN or infinite.
        NotLogged: a callback monitors a metric that there is none of.
        Interrupted: the run was asked to end; the checkpoint was written.
    """
    file = context.directory / CHECKPOINT
    state: dict[str, Any] | None = None
    if file.exists():
        state = read_checkpoint(file, stage)
        context.position = Position(**state["position"])
    if context.snapshot_every is not None and context.encoder is not None:
        # Before the checkpoints: a training that resumes from one has all the snapshots up to it.
        context.trainer.callbacks.append(  # type: ignore[attr-defined]
            Snapshots(context.encoder, context.directory / SNAPSHOTS, context.snapshot_every)
        )
    if validation is not None:
        # Before the checkpoints: one of a step holds what was measured at it.
        watch_after_validation(context.trainer)
        context.trainer.callbacks.append(validation)  # type: ignore[attr-defined]
    checkpoints = Checkpoints(
        file, context.checkpoint_seconds, context.interruption, state["random"] if state else None
    )
    context.trainer.callbacks.append(checkpoints)  # type: ignore[attr-defined]
    place = next((f"{name}." for name, part in stage.named_modules() if part is context.encoder), None)
    log = context.directory / LOG
    if context.trainer.is_global_zero:
        set_aside(log)
    with context.interruption.deferred(), context.progress.task("step") as task:
        context.trainer.callbacks.append(TrainingLog(task, getattr(context.data, "batch_size", None)))  # type: ignore[attr-defined]
        try:
            context.trainer.fit(stage, ckpt_path=file if state else None, weights_only=True)
        except (RuntimeError, MisconfigurationException):
            require_monitored(context.trainer)  # which is what Lightning's callbacks raise these for
            raise
    context.interruption.check()
    if checkpoints.weights is not None and place is not None:
        gathered = checkpoints.weights.items()
        context.encoder_state = {name.removeprefix(place): each for name, each in gathered if name.startswith(place)}
    if context.trainer.is_global_zero:
        join(log)
    if validation is not None:
        validation.finish()


def save_encoder(encoder: nn.Module, context: StageContext) -> None:
    """Write the weights of a trained encoder to ``weights.safetensors``; called by all processes, written by the first.

    Where a strategy shards the weights, these are what `train` gathered of `StageContext.encoder` at its end.
    """
    if not context.trainer.is_global_zero:
        return
    file = context.directory / WEIGHTS
    if context.encoder_state is None:
        save_weights(encoder, file)
    else:
        save_state(context.encoder_state, file)


def sharded(trainer: Trainer) -> bool:
    """Whether each process holds a part of the weights only."""
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)


def row_loader(rows: Dataset[T], context: StageContext) -> DataLoader[T]:
    """Batches of rows for training, in an order that is a function of seed and epoch, from where a training resumes.

    Args:
        rows: gives a batch for row numbers int64 [B]; has a length.
        context: of the stage, whose data section has ``batch_size`` and ``workers``.
    """
    trainer, data = context.trainer, context.data
    sampler = BatchRows(
        len(rows),  # type: ignore[arg-type]
        data.batch_size,
        # Epochs of one batch are there to overfit it: it has to be the same one.
        None if repr(trainer.limit_train_batches) == "1" else context.seed,
        trainer.global_rank,
        trainer.world_size,
        epoch=context.position.epoch,
        start=context.position.batch,
    )
    generator = torch.Generator().manual_seed(context.seed)
    return DataLoader(
        rows,
        sampler=sampler,
        batch_size=None,
        num_workers=data.workers,
        generator=generator,
        worker_init_fn=end_at_a_lost_batch,
    )


def set_aside(log: Path) -> None:
    """Rename the log of an attempt that was cut off: the CSV logger deletes what it finds."""
    if log.exists():
        log.rename(log.with_name(f"metrics.{len(list(log.parent.glob('metrics.*.csv')))}.csv"))


def join(log: Path) -> None:
    """Make one log of all attempts; a step that was repeated is kept as it was last."""
    earlier = [part for part in log.parent.glob("metrics.*.csv") if part != log]
    if not earlier:
        return
    whole = read_log(log)
    with replacing(log) as partial:
        whole.write_csv(partial)
    for part in earlier:
        part.unlink()


def read_checkpoint(file: Path, module: LightningModule) -> dict[str, Any]:
    """Read what `Checkpoints` added to a checkpoint, after making sure that all of it fits ``module``.

    Raises:
        ValueError: the file is broken, holds what cannot be loaded safely, or belongs to another architecture.
    """
    remedy = f"delete {file} to start this stage over"
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, Any] = checkpoint["moonlib"]
        found = {name: list(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} holds objects that are not safe to load ({reason}); {remedy}") from None
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is not a checkpoint of moonlib ({type(error).__name__}: {error}); {remedy}") from None
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    if difference := first_difference(found, expected):
        raise ValueError(f"{file} belongs to another architecture: {difference}; {remedy}")
    return state


class Checkpoints(Callback):
    """Writes a checkpoint every so often, ends a run that is asked to end, and stops at a loss that is not finite.

    Args:
        file: where to; written under a temporary name and renamed.
        seconds: time between checkpoints, 0 for one after every step.
        interruption: where requests to end arrive.
        generators: state of the random generators of every process to go on with, None at the start of a training.
    """

    def __init__(
        self, file: Path, seconds: float, interruption: Interruption, generators: list[dict[str, Any]] | None
    ) -> None:
        self.file = file
        self.seconds = seconds
        self.interruption = interruption
        self.generators = generators
        self.saved = time.monotonic()
        self.ending = False
        self.position = Position()
        self.last: tuple[Tensor, Any] | None = None
        self.weights: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interruption.install()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.generators is not None:
            # Here and not earlier: whatever Lightning does while it starts may draw random numbers.
            set_generators(self.generators[trainer.global_rank % len(self.generators)])
            self.generators = None
        if self.ending:  # now that Lightning has logged the batch before
            self.interruption.check()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ours = (type(part).__module__.startswith(OURS) for part in (pl_module, *trainer.callbacks))  # type: ignore[attr-defined]
        if self.last is None and all(ours):
            require_monitored(trainer)  # now, and not after an epoch: these log all they do at every step
        before, self.last = self.last, (outputs["loss"] if isinstance(outputs, Mapping) else outputs, batch)
        # At the last batch of an epoch Lightning's counters are between two epochs; and within an accumulated step
        # the gradients would be lost.
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        due = between_steps and time.monotonic() - self.saved >= self.seconds
        stop = between_steps and self.interruption.requested is not None
        # The loss of the batch before has long been computed: to look at it makes no accelerator wait.
        wrong = before is not None and not bool(before[0].isfinite())
        due, stop, wrong = agreed(trainer, due, stop, wrong)
        if due or stop or wrong:
            self.require_finite(trainer, before)
            self.require_finite(trainer, self.last)
        if due or stop:
            self.position = Position(trainer.current_epoch, batch_idx + 1)
            self.save(trainer)
        if stop and self.interruption.requested is None:  # another process was asked
            self.interruption.requested = signal.SIGTERM
        self.ending = stop

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.require_finite(trainer, self.last)
        if sharded(trainer):  # now, while the strategy is there
            self.weights = trainer.strategy.lightning_module_state_dict()

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint; called by all processes, written by the first."""
        for logger in trainer.loggers:
            logger.save()
        partial = unfinished(self.file)
        with writing(self.file):
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                rename(partial, self.file)
        self.saved = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["moonlib"] = {"position": vars(self.position), "random": gathered(trainer, generators())}

    def require_finite(self, trainer: Trainer, of: tuple[Tensor, Any] | None) -> None:
        """Raise `NotFinite` if a loss is NaN or infinite, and name the tensor of the batch where it is one."""
        if of is None or bool(of[0].isfinite()):
            return
        loss, batch = of
        broken = not_finite(batch)
        why = (
            f"'{broken}' of the batch is not finite to begin with: look at the tables or the encoder's preprocessor"
            if broken
            else "the batch itself is finite: lower learning_rate or set trainer.gradient_clip_val"
        )
        stage = type(trainer.lightning_module).__name__
        raise NotFinite(
            f"{stage}: the loss is {float(loss)} at about step {trainer.global_step}; {why}. Finished stages and "
            "checkpoints are kept; a changed recipe starts this stage over"
        )


class Snapshots(Callback):
    """Keeps the encoder's weights every so many steps of the optimizer; those of the last step are the stage's own.

    Args:
        encoder: whose weights.
        directory: they go to ``<step>/weights.safetensors`` in it, each whole or not at all.
        every: steps between two snapshots.
    """

    def __init__(self, encoder: nn.Module, directory: Path, every: int) -> None:
        self.encoder, self.directory, self.every = encoder, directory, every
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        stepped, self.step = step != self.step, step  # of accumulated batches the last one steps
        if stepped and step % self.every == 0 and step != trainer.max_steps and trainer.is_global_zero:
            save_weights(self.encoder, self.directory / str(step) / WEIGHTS)


def not_finite(batch: Any, name: str = "") -> str | None:
    """Name of the first floating-point tensor within a batch that holds NaN or infinity, None if there is none."""
    if isinstance(batch, Tensor):
        return name if batch.is_floating_point() and not bool(batch.isfinite().all()) else None
    parts: Mapping[str, Any] = {}
    if is_dataclass(batch):
        parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    elif isinstance(batch, Mapping):
        parts = batch
    elif isinstance(batch, (list, tuple)):
        parts = {str(i): part for i, part in enumerate(batch)}
    return next(filter(None, (not_finite(part, f"{name}.{key}".lstrip(".")) for key, part in parts.items())), None)


def agreed(trainer: Trainer, *flags: bool) -> tuple[bool, ...]:
    """Which flags any of the processes raises."""
    if trainer.world_size == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in raised.tolist())


def gathered(trainer: Trainer, value: dict[str, Any]) -> list[dict[str, Any]]:
    """Objects of every process, in the order of their ranks."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
