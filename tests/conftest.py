"""What tests of several rooms share: the tiny marketplace, built once, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything of Hugging Face is imported: offline, a hub call would hang for half a minute.
os.environ["HF_HUB_OFFLINE"] = "1"

from moonlib.data.dataset import Dataset
from moonlib.data.marketplace.source import Marketplace

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where built datasets are kept for the whole test session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def tiny(data_cache: Path) -> Dataset:
    """The tiny marketplace, seed 0."""
    return Dataset(Marketplace("tiny", seed=0).prepare(data_cache))


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run ``moonlib`` as a user would, in a directory of its own."""

    def run(*words: str | Path, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "moonlib", *map(str, words)],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "160", **env},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
