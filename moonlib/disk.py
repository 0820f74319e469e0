"""Errors of writing, told as what happened to which file and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in an error of writing it, and say what to do where there is no room for it.

    A full disk does not say which file it had no room for, and libraries written in Rust (safetensors, tokenizers,
    polars) tell of it in exceptions of their own.

    Args:
        path: what is being written, under its final name.

    Raises:
        OSError: with ``errno`` and ``filename``, in place of what was raised. Other errors pass.

    Example: ``with writing(path): temporary.write_bytes(data); temporary.replace(path)``
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (found := _RUST.search(str(error))):
            number = int(found[1])
        if number in _NO_ROOM:
            problem = f"{os.strerror(number)}; make room (df -h shows what is full), then run the same command again"
            raise OSError(number, problem, str(path)) from error
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
