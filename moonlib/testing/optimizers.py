"""The check of an optimizer factory."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import moonlib.compat  # noqa: F401
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    TrainedParameter,
    trained_parameters,
)
from moonlib.testing.promises import require

STEPS = 6


class Model(LightningModule):
    """A table of ids and a linear layer, trained by the optimizer of a factory."""

    def __init__(self, factory: OptimizerFactory, sparse: bool = False) -> None:
        super().__init__()
        self.factory = factory
        torch.manual_seed(0)
        self.ids = nn.Embedding(12, 4, sparse=sparse)
        self.linear = nn.Linear(4, 1)

    def training_step(self, batch: Tensor, step: int = 0) -> Tensor:
        return (self.linear(self.ids(batch)).squeeze(1) - batch.float().sin()).square().mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.factory(trained_parameters(self), OptimizerContext.of(self))


def check_optimizer(make: Callable[[], OptimizerFactory]) -> None:
    """Check an optimizer factory: all parameters, factors, weight decay, Lightning, interruption, sparse gradients.

    Args:
        make: returns a fresh factory.
    """
    _check_groups(make)
    _check_lightning(make)
    _check_resumed(make)
    if make().takes_sparse:
        _check_sparse(make)


def _check_groups(make: Callable[[], OptimizerFactory]) -> None:
    """Each parameter is trained once, at its factor, and decays if it is to."""
    model = Model(make())
    parameters = trained_parameters(model)
    plain = _rates(_optimizer(make()(parameters, _context())), parameters)
    slow = [replace(each, factor=0.25, decays=False) if each.name == "ids.weight" else each for each in parameters]
    optimizer = _optimizer(make()(slow, _context()))
    rates = _rates(optimizer, slow)
    for each in slow:
        expected = each.factor * plain[each.name]
        same = math.isclose(rates[each.name], expected, rel_tol=1e-6)
        require(same, f"'{each.name}' has learning rate {rates[each.name]}, not its factor's, {expected}")
    group = next(g for g in optimizer.param_groups if any(p is model.ids.weight for p in g["params"]))
    require(not group.get("weight_decay"), "a parameter that is not to decay has weight decay")


def _check_lightning(make: Callable[[], OptimizerFactory]) -> None:
    """Lightning trains with it: all parameters move, to finite values, and equally if seeded equally."""
    trained = []
    for _ in range(2):
        model = Model(make())
        before = copy.deepcopy(model.state_dict())
        trainer = Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, DataLoader([_batch(step) for step in range(STEPS)], batch_size=None))  # type: ignore[arg-type]
        after = model.state_dict()
        for name, value in after.items():
            require(bool(value.isfinite().all()), f"after {STEPS} steps '{name}' is not finite")
            require(not torch.equal(value, before[name]), f"after {STEPS} steps '{name}' has not moved")
        trained.append(after)
    require(_same(*trained), "the same seed gives other weights")


def _check_resumed(make: Callable[[], OptimizerFactory]) -> None:
    """Saved and loaded half way, a training ends with the same bits."""
    whole = Model(make())
    _steps(whole, *_parts(whole), range(STEPS))
    first = Model(make())
    optimizer, scheduler = _parts(first)
    _steps(first, optimizer, scheduler, range(STEPS // 2))
    file = io.BytesIO()
    state = {"model": first.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | ({"scheduler": scheduler.state_dict()} if scheduler else {}), file)
    file.seek(0)
    try:
        saved = torch.load(file, weights_only=True)
    except Exception as error:
        raise AssertionError(
            f"its state is not safe to load from a checkpoint: {str(error).splitlines()[0]}"
        ) from error
    second = Model(make())
    second.load_state_dict(saved["model"])
    optimizer, scheduler = _parts(second)
    optimizer.load_state_dict(saved["optimizer"])
    if scheduler:
        scheduler.load_state_dict(saved["scheduler"])
    _steps(second, optimizer, scheduler, range(STEPS // 2, STEPS))
    require(_same(whole.state_dict(), second.state_dict()), "saved and loaded, it gives other weights than in one go")


def _check_sparse(make: Callable[[], OptimizerFactory]) -> None:
    """takes_sparse: rows of a table with sparse gradients move, at least those in the batches."""
    model = Model(make(), sparse=True)
    before = model.ids.weight.detach().clone()
    try:
        _steps(model, *_parts(model), range(2))
    except RuntimeError as error:
        raise AssertionError(f"takes_sparse: is True, but: {error}") from error
    moved = (model.ids.weight != before).any(dim=1)
    require(bool(moved[torch.cat([_batch(0), _batch(1)])].all()), "takes_sparse: a row of a batch has not moved")


def _context() -> OptimizerContext:
    return OptimizerContext(
        torch.device("cpu"), mixed_precision=False, clips_gradients=False, count_steps=lambda: STEPS
    )


def _batch(step: int) -> Tensor:
    return torch.randint(0, 12, (8,), generator=torch.Generator().manual_seed(step))


def _optimizer(made: Any) -> torch.optim.Optimizer:
    found = made.get("optimizer") if isinstance(made, Mapping) else made
    if not isinstance(found, torch.optim.Optimizer):
        raise AssertionError(f"expected an optimizer, or a mapping of 'optimizer' and 'lr_scheduler', got {made!r}")
    return found


def _parts(model: Model) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer and the schedule of a model, None where there is none."""
    made: Any = model.factory(trained_parameters(model), _context())
    schedule = made.get("lr_scheduler") if isinstance(made, Mapping) else None
    return _optimizer(made), schedule.get("scheduler") if isinstance(schedule, Mapping) else schedule


def _steps(model: Model, optimizer: torch.optim.Optimizer, scheduler: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model.training_step(_batch(step)).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


def _rates(optimizer: torch.optim.Optimizer, parameters: list[TrainedParameter]) -> dict[str, float]:
    """The learning rate of each parameter by name."""
    rates = {}
    for each in parameters:
        own = [group for group in optimizer.param_groups for p in group["params"] if p is each.parameter]
        require(len(own) == 1, f"'{each.name}' is in {len(own)} of the optimizer's groups, not in 1")
        rates[each.name] = float(own[0]["lr"])
    return rates


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
