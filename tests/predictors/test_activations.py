"""Dice: its gate, its statistics, and that two processes have those of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moonlib.predictors.activations import Dice
from moonlib.testing.processes import process_group, run_processes

UNITS = 5.0 + 2.0 * torch.randn(20, 31, 3, generator=torch.Generator().manual_seed(0))
"""Twenty batches of 31 rows of three units."""


def test_the_gate_opens_at_the_mean_and_is_as_wide_as_the_units_are() -> None:
    dice = Dice(3).eval()
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.0, 0.25, -1.0]))
        dice.mean.copy_(torch.tensor([0.0, 2.0, -3.0]))
        dice.var.copy_(torch.tensor([1.0, 4.0, 0.25]))
    units = UNITS[0]
    for u, (alpha, mean, deviation) in enumerate([(0.0, 0.0, 1.0), (0.25, 2.0, 2.0), (-1.0, -3.0, 0.5)]):
        gate = 1 / (1 + torch.exp(-(units[:, u] - mean) / deviation))
        torch.testing.assert_close(dice(units)[:, u], gate * units[:, u] + (1 - gate) * alpha * units[:, u])


def test_statistics_are_the_average_of_the_first_batches_and_then_follow() -> None:
    dice = Dice(3)
    mean, var = torch.zeros(3), torch.ones(3)
    for n, units in enumerate(UNITS, start=1):
        dice(units)
        rate = max(1 / n, 0.1)
        batch_mean = units.mean(dim=0)
        # The batch's spread around the mean before, less what that mean was off.
        var = (1 - rate) * var + rate * units.var(dim=0, unbiased=False)
        mean = (1 - rate) * mean + rate * batch_mean
        torch.testing.assert_close(dice.mean, mean)
        torch.testing.assert_close(dice.var, var)
        if n == 10:
            torch.testing.assert_close(dice.mean, UNITS[:10].mean(dim=(0, 1)))


def test_a_row_in_training_depends_on_batches_before_and_not_on_its_own() -> None:
    dice, twin = Dice(3), Dice(3)
    for units in UNITS[:3]:
        dice(units)
        twin(units)
    together = dice(UNITS[3])
    torch.testing.assert_close(twin.eval()(UNITS[3]), together)
    torch.testing.assert_close(twin.train()(UNITS[3, :1]), together[:1])


def test_evaluation_moves_nothing_and_statistics_are_saved() -> None:
    dice, restored = Dice(3), Dice(3)
    for units in UNITS[:3]:
        dice(units)
    before = {name: tensor.clone() for name, tensor in dice.state_dict().items()}
    dice.eval()(UNITS[4])
    assert all(torch.equal(tensor, before[name]) for name, tensor in dice.state_dict().items())
    restored.load_state_dict(before)
    dice.train()(UNITS[5])
    restored(UNITS[5])
    for a, b in zip(dice.state_dict().values(), restored.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_large_means_do_not_cancel_the_variance() -> None:
    dice = Dice(3)
    for units in UNITS:
        dice(1e4 + units)
    torch.testing.assert_close(dice.var, torch.full((3,), 4.0), rtol=0.2, atol=0)


def _process(rank: int, cut: int, directory: str) -> None:
    with process_group(rank, directory):
        dice = Dice(3)
        for units in UNITS[:5]:
            dice(units[:cut] if rank == 0 else units[cut:])
        if rank == 0:
            dice.eval()(UNITS[0])  # alone: the other must not be waited for
        torch.save(dice.state_dict(), f"{directory}/{rank}.pt")


@pytest.mark.parametrize("cut", [1, 16])
def test_two_processes_have_the_statistics_of_one(cut: int, tmp_path: Path) -> None:
    run_processes(_process, cut, str(tmp_path))
    dice = Dice(3)
    for units in UNITS[:5]:
        dice(units)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, expected in dice.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected)
