"""Run a test's function or a Python program in processes of its own, without waiting for their imports each time.

They are forked from a server, a process that has imported torch and Lightning once and does nothing else. It runs a
single thread: a copy of a process that has several, as polars and torch make them, may wait for ever for a lock that
one of these held.
"""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, Any

import moonlib.compat  # noqa: F401
import torch
import torch.multiprocessing as mp
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

PRELOADED = ("moonlib.compat", "lightning", "torchmetrics", "transformers", "timm", "jsonargparse", "faiss")
"""Modules that the server imports. Of polars and pyarrow each process has its own: they start threads when imported."""


def run_processes(function: Callable[..., None], *args: Any, processes: int = 2) -> None:
    """Call ``function(rank, *args)`` in new processes at once, and wait for all of them.

    The function is found in its file, which need not be importable, as those of tests are not.

    Args:
        function: at the top level of its module; rank counts from 0.
        args: picklable.
        processes: how many.

    Raises:
        ProcessRaisedException: a process raised; its traceback is in the message.

    Example: ``run_processes(_process, str(tmp_path))``
    """
    _server()
    mp.start_processes(
        _call, args=(inspect.getfile(function), function.__name__, args), nprocs=processes, start_method="forkserver"
    )


@contextmanager
def process_group(rank: int, directory: str, processes: int = 2) -> Iterator[None]:
    """Be one of several processes that talk to each other through gloo.

    A group must outlive whatever holds it. What is left of one, above all a `DistributedDataParallel`, would destroy it
    when it is freed itself: while it holds the interpreter's lock, for which gloo's threads may then wait for ever.

    Args:
        rank: of this process, from 0.
        directory: where the processes meet; the same for all of them, and empty.
        processes: how many there are.

    Raises:
        AssertionError: a `DistributedDataParallel` is left when the block ends: let a function of its own hold it.
    """
    torch.set_num_threads(1)
    place = f"file://{directory}/rendezvous"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=processes)
    yield
    gc.collect()
    held = [item for item in gc.get_objects() if isinstance(item, DistributedDataParallel)]
    assert not held, "a DistributedDataParallel is left where its process group ends: hold it in a function of its own"
    distributed.destroy_process_group()


class Program:
    """A Python program in a process of its own; it is used as `subprocess.Popen` is, and killed once nobody holds it.

    Args:
        words: what would follow ``python`` on a command line: ``["-m", "moonlib", ...]``, ``["-c", code, ...]`` or
            ``["file.py", ...]``.
        cwd: the directory it runs in.
        env: its environment; by default that of this process.
        new_session: whether it leads a process group, which `os.killpg` reaches as a whole.

    Example: ``Program(["-m", "moonlib", "--version"]).communicate()``
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        new_session: bool = False,
    ) -> None:
        self.args = [str(word) for word in words]
        self._files: list[IO[str]] = [
            tempfile.NamedTemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (read when the program has ended)
            for _ in range(3)
        ]
        *written, code = self._files
        if self.args[0] == "-c":
            code.write(self.args[1])
            code.flush()
        self._process = _server().Process(
            target=_run,
            args=(
                self.args,
                str(cwd or Path.cwd()),
                dict(os.environ if env is None else env),
                [file.name for file in written],
                code.name,
                new_session,
            ),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        # Python waits at its own end for processes that it started, also for one that a failed test has left.
        weakref.finalize(self, self._process.kill)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for the number of a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """See `returncode`."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end.

        Args:
            timeout: seconds.

        Returns:
            What it wrote to its standard output and to its standard error.

        Raises:
            TimeoutExpired: it goes on.
        """
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        for file in self._files:
            file.seek(0)
        out, err, _ = self._files
        return out.read(), err.read()


def run_program(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own, to its end, as `subprocess.run` does.

    Args:
        words: as in `Program`; so are the others.
        cwd: see `Program`.
        env: see `Program`.
        timeout: seconds; then it is killed.

    Raises:
        TimeoutExpired: it took longer.
    """
    program = Program(words, cwd=cwd, env=env)
    try:
        out, err = program.communicate(timeout)
    except BaseException:
        program.kill()
        raise
    assert program.returncode is not None
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def _server() -> ForkServerContext:
    """Where processes come from; it starts with the first of them, and ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _call(rank: int, file: str, name: str, args: tuple[Any, ...]) -> None:
    multiprocessing.set_start_method(None, force=True)  # that of any process, and not that which made this one
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(rank, *args)


def _run(words: list[str], cwd: str, env: dict[str, str], written: list[str], code: str, new_session: bool) -> None:
    """Be a program: write to the files ``written``, and run the file ``code`` where the words are ``-c``."""
    multiprocessing.set_start_method(None, force=True)  # see `_call`
    if new_session:
        os.setsid()
    for number, file in enumerate(written, start=1):
        # To append: processes that it starts write to the same file.
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, "")
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        runpy.run_path(code, run_name="__main__")
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
