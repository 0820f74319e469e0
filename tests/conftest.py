"""What tests of several rooms share: the tiny marketplace, built once, and the command line."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything of Hugging Face is imported: offline, a hub call would hang for half a minute.
os.environ["HF_HUB_OFFLINE"] = "1"

import moonlib.compat  # noqa: F401  (of several processes, the one that runs no test still imports what warns)
import numpy as np
import torch

from moonlib.data.dataset import Dataset
from moonlib.sources.marketplace.source import Marketplace
from moonlib.testing.processes import run_program

# How fast a machine is proves nothing: no example is too slow. And the same examples every time: a suite that fails by
# chance says nothing of a change. New ones are drawn by pytest --hypothesis-profile=explore.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("explore"), derandomize=True)
settings.load_profile("repeatable")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Once = Callable[[str, Callable[[Path], Path]], Path]


@pytest.hookimpl(trylast=True)  # when the slow ones have been left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each process begin with its share of the tests that are marked ``first``; the others stay in their order."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    early = [item for item in items if item.get_closest_marker("first")]
    rest = [item for item in items if not item.get_closest_marker("first")]
    share = -(-len(items) // workers)  # pytest-xdist deals out the list in as many parts
    items.clear()
    for number in range(workers):
        mine = early[number::workers]
        items += mine + rest[: share - len(mine)]
        del rest[: share - len(mine)]
    items += rest


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws from a global generator is the same every time, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries draw from it)
    torch.manual_seed(0)


@pytest.fixture
def download_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads, of which nothing is in use."""
    monkeypatch.setenv("MOONLIB_CACHE", str(tmp_path / "download-cache"))
    monkeypatch.delenv("MOONLIB_CACHE_LIMIT", raising=False)
    return tmp_path / "download-cache"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a local S3, one for the test session; skips where moto or s3fs is not installed."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, download_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket."""
    from s3fs import S3FileSystem

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    name = re.sub(r"[^a-z0-9]", "-", tmp_path.name.lower())[:40].strip("-") + f"-{os.getpid()}"
    S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the test session share."""
    several = "PYTEST_XDIST_WORKER" in os.environ
    shared = (tmp_path_factory.getbasetemp().parent if several else tmp_path_factory.getbasetemp()) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def once(shared: Path) -> Once:
    """Make something once for all processes of the test session; who comes later waits for it.

    ``once(name, make)`` is the path that ``make(folder)`` returned, of an empty folder. Read it, and copy to change.
    """

    def once(name: str, make: Callable[[Path], Path]) -> Path:
        place = shared / name
        place.mkdir(exist_ok=True)
        made = place / "made"
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                made.write_text(str(make(Path(tempfile.mkdtemp(dir=place)))))
        return Path(made.read_text())

    return once


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium: one for all, since a process can drive no second one with Playwright's synchronous interface.

    Its event loop runs in the main thread until the session ends: a test that runs a coroutine does so in a thread.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((found for name in names if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def data_cache(shared: Path) -> Path:
    """Where built datasets are kept for the whole test session, by all of its processes."""
    (shared / "data").mkdir(exist_ok=True)
    return shared / "data"


@pytest.fixture(scope="session")
def tiny(data_cache: Path) -> Dataset:
    """The tiny marketplace, seed 0."""
    return Dataset(Marketplace("tiny", seed=0).prepare(data_cache))


@pytest.fixture(scope="session")
def finished_run(data_cache: Path, once: Once) -> Path:
    """A run of iter1 on the tiny marketplace, of three steps, without an application; read it, and copy to change."""
    from moonlib.runs.iteration import fit

    overrides = [
        "--data.init_args.size=tiny",
        "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
        "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
        "--encoder.init_args.dim=32",
        "--stages.pretrain.trainer.max_steps=3",
        "--stages.pretrain.trainer.log_every_n_steps=1",
        "--stages.pretrain.data.batch_size=32",
        "--stages.pretrain.data.workers=0",
        "--stages.represent.data.workers=0",
        "--stages.application=null",
    ]

    def make(runs: Path) -> Path:
        (runs / ".data").symlink_to(data_cache)
        return fit("iter1", overrides, runs=runs)

    return once("finished", make)


SHORT_ITER2 = [
    "--data.init_args.size=tiny",
    "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
    "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
    "--encoder.init_args.dim=32",
    "--stages.pretrain.trainer.max_steps=4",
    "--stages.pretrain.data.batch_size=32",
    "--stages.pretrain.data.workers=0",
    "--stages.posttrain.trainer.max_steps=3",
    "--stages.posttrain.data.batch_size=32",
    "--stages.posttrain.data.workers=1",
    "--stages.posttrain.trainer.accumulate_grad_batches=2",
    "--stages.represent.data.workers=0",
    "--stages.application.trainer.max_epochs=2",
    "--stages.application.data.batch_size=2500",
]


@pytest.fixture(scope="session")
def short_iter2() -> list[str]:
    """Overrides that make iter2 a matter of seconds: every stage, several epochs, accumulated gradients, workers."""
    return list(SHORT_ITER2)


@pytest.fixture(scope="session")
def unbroken(data_cache: Path, once: Once) -> Path:
    """A run of iter2 with `short_iter2` that nothing happened to; read it, and copy to change."""
    from moonlib.runs.iteration import fit

    def make(runs: Path) -> Path:
        (runs / ".data").symlink_to(data_cache)
        return fit("iter2", SHORT_ITER2, runs=runs)

    return once("unbroken", make)


@pytest.fixture
def runs(data_cache: Path, tmp_path: Path) -> Path:
    """An empty runs directory whose datasets are those of the test session."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / ".data").symlink_to(data_cache)
    return runs


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run ``moonlib`` as a user would, in a directory of its own."""

    def run(*words: str | Path, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        command = ["-m", "moonlib", *map(str, words)]
        return run_program(command, cwd=cwd, env={**os.environ, "COLUMNS": "160", **env}, timeout=600)

    return run


@pytest.fixture(scope="session")
def center_application(finished_run: Path, data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an application that reads the vectors of `finished_run` from a center beside it; copy it to change."""
    from moonlib.runs.iteration import fit
    from tests.centers import APPLICATION, publish

    folder = tmp_path_factory.mktemp("center")
    (folder / ".data").symlink_to(data_cache)
    publish(folder / "center", finished_run)
    return fit("iter1", [*APPLICATION, f"--stages.application.representations.center={folder / 'center'}"], runs=folder)
