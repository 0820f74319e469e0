"""Locks on files: what one process works on, another leaves alone, and a killed process holds nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class InUse(OSError):
    """Another process holds the lock; the message says which."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock that a file stands for.

    It is a POSIX record lock: it ends with this process, however that ends, and loader processes do not inherit it. On
    a file system without locks there is none.

    Args:
        path: made where it is missing, in a directory that exists. It tells who holds the lock.

    Raises:
        InUse: another process holds it.
        FileNotFoundError: its directory is missing, or was renamed meanwhile.
        OSError: it is a link; what that leads to is not written.
    """
    with _opened(path) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise InUse(file.read().strip() or "another process") from None
            if error.errno not in NO_LOCKS:
                raise
        found = os.fstat(file.fileno())
        if not os.path.samestat(found, path.stat()):  # who held it before has moved it, and it locks nothing here
            raise FileNotFoundError(errno.ENOENT, "the lock was moved", str(path))
        said = f"process {os.getpid()} on {socket.gethostname()}\n"
        file.seek(0)
        if file.read() != said:  # to write takes longer than all else here, and who takes a lock takes it again
            file.truncate(0)
            file.write(said)
            file.flush()
        _own.add((found.st_dev, found.st_ino))
        try:
            yield
        finally:
            _own.discard((found.st_dev, found.st_ino))


_own: set[tuple[int, int]] = set()
"""Files of the locks that this process holds, by device and number."""


def holder(path: Path) -> str | None:
    """Who holds a lock, without taking it; None if nobody does, or there is no such file.

    Args:
        path: see `held`.

    Raises:
        OSError: the file can't be opened.

    Example: ``holder(Path("runs/iter3/.lock"))`` returns ``"process 4321 on node7"`` or None.
    """
    try:
        found = path.stat()
        if (found.st_dev, found.st_ino) in _own:  # to close a file of ours would end the lock on it
            return f"process {os.getpid()} on {socket.gethostname()}"
        with path.open(encoding="utf-8", errors="replace") as file:
            # The system's struct flock, of the whole file: who would keep us from writing it?
            order = "qqihh" if sys.platform == "darwin" else "hhqqi4x"
            whole = (0, 0, 0, fcntl.F_WRLCK, 0) if sys.platform == "darwin" else (fcntl.F_WRLCK, 0, 0, 0, 0)
            answer = struct.unpack(order, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(order, *whole)))
            if answer[3 if sys.platform == "darwin" else 0] == fcntl.F_UNLCK:
                return None
            return file.read().strip() or "another process"
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise


def _opened(path: Path) -> TextIO:
    try:
        number = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "a symbolic link, and moonlib writes through none: remove it", str(path)) from None
    return os.fdopen(number, "a+")


@contextmanager
def awaited(path: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock as `held` does, after waiting for it where need be.

    Args:
        path: as in `held`; its directory is made again should it vanish meanwhile.
        announce: called once with whom the wait is for.
    """
    waiting = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = held(path)
        try:
            lock.__enter__()
        except InUse as holder:
            if not waiting:
                announce(str(holder))
            waiting = True
            time.sleep(0.2)
            continue
        except FileNotFoundError:  # the directory was renamed in between
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
