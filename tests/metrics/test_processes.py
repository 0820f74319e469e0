"""Metrics gathered over two processes equal those of one, also where one of them saw nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moonlib.metrics.auc import AUC
from moonlib.metrics.gauc import GAUC
from moonlib.metrics.ne import NE

SCORES = torch.rand(31, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(31) % 3 == 0
USERS = torch.arange(31) % 4 + 2**60


def _update(rows: slice) -> tuple[AUC, GAUC, NE]:
    metrics = AUC(), GAUC(), NE()
    if len(SCORES[rows]):
        metrics[0].update(SCORES[rows], LABELS[rows])
        metrics[1].update(SCORES[rows], LABELS[rows], USERS[rows])
        metrics[2].update(SCORES[rows], LABELS[rows])
    return metrics


def _process(rank: int, cut: int, directory: str) -> None:
    torch.set_num_threads(1)  # a forked child must not use its parent's thread pool
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
    metrics = _update(slice(None, cut) if rank == 0 else slice(cut, None))
    torch.save([metric.compute().item() for metric in metrics], f"{directory}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("cut", [9, 31])
def test_two_processes_equal_one(cut: int, tmp_path: Path) -> None:
    mp.start_processes(_process, args=(cut, str(tmp_path)), nprocs=2, start_method="fork")
    expected = [metric.compute().item() for metric in _update(slice(None))]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, rel=1e-12)
