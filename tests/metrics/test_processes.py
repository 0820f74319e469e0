"""Metrics gathered over two processes equal those of one, also where one of them saw nothing."""

from __future__ import annotations

from pathlib import Path

import moonlib.compat  # noqa: F401
import pytest
import torch
from torchmetrics import Metric

from moonlib.metrics.auc import AUC
from moonlib.metrics.calibration_curve import CalibrationCurve
from moonlib.metrics.ece import ECE
from moonlib.metrics.gauc import GAUC
from moonlib.metrics.log_loss import LogLoss
from moonlib.metrics.ne import NE
from moonlib.metrics.pcoc import PCOC
from moonlib.metrics.rce import RCE
from moonlib.testing.processes import process_group, run_processes

SCORES = torch.rand(31, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(31) % 3 == 0
USERS = torch.arange(31) % 4 + 2**60


def _update(rows: slice) -> list[Metric]:
    of_clicks = [AUC(), LogLoss(), NE(), RCE(), PCOC(), ECE(bins=5), CalibrationCurve(bins=5)]
    of_users = [GAUC(), GAUC("unweighted", "counted")]
    if len(SCORES[rows]):
        for metric in of_clicks:
            metric.update(SCORES[rows], LABELS[rows])
        for metric in of_users:
            metric.update(SCORES[rows], LABELS[rows], USERS[rows])
    return [*of_clicks, *of_users]


def _values(metrics: list[Metric]) -> list[float]:
    """All values, the columns of the curve one after the other."""
    values = (metric.compute() for metric in metrics)
    columns = [value if isinstance(value, tuple) else (value,) for value in values]
    return torch.cat([column.reshape(-1).double() for value in columns for column in value]).tolist()


def _process(rank: int, cut: int, directory: str) -> None:
    with process_group(rank, directory):
        metrics = _update(slice(None, cut) if rank == 0 else slice(cut, None))
        torch.save(_values(metrics), f"{directory}/{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("cut", [9, 31])
def test_two_processes_equal_one(cut: int, tmp_path: Path) -> None:
    run_processes(_process, cut, str(tmp_path))
    expected = _values(_update(slice(None)))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, rel=1e-12)
