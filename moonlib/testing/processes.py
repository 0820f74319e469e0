"""Run a test's function in processes of its own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import torch.multiprocessing as mp


def run_processes(function: Callable[..., None], *args: Any, processes: int = 2) -> None:
    """Call ``function(rank, *args)`` in new processes at once, and wait for all of them.

    They are new and no copies of the one that runs the tests: a copy of a process that has threads, as polars and torch
    make them, may wait for ever for a lock that one of these held. The function is found in its file, which need not
    be importable, as those of tests are not.

    Args:
        function: at the top level of its module; rank counts from 0.
        args: picklable.
        processes: how many.

    Raises:
        ProcessRaisedException: a process raised; its traceback is in the message.

    Example: ``run_processes(_process, str(tmp_path))``
    """
    mp.start_processes(
        _call, args=(inspect.getfile(function), function.__name__, args), nprocs=processes, start_method="spawn"
    )


def _call(rank: int, file: str, name: str, args: tuple[Any, ...]) -> None:
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(rank, *args)
