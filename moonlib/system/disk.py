"""Writing files: under a temporary name, on the disk before they take their own, with errors that name them."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (found := _RUST.search(str(error))):
            number = int(found[1])
        if number in NO_ROOM:
            problem = f"{os.strerror(number)}; make room (df -h shows what is full), then run the same command again"
            raise OSError(number, problem, str(path)) from error
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: it takes its name when all of it is on the disk.

    It may be read by whom the process's umask lets read new files, also where a library, such as safetensors, makes its
    files for their owner alone.

    Args:
        path: what is being written. What is there stays until then.

    Yields:
        The temporary name to write to, in the same folder.

    Raises:
        OSError: see `writing`.

    Example: ``with replacing(path) as temporary: temporary.write_bytes(data)``
    """
    partial = unfinished(path.with_name(f"{path.name}.{os.getpid()}"))  # of several that write it the last one wins
    with writing(path):
        try:
            partial.unlink(missing_ok=True)  # of a killed process with this number: its mode says nothing
            partial.touch()
            mode = partial.stat().st_mode
            partial.unlink()
            yield partial
            if partial.is_file() and partial.stat().st_mode != mode:
                partial.chmod(mode)
            rename(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def rename(finished: Path, path: Path) -> None:
    """Give a finished file its name: first it is on the disk, then it is renamed, then the disk knows its name.

    Without that a machine that loses its power may know the name and not the content.

    Args:
        finished: a file, or a directory of which everything is on the disk already.
        path: in the same folder; a file there is replaced.
    """
    if not finished.is_dir():
        sync(finished)
    finished.replace(path)
    sync(path.parent)


def exchange(new: Path, old: Path) -> None:
    """Give a directory the name of another one, and that one its name, in one step.

    Where the file system can't, there are three renames, and a moment without a directory of that name; see `restore`
    for a process that is killed in it.

    Args:
        new: a directory of which everything is on the disk.
        old: a directory beside it; not a mount point.

    Raises:
        OSError: they can't be renamed.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux
        renameat2 = None
    at_cwd, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    if renameat2 is None or renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), swap):
        number = ctypes.get_errno()
        if renameat2 is not None and number not in (errno.ENOSYS, *_NO_FOLDERS):
            raise OSError(number, os.strerror(number), str(old))
        aside = _aside(old)
        old.rename(aside)
        try:
            new.rename(old)
        except OSError:
            aside.rename(old)
            raise
        aside.rename(new)
    sync(old.parent)


def restore(directory: Path) -> None:
    """Give a directory its name back, if a process was killed while `exchange` had no name for it."""
    aside = _aside(directory)
    if aside.is_dir() and not directory.exists():
        aside.rename(directory)
    elif aside.is_dir():
        shutil.rmtree(aside)


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.exchanged")


def second_name(source: str | Path, target: str | Path) -> None:
    """Give a second name for a file, or a copy where the file system has no second names."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems have no such thing for folders
        if error.errno not in _NO_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def unfinished(path: Path) -> Path:
    """The name under which a file is written before it takes its own; a link that lies there is not followed."""
    partial = path.with_name(f".{path.name}.partial")
    if partial.is_symlink():
        partial.unlink()
    return partial


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of a library written in Rust, which Python's ``Exception`` does not cover."""
    return type(error).__name__ == "PanicException"
