"""The one writer of a center: a lock between processes, and between the threads of one."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.layout import CENTER, EMBEDDING, FORMAT, LOCK
from moonlib.system import lock

_threads: defaultdict[tuple[int, int, str], threading.Lock] = defaultdict(threading.Lock)
"""By the folder, whatever it is called, and the file. A record lock does not hold the threads of one process apart."""


class Busy(ValueError):
    """Another process writes to the center."""


WAIT = 10.0
"""Seconds that a writer waits for one of another process, as a server and an upsert each write for milliseconds."""


@contextmanager
def writing_to(center: Path, file: str = LOCK, wait: bool = True) -> Iterator[None]:
    """Be the one writer of a center. Other threads of this process wait for their turn.

    Args:
        center: its folder.
        file: of the lock.
        wait: for other processes too, up to `WAIT` seconds.

    Raises:
        Busy: another process is.
    """
    folder, until = center.stat(), time.monotonic() + (WAIT if wait else 0)
    with _threads[folder.st_dev, folder.st_ino, file], ExitStack() as held:
        while True:
            try:
                held.enter_context(lock.held(center / file))
                break
            except lock.InUse as holder:
                if time.monotonic() >= until:
                    problem = f"{center} is being written to by {holder}: run this again when it has finished"
                    raise Busy(problem) from None
                time.sleep(0.005)
        yield


def make_center(center: Path) -> None:
    """Make the folder of a center, if it is not one already.

    Raises:
        FileExistsError: it holds something else.
    """
    if (center / CENTER).is_file():
        require_center(center)
        return
    if center.exists() and (not center.is_dir() or any(not path.name.startswith(".") for path in center.iterdir())):
        raise FileExistsError(f"{center} is not empty, and no center; choose another place")
    center.mkdir(parents=True, exist_ok=True)
    write_json(center / CENTER, {"format": FORMAT})


def require_center(center: Path) -> None:
    """Refuse a folder that is no center, or one of another format.

    Raises:
        FileNotFoundError: it is none.
        Unreadable: another version of moonlib wrote it.
    """
    if not (center / CENTER).is_file():
        problem = f"{center} is no center: it has no {CENTER}"
        if not center.exists():
            problem = f"{center}: there is no such center, seen from {Path.cwd()}"
        elif (center / EMBEDDING).is_file():
            problem = (
                f"{center} is what `moonlib embed` wrote, for `moonlib search` and `moonlib.Center`, and no center"
            )
        raise FileNotFoundError(f"{problem}; make one with `moonlib upsert CENTER --run RUN --products TABLE`")
    written = read_mapping(center / CENTER).get("format")
    if written != FORMAT:
        earlier = isinstance(written, int) and written < FORMAT
        remedy = "upsert the products into a new center" if earlier else "upgrade it"
        raise Unreadable(
            f"{center} is a center of format {written!r}, and this version of moonlib reads {FORMAT}: {remedy}"
        )
