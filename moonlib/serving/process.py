"""Settings of a process that serves: of its memory, its threads and Python's garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""
_KEPT = 256 * 2**20


def prepare_process() -> None:
    """Settle what has to be settled before torch is imported.

    Threads of OpenMP sleep while they have nothing to do. By default they spin for a while after every operation of
    torch or faiss, and keep the cores from the threads that receive requests and decode pictures.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep memory that is freed, up to 256 MB, and not give it back to the system; elsewhere do nothing.

    An encoder's activations are of megabytes. Given back after each batch, every page of them is mapped and zeroed
    anew for the next one, which takes a third of the time of a small encoder.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _KEPT)


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Exempt from garbage collection what is there by now, modules, encoders and views, until the context ends.

    To look through all of it takes a tenth of a second, while every request waits.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
