"""Processes that read or draw pictures: they start at once, end with their parent, and say so when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


class WorkerKilled(RuntimeError):
    """A process of a pool ended before its work was done."""


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
            f"one of {workers} processes was killed, by hand or by the system for want of memory; run the same "
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
