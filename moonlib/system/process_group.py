"""Whether what runs now is shared with the other processes of a process group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

_alone = False


@contextmanager
def alone(yes: bool = True) -> Iterator[None]:
    """Run in one process, also where a process group is left of an earlier stage, which several have trained.

    The group lasts as long as the process, see `moonlib.system.processes.end_group_at_exit`; the other processes have
    no part in what runs within, and a collective would wait for them for ever.

    Args:
        yes: whether there is one process; otherwise nothing changes.
    """
    global _alone
    before, _alone = _alone, yes or _alone
    try:
        yield
    finally:
        _alone = before


def together() -> bool:
    """Whether there is a process group, and what runs now is not `alone`."""
    return distributed.is_available() and distributed.is_initialized() and not _alone
