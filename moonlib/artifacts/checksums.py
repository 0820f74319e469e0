"""Checksums of what is finished: noted when a directory is complete, compared when a process first opens a file of it.

They are kept in a file ``moonlib.sha256`` in the directory, which ``sha256sum --check`` reads too. Its last line, to
that program a comment, is the checksum of those above. A bit that a disk, a copy or an editor changed is then an error
that names the file, and not a result that nobody can explain.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from moonlib.artifacts.remedies import made_again
from moonlib.system.disk import replacing, sync, writing

SUMS = "moonlib.sha256"
LOCK = ".lock"

_MARK = b"# the lines above: "


class Damaged(ValueError):
    """A file whose content is not what was written; the message names it and says how to have it made anew."""


def seal(directory: Path, files: Iterable[Path] | None = None) -> None:
    """Note the checksums of a finished directory's files, and have these on the disk before returning.

    Args:
        directory: what is noted of it is not written afterwards.
        files: those to note; by default all in it, at any depth. Links are left out, and so is the lock.

    Raises:
        OSError: it can't be read or written.
        ValueError: a name holds a line break.
    """
    lines = []
    noted = [path for path in sorted(directory.rglob("*") if files is None else files) if _is_content(path, directory)]
    with writing(directory / SUMS):
        for path in noted:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(directory)}\n")
                os.fsync(file.fileno())
        for folder in {above for path in noted for above in path.parents}:
            if folder.is_relative_to(directory):
                sync(folder)
    listed = "".join(lines).encode()
    with replacing(directory / SUMS) as temporary:
        temporary.write_bytes(listed + _MARK + hashlib.sha256(listed).hexdigest().encode() + b"\n")


def _is_content(path: Path, directory: Path) -> bool:
    """Whether a path is a file of a directory's own; of what has a line break in its name, a list can't speak."""
    if "\n" in str(path.relative_to(directory)):
        raise ValueError(f"{str(path)!r}: a line break in the name of a file can't be noted in {SUMS}; rename the file")
    return path.is_file() and not path.is_symlink() and path not in (directory / LOCK, directory / SUMS)


def verified(file: Path) -> Path:
    """Compare a file with its noted checksum when this process opens it for the first time.

    That reads the whole file, at one to two gigabytes per second where it is in memory. A file that changes is compared
    again. Nothing is compared where nothing was noted: in a directory that is not finished, or older than checksums.

    Args:
        file: in a sealed directory, at any depth, or elsewhere; or such a directory, for all that is noted of it.

    Returns:
        ``file``.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the content differs, or a noted file is missing.

    Example: ``np.load(verified(stage / "products.npy"))``
    """
    real = _real(file)
    if real.is_dir():
        for name in sums(real):
            verified(file / name)
        return file
    directory = sealed_in(real)
    noted = sums(directory).get(real.relative_to(directory).as_posix()) if directory else None
    if directory and noted and not real.exists():
        raise Damaged(f"{file} is missing; {made_again(directory)}")
    found = real.stat()
    key = (str(real), found.st_ino, found.st_size, found.st_mtime_ns)
    if key in _verified:
        return file
    if directory and noted:
        _compare(file, directory, noted)
    _verified.add(key)
    return file


_verified: set[tuple[str, int, int, int]] = set()


def verify_all(directory: Path) -> list[str]:
    """Compare all files of a directory with their checksums, also those that were compared before.

    Args:
        directory: a sealed one; of another, nothing is compared.

    Returns:
        What is wrong, a sentence for each file that is damaged, missing or can't be read.

    Raises:
        OSError: this process may open no more files.
    """
    try:
        noted = sums(directory)
    except Damaged as error:
        return [str(error)]
    problems = []
    for name, expected in noted.items():
        try:
            _compare(directory / name, directory, expected)
        except FileNotFoundError:
            problems.append(f"{directory / name} is missing; {made_again(directory)}")
        except (Damaged, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # says nothing about the file
            problems.append(str(error))
    return problems


def _compare(file: Path, directory: Path, expected: str) -> None:
    """Raise `Damaged` if a file's content has another checksum than the noted one."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise Damaged(
            f"{file} is damaged: its SHA-256 is {digest[:16]}…, and was {expected[:16]}… when it was written; "
            f"{made_again(directory)}"
        )


def is_noted(file: Path) -> bool:
    """Whether `verified` has something to compare a file with."""
    real = _real(file)
    directory = sealed_in(real)
    return directory is not None and real.relative_to(directory).as_posix() in sums(directory)


def sealed_in(path: Path) -> Path | None:
    """The nearest directory above a file that has checksums; None if none has."""
    return next((above for above in path.parents if (above / SUMS).is_file()), None)


def again(file: Path) -> str:
    """Say how to have a file, or a directory, made again; see `moonlib.artifacts.remedies.made_again`."""
    real = _real(file)
    return made_again(real if real.is_dir() else sealed_in(real) or real.parent)


def sums(directory: Path) -> dict[str, str]:
    """The noted checksums of a directory: SHA-256 in hexadecimal digits by the file's name; empty without any.

    Raises:
        Damaged: the list itself is not as it was written.
    """
    file = directory / SUMS
    return _parsed(file, file.stat().st_mtime_ns) if file.is_file() else {}


@lru_cache(maxsize=64)
def _parsed(file: Path, changed: int) -> dict[str, str]:
    listed, _, own = file.read_bytes().rpartition(_MARK)
    if own != hashlib.sha256(listed).hexdigest().encode() + b"\n":
        raise Damaged(f"{file} is damaged: its lines are not as they were written; {made_again(file.parent)}")
    pairs = (line.split("  ", 1) for line in listed.decode().split("\n")[:-1])
    return {name: digest for digest, name in pairs}


def _real(path: Path) -> Path:
    """Where a path leads. `Path.resolve` raises for a link to itself, before Python 3.13."""
    return Path(os.path.realpath(path))
