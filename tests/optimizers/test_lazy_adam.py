"""One optimizer for dense and sparse gradients: the same bits as torch's two, also resumed, scheduled and shared."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moonlib.optimizers.lazy_adam import LazyAdam
from moonlib.stages.clipping import clip_gradients
from moonlib.testing.processes import process_group, run_processes

BETAS, EPS = (0.8, 0.95), 1e-6


class Model(nn.Module):
    """A table of ids, a table of lists, and a linear layer."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ids = nn.Embedding(50, 4, sparse=sparse)
        self.lists = nn.EmbeddingBag(30, 4, mode="mean", sparse=sparse)
        self.linear = nn.Linear(8, 1)

    def forward(self, ids: Tensor, lists: Tensor) -> Tensor:
        return self.linear(torch.cat([self.ids(ids), self.lists(lists)], dim=1)).squeeze(1)

    def tables(self) -> list[nn.Parameter]:
        return [self.ids.weight, self.lists.weight]


def batch(step: int, rows: int = 6) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    return torch.randint(0, 50, (rows,), generator=rng), torch.randint(0, 30, (rows, 3), generator=rng)


def loss(model: nn.Module, step: int) -> Tensor:
    ids, lists = batch(step)
    return (model(ids, lists) - ids.float().sin()).square().mean()


def train(model: Model, *optimizers: torch.optim.Optimizer, steps: range = range(8), schedule: bool = False) -> None:
    halved = [torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5) for optimizer in optimizers] if schedule else []
    for step in steps:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(model, step).backward()
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in halved:
            scheduler.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("schedule", [False, True])
def test_equals_adam_and_sparse_adam_bit_for_bit(fused: bool | None, schedule: bool) -> None:
    ours, theirs = Model(), Model()
    train(ours, LazyAdam(ours.parameters(), 0.1, BETAS, EPS, fused=fused), schedule=schedule)
    dense = torch.optim.Adam(theirs.linear.parameters(), 0.1, BETAS, EPS, fused=fused)
    train(theirs, dense, torch.optim.SparseAdam(theirs.tables(), 0.1, BETAS, EPS), schedule=schedule)
    assert same(ours, theirs)
    assert not same(ours, Model())


def test_without_sparse_gradients_it_is_adam() -> None:
    ours, theirs = Model(sparse=False), Model(sparse=False)
    train(ours, LazyAdam(ours.parameters(), 0.1))
    train(theirs, torch.optim.Adam(theirs.parameters(), 0.1))
    assert same(ours, theirs)


def test_groups_have_options_of_their_own() -> None:
    ours, theirs = Model(), Model()
    groups = [{"params": ours.tables(), "lr": 0.3}, {"params": ours.linear.parameters()}]
    train(ours, LazyAdam(groups, 0.01), schedule=True)
    dense = torch.optim.Adam(theirs.linear.parameters(), 0.01)
    train(theirs, dense, torch.optim.SparseAdam(theirs.tables(), 0.3), schedule=True)
    assert same(ours, theirs)


def test_rows_that_no_batch_looked_up_stay() -> None:
    model = Model()
    before = model.ids.weight.detach().clone()
    train(model, LazyAdam(model.parameters(), 0.1), steps=range(2))
    looked_up = torch.cat([batch(step)[0] for step in range(2)]).unique()
    moved = (model.ids.weight != before).any(dim=1).nonzero().flatten()
    assert moved.tolist() == looked_up.tolist()


@pytest.mark.parametrize("fused", [None, True])
def test_saved_and_loaded_it_continues_to_the_same_bits(fused: bool | None) -> None:
    whole, first = Model(), Model()
    train(whole, LazyAdam(whole.parameters(), 0.1, fused=fused))
    optimizer = LazyAdam(first.parameters(), 0.1, fused=fused)
    train(first, optimizer, steps=range(5))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = Model()
    second.load_state_dict(saved["model"])
    # Other options than those saved, which replace them.
    resumed = LazyAdam(second.parameters(), 99.0, (0.1, 0.1), fused=fused)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, steps=range(5, 8))
    assert same(second, whole)


def test_a_copy_goes_on_by_itself() -> None:
    whole, model = Model(), Model()
    train(whole, LazyAdam(whole.parameters(), 0.1))
    optimizer = LazyAdam(model.parameters(), 0.1)
    train(model, optimizer, steps=range(5))
    copied, theirs = copy.deepcopy((model, optimizer))
    train(copied, theirs, steps=range(5, 8))
    assert same(copied, whole)
    assert not same(model, whole)


def test_a_closure_is_evaluated_once_before_both() -> None:
    ours, theirs = Model(), Model()
    optimizer = LazyAdam(ours.parameters(), 0.1)
    calls = []

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(ours, 0)
        value.backward()
        calls.append(value.item())
        return calls[-1]

    assert optimizer.step(closure) == calls[0]
    assert len(calls) == 1
    train(theirs, LazyAdam(theirs.parameters(), 0.1), steps=range(1))
    assert same(ours, theirs)


def test_a_gradient_that_changes_its_layout_is_refused() -> None:
    model = Model()
    optimizer = LazyAdam(model.parameters(), 0.1)
    train(model, optimizer, steps=range(1))
    optimizer.zero_grad()
    model.ids.weight.square().sum().backward()
    with pytest.raises(RuntimeError, match=r"shape \[50, 4\] has a dense gradient, and had a sparse one"):
        optimizer.step()


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("limit", [0.05, 1000.0])
def test_sparse_gradients_are_clipped_as_dense_ones(algorithm: str, limit: float) -> None:
    sparse, dense = Model(), Model(sparse=False)
    for model in (sparse, dense):
        loss(model, 0).backward()
    clip_gradients(sparse.parameters(), limit, algorithm)  # type: ignore[arg-type]
    if algorithm == "norm":
        nn.utils.clip_grad_norm_(dense.parameters(), limit)
    else:
        nn.utils.clip_grad_value_(dense.parameters(), limit)
    for ours, theirs in zip(sparse.parameters(), dense.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.to_dense() if ours.grad.is_sparse else ours.grad, theirs.grad)


def _process(rank: int, directory: str) -> None:
    with process_group(rank, directory):
        torch.save(_shared(rank), f"{directory}/{rank}.pt")


def _shared(rank: int) -> dict[str, Tensor]:
    """Weights after three steps of one process of two; what holds their group is gone when this returns."""
    model = Model()
    shared = DistributedDataParallel(model)
    optimizer = LazyAdam(model.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        ids, lists = batch(step)
        mine = slice(rank, None, 2)
        (shared(ids[mine], lists[mine]) - ids[mine].float().sin()).square().mean().backward()
        assert model.ids.weight.grad is not None and model.ids.weight.grad.is_sparse
        optimizer.step()
    return model.state_dict()


def test_two_processes_have_the_weights_of_one(tmp_path: Path) -> None:
    run_processes(_process, str(tmp_path))
    model = Model()
    train(model, LazyAdam(model.parameters(), 0.1), steps=range(3))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, expected in model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
