"""A run on several processes: the first runs it, the others take part in the stages that train together.

Lightning (and torchrun) start the same command once per device. Each of these processes passes through the whole
recipe. The first one decides, writes and prints; the others wait until a stage is there, and join those whose trainer
has several devices. Where no stage has several, each process runs what it was told by itself.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator

import moonlib.compat  # noqa: F401
import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)

_FIRST = "MOONLIB_FIRST_PROCESS"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


_alone = False
"""Whether this process runs things whatever its environment says, see `heed_launcher`."""


def is_first() -> bool:
    """Whether this is the process that runs things, by what Lightning, torchrun or SLURM put into the environment."""
    return _alone or _rank() is None


def heed_launcher(sizes: Iterable[int]) -> None:
    """Believe the environment that there are other processes only where one of the stages is trained by several.

    A rank may be there for another reason: ``srun`` that starts two runs of one device each, or a notebook in a pod of
    a training job. Waiting for a first process would then be waiting for nobody.

    Args:
        sizes: on how many processes each stage of the run that is about to begin is trained; read only where needed.
    """
    global _alone
    _alone = _rank() is not None and not any(size > 1 for size in sizes)
    if _alone:
        # Lightning read the environment too: its loggers would write nothing.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]


def _rank() -> str | None:
    """The variable that says that this is not the first process, with its value; None if none does."""
    return next((f"{name}={os.environ[name]}" for name in _RANKS if os.environ.get(name, "0") != "0"), None)


PATIENCE = 60.0
"""Seconds of waiting for the first process after which the others say so."""


def waiting(what: str) -> Iterator[None]:
    """Yield again and again, some time apart, and say once for whom this process waits if it takes long.

    Args:
        what: it waits for the first process to do.

    Example: ``for _ in waiting("make a stage"): ...``
    """
    began, told = time.monotonic(), False
    while True:
        yield
        time.sleep(0.05)
        if not told and time.monotonic() - began >= PATIENCE:
            told = True
            log.warning(
                f"moonlib: this process ({_rank()}) takes part in a run on several, and waits for the first to {what}. "
                f"If there is no other, unset {str(_rank()).partition('=')[0]} and start again"
            )


def meeting_point() -> str:
    """Address at which the processes of this run find each other, the same in all of them; chosen where none is set.

    Those that the first one starts from here on also find its number, see `end_with_parent`.
    """
    if is_first():
        os.environ[_FIRST] = str(os.getpid())
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    return f"{os.environ.setdefault('MASTER_ADDR', '127.0.0.1')}:{os.environ['MASTER_PORT']}"


def share_cores(trainer: Trainer, cores: int) -> None:
    """Give torch this process's share of the threads; the same at every start, because sums depend on their number.

    Args:
        trainer: of the stage that is about to run.
        cores: threads of a stage that runs alone.
    """
    processes = max(1, trainer.num_devices) if trainer.strategy.root_device.type == "cpu" else 1
    torch.set_num_threads(max(1, cores // processes))


def end_group_at_exit() -> None:
    """End the process group when this process exits, while the interpreter is whole, and after all that holds it.

    Freeing a gloo group waits for gloo's threads, and these may wait for the interpreter's lock (the GIL) to free the
    gradients that they have reduced. Python lets go of the lock when it frees a group; the reducer within a
    `DistributedDataParallel`, if it is freed later than the group's other holders, does not: then both wait for ever.
    """
    atexit.unregister(_end_group)  # once, and before what was registered earlier
    atexit.register(_end_group)


def _end_group() -> None:
    if not distributed.is_initialized():
        return
    for item in gc.get_objects():  # also those that are part of a reference cycle, and so not freed yet
        if issubclass(type(item), DistributedDataParallel):
            for holder in ("logger", "reducer"):
                vars(item).pop(holder, None)
    distributed.destroy_process_group()


def end_with_parent() -> None:
    """End this process once the one that started it is gone, even while it waits for it within a collective.

    Its parent may be gone by now, and this process a child of another: whose it was is in the environment.
    """

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(
        target=watch, args=(int(os.environ.get(_FIRST, os.getppid())),), daemon=True, name="end-with-parent"
    ).start()
