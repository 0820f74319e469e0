from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moonlib import compat


@pytest.fixture
def broken_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision whose compiled operators are no library."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_C.so").write_bytes(b"not a library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)


def test_torchvision_and_what_needs_it_import_after_compat() -> None:
    code = "import moonlib.compat, torchvision, torchmetrics, timm, lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_operators_that_cannot_be_loaded_are_missing(broken_torchvision: None) -> None:
    assert compat._operators_missing()


def test_nothing_is_defined_where_the_operators_load(broken_torchvision: None, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert compat._define_operators() is None
    assert [Path(path).name for path in loaded] == ["_C.so"]


def test_nothing_is_defined_where_torchvision_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    assert compat._define_operators() is None


def test_importing_moonlib_does_not_import_torch() -> None:
    code = "import sys, moonlib, moonlib.registry; print(moonlib.__version__); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
