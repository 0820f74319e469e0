"""Processes of a pool end with their parent, and their own end is told of."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moonlib.system.workers import WorkerKilled, shortage, worker_pool

_started: list[int] = []


def _start(value: int) -> None:
    _started.append(value)


def _work(number: int) -> int:
    return _started[0] + number


def _die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_process_is_started_once() -> None:
    with worker_pool(2, _start, 40) as pool:
        assert list(pool.map(_work, range(5))) == [40, 41, 42, 43, 44]


def test_a_killed_process_is_told_of() -> None:
    with (
        pytest.raises(WorkerKilled, match=r"one of 2 processes was killed, .* out of memory; .*\(--workers\)"),
        worker_pool(2, _start, 0) as pool,
    ):
        list(pool.map(_die, range(5)))


PARENT = """
import os, time
from moonlib.system.workers import worker_pool

def start():
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: print may write the number and the end of the line apart

with worker_pool(2, start) as pool:
    list(pool.map(time.sleep, [60, 60]))  # long: a process that is free again would get the second one too
"""


def test_processes_end_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        parent.stdout.read()  # until the last of them has closed it
    while any(_alive(child) for child in children):  # or the test's own limit ends it
        time.sleep(0.1)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "file", ["/home/hashmi/runs/weights.npy", "/dev/shm/runs/weights.npy", "/data/shm/x", "/data/shared/memory"]
)
def test_a_full_disk_is_no_full_shared_memory(file: str) -> None:
    assert shortage(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm/torch_7_1"),
        RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"),
        RuntimeError(
            "unable to open shared memory object </torch_7_1> in read-write mode: No space left on device (28)"
        ),
    ],
)
def test_full_shared_memory_is_told(error: Exception) -> None:
    assert "/dev/shm is full" in str(shortage(error))


def test_a_batch_that_cannot_be_handed_over_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import torch
from torch.utils.data import DataLoader
from moonlib.system.workers import end_at_a_lost_batch

class Rows(torch.utils.data.Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): return lambda: i

list(DataLoader(Rows(), num_workers=1, collate_fn=list, worker_init_fn=end_at_a_lost_batch))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pickle" in done.stderr and "exited unexpectedly" in done.stderr
