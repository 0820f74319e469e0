"""torchvision can be imported beside any torch, and one that brings its own operators keeps them.

Each test runs an interpreter of its own: what is defined for torch's dispatcher stays defined until a process ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = """
import torch

@torch.library.register_fake("torchvision::{name}")
def _(dets, scores, iou_threshold):
    return dets
"""
"""How torchvision registers a fake kernel, whose schema only the compiled operators define."""

FROM_ELSEWHERE = """
import os, torch

if hasattr(torch.ops.torchvision, "nms"):
    os.abort()  # what torch does where a compiled library defines an operator that is there already

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""Operators that come of a file that no older torchvision had."""


@pytest.fixture
def torchvision(tmp_path: Path) -> Path:
    """The folder of a torchvision that is found before the installed one."""
    package = tmp_path / "torchvision"
    package.mkdir()
    return package


def run(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ if path is None else {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_torchvision_and_what_needs_it_import_after_compat() -> None:
    done = run("import moonlib.compat, torchvision, torchmetrics, timm, lightning")
    assert done.returncode == 0, done.stderr


def test_operators_that_torchvision_defines_itself_are_its_own(torchvision: Path) -> None:
    (torchvision / "__init__.py").write_text("from . import _C_of_a_later_release, _meta_registrations")
    (torchvision / "_C_of_a_later_release.py").write_text(FROM_ELSEWHERE)
    (torchvision / "_meta_registrations.py").write_text(FAKE.format(name="nms") + FAKE.format(name="qnms"))
    code = "import moonlib.compat, torchvision; print(moonlib.compat._definitions, torchvision.__file__)"
    done = run(code, torchvision.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"None {torchvision / '__init__.py'}\n"


@pytest.mark.parametrize("extension", ["_C.so", "_C_stable.so", None])
def test_any_operator_that_only_the_compiled_library_would_define_is_defined(
    extension: str | None, torchvision: Path
) -> None:
    if extension:
        (torchvision / extension).write_bytes(b"not a library")
    (torchvision / "__init__.py").write_text("from . import submodule, _meta_registrations")
    (torchvision / "submodule.py").touch()
    fakes = "".join(FAKE.format(name=name) for name in ("nms", "qnms", "of_a_later_release"))
    (torchvision / "_meta_registrations.py").write_text(fakes)
    assert "operator torchvision::nms does not exist" in run("import torchvision", torchvision.parent).stderr
    code = "import moonlib.compat, torchvision; print(torchvision.submodule.__name__, torchvision.__file__)"
    done = run(code, torchvision.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"torchvision.submodule {torchvision / '__init__.py'}\n"


def test_a_torchvision_that_is_broken_otherwise_says_so_where_it_is_needed(torchvision: Path) -> None:
    (torchvision / "__init__.py").write_text("raise RuntimeError('built for CUDA 9')")
    code = "import moonlib.compat\nprint('moonlib', moonlib.compat._definitions)\nimport torchvision"
    done = run(code, torchvision.parent)
    assert done.stdout == "moonlib None\n"
    assert done.stderr.endswith("RuntimeError: built for CUDA 9\n")


def test_without_torchvision_nothing_happens(torchvision: Path) -> None:
    (torchvision / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torchvision'\")")
    done = run("import sys, moonlib.compat; print('torchvision' in sys.modules)", torchvision.parent)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_importing_moonlib_does_not_import_torch() -> None:
    code = "import sys, moonlib, moonlib.registry; print(moonlib.__version__); sys.exit('torch' in sys.modules)"
    assert run(code).returncode == 0
