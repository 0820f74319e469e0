"""SIGTERM and Ctrl-C: a run ends at a place from which the same command resumes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CHECKPOINT_SECONDS = 30.0
"""Time between the checkpoints of a training, unless a user says otherwise: what an ended run loses at most."""


class Interrupted(SystemExit):
    """The run was asked to end; everything up to here is kept.

    Attributes:
        code: the exit code, 128 + the signal's number: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Interruption:
    """Turns SIGTERM and SIGINT into `Interrupted`: at once, or where code that is in the midst of things allows it.

    Example:
        >>> interruption = Interruption()
        >>> with interruption.deferred():
        ...     interruption.handle(signal.SIGTERM, None)  # what the operating system calls
        ...     interruption.requested == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = False

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Handle the signals within the block; outside a process's main thread there are none to handle."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
        self.install()
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def install(self) -> None:
        """Take the signals (back): Lightning puts handlers of its own over ours when it begins to train."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handle)
            signal.signal(signal.SIGINT, self.handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a first signal within the block, in `requested`; a second one ends the run at once."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler.

        Raises:
            Interrupted: unless the signal is deferred.
        """
        if self._deferred and self.requested is None:
            self.requested = signum
        else:
            raise Interrupted(signum)

    def check(self) -> None:
        """End the run if a deferred signal asked for it.

        Raises:
            Interrupted: a signal came within `deferred`.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)
