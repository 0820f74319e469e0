"""benchmarks/gpu.py, which needs a GPU, says so where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moonlib.testing.processes import run_program

SCRIPT = str(Path(__file__).parents[1] / "benchmarks/gpu.py")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends(tmp_path: Path) -> None:
    done = run_program([SCRIPT], cwd=tmp_path, timeout=280)
    assert done.returncode == 0 and done.stdout.startswith("no GPU: ") and not list(tmp_path.iterdir()), done.stderr


@pytest.mark.slow
def test_its_steps_run_on_a_cpu(tmp_path: Path) -> None:
    done = run_program([SCRIPT, "--smoke", "--out", "gpu.json"], cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ratio: ")
    cells = json.loads((tmp_path / "gpu.json").read_text())["cells"]
    assert {(cell["encoder"], cell["work"]) for cell in cells} >= {("siglip2", "train"), ("iter5", "embed")}
    assert all(cell["samples"] > 0 for cell in cells)
