from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moonlib.system.memory import SETTING

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage").is_dir()
"""A kernel that was built without them refuses to note that they were asked for."""

PROGRAM = """
import os, torch
from moonlib.system.memory import use_large_pages
use_large_pages()
held = torch.zeros(2**22)
mapped = open("/proc/self/smaps").read()
print(os.environ["THP_MEM_ALLOC_ENABLE"], any(" hg" in line for line in mapped.splitlines() if "VmFlags" in line))
"""


@pytest.mark.parametrize(("given", "asked"), [(None, f"1 {HUGE_PAGES}"), ("0", "0 False")])
def test_torch_asks_for_huge_pages_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, asked: str
) -> None:
    """The kernel notes what memory they were asked for, whether it has any free or not."""
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv(SETTING, given)
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == asked
