"""Messages that library functions log, printed while a command runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from moonlib.system.terminal import say


class Printer(logging.Handler):
    """Prints messages as they are, on ``stdout`` or ``stderr``."""

    def __init__(self, stream: Literal["stdout", "stderr"]) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), file=getattr(sys, self.stream))


@contextmanager
def warnings_printed() -> Iterator[None]:
    """Print moonlib's warnings on standard error."""
    logger, printer = logging.getLogger("moonlib"), Printer("stderr")
    printer.setLevel(logging.WARNING)
    logger.addHandler(printer)
    try:
        yield
    finally:
        logger.removeHandler(printer)


@contextmanager
def printed(module: str) -> Iterator[None]:
    """Print on standard output what a module logs, from INFO on: what it did and left out is what a command prints.

    Args:
        module: its dotted path.
    """
    logger, printer = logging.getLogger(module), Printer("stdout")
    before = logger.level, logger.propagate
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # or warnings are printed twice
    try:
        yield
    finally:
        logger.removeHandler(printer)
        logger.setLevel(before[0])
        logger.propagate = before[1]
