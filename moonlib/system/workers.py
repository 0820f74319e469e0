"""Processes that read or draw pictures: they start at once, end with their parent, and say so when one is killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any


class WorkerKilled(RuntimeError):
    """A process of a pool ended before its work was done."""


FEW_FILES = 1024
"""The usual limit of open files; below it, a connection that breaks off may be due to it."""


def shortage(error: BaseException) -> str | None:
    """Say what the system has run out of, if an error tells of it: shared memory, or open files.

    Args:
        error: of a loader's process, as torch hands it on, or of this one.

    Returns:
        What is short and what can be done about it; None for any other error.

    Example:
        >>> shortage(RuntimeError("received 0 items of ancdata"))  # doctest: +ELLIPSIS
        'a process may open no more than ... files: raise the limit (ulimit -n 65536)'
    """
    text = f"{error} {error.__cause__ or ''}"  # torch words anew what a signal handler of its own has found
    files = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    if files or re.search(rf"Too many open files|items of ancdata|exit code {errno.EMFILE}\b", text):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"a process may open no more than {limit} files: raise the limit (ulimit -n 65536)"
    shared = re.search(r"shared memory|\bshm_|</torch_\d|/dev/shm/torch_", text)
    full = re.search(r"No space left on device|Cannot allocate memory", text)
    if (shared and full) or re.search(rf"signal: Bus error|exit code {errno.ENOSPC}\b", text):
        return "/dev/shm is full, through which loaders hand batches over: make it larger (docker run --shm-size 8g)"
    return None


def end_at_a_lost_batch(worker: int) -> None:
    """Let a loader process end when it can't hand a batch over; its parent would wait for that batch for ever.

    Args:
        worker: number of the process, which has no effect; as DataLoader's ``worker_init_fn`` wants it.
    """
    # Of this process alone: Python only prints such an error, and goes on without the batch.
    Queue._on_queue_feeder_error = staticmethod(_end_with_its_number)  # type: ignore[attr-defined]


def _end_with_its_number(error: BaseException, item: object) -> None:
    """Show the error, and end with the number of the system's, which `shortage` finds in what torch makes of it."""
    traceback.print_exception(error)
    told = re.search(r"\((\d+)\)$", str(error).strip())
    number = getattr(error, "errno", None) or (int(told[1]) if told else 1)
    os._exit(number)


@contextmanager
def worker_pool(workers: int, start: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """Start a pool of processes for work that touches no thread pool of torch or polars, which a fork leaves dead.

    As in torch's DataLoader, processes are forked on Linux: a caller's script then needs no main guard.

    Args:
        workers: how many.
        start: called once in each process.
        arguments: for ``start``, sent once, because they may hold much.

    Raises:
        WorkerKilled: a process was killed while there was work.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    try:
        with ProcessPoolExecutor(workers, context, _start, (os.getpid(), start, arguments)) as pool:
            yield pool
    except BrokenProcessPool:
        raise WorkerKilled(
            f"one of {workers} processes was killed, by hand or because the system was out of memory; run the same "
            "command again, with fewer processes (--workers) if memory is short"
        ) from None


def _start(parent: int, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    start(*arguments)


def _end_with(parent: int) -> None:
    """End this process once its parent has: a killed parent can't tell, and the pool would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
