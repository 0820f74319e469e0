"""What a serving process settles for itself."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from moonlib.serving.process import frozen_heap

PREPARED = """
import os, sys
from moonlib.serving.logs import log_json
from moonlib.serving.process import prepare_process
assert "torch" not in sys.modules and "faiss" not in sys.modules  # OpenMP reads its settings when it is loaded
prepare_process()
print(os.environ["OMP_WAIT_POLICY"])
import torch
print(torch.ones(64, 3, 64, 64).mean().item())
"""


@pytest.mark.parametrize("given", [None, "active"])
def test_it_is_prepared_before_torch_is_loaded_and_what_the_user_set_stands(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [given or "passive", "1.0"]


def test_what_is_there_is_not_looked_through_while_it_serves() -> None:
    before = gc.get_freeze_count()
    with frozen_heap():
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < gc.get_freeze_count()
    assert gc.get_freeze_count() == 0
