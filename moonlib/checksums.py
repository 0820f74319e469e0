"""Checksums of what is finished: noted when a directory is complete, compared when a process first opens a file of it.

They are kept in a file ``SHA256SUMS`` in the directory, which ``sha256sum --check SHA256SUMS`` reads too. A bit that a
disk, a copy or an editor changed is then an error that names the file, and not a result that nobody can explain.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from moonlib.disk import sync, writing

SUMS = "SHA256SUMS"
LOCK = ".lock"
STAGES = ".stages"
"""Folder of all stages, in that of all runs."""
DATASETS = ".data"
"""Folder of the datasets that runs have built, in that of all runs."""


class Damaged(ValueError):
    """A file whose content is not what was written; the message names it and says how to have it made anew."""


def seal(directory: Path) -> None:
    """Note the checksums of all files of a finished directory, and have all of it on the disk before returning.

    Args:
        directory: nothing in it is written afterwards. Links in it are left out, and so is the lock.

    Raises:
        OSError: it can't be read or written.
    """
    lines = []
    folders = [directory]
    with writing(directory / SUMS):
        for path in sorted(directory.rglob("*")):
            if path.is_symlink() or path in (directory / LOCK, directory / SUMS):
                continue
            if path.is_dir():
                folders.append(path)
            else:
                with path.open("rb") as file:
                    lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(directory)}\n")
                    os.fsync(file.fileno())
        (directory / SUMS).write_text("".join(lines), encoding="utf-8")
        for path in (directory / SUMS, *reversed(folders)):
            sync(path)


def verified(file: Path) -> Path:
    """Compare a file with its noted checksum when this process opens it for the first time.

    That reads the whole file, at one to two gigabytes per second where it is in memory. A file that changes is compared
    again. Nothing is compared where nothing was noted: in a directory that is not finished, or older than checksums.

    Args:
        file: in a sealed directory, at any depth, or elsewhere.

    Returns:
        ``file``.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the content differs.

    Example: ``np.load(verified(stage / "products.npy"))``
    """
    real = file.resolve(strict=True)
    found = real.stat()
    key = (str(real), found.st_ino, found.st_size, found.st_mtime_ns)
    if key in _verified:
        return file
    directory = sealed_in(real)
    if directory:
        _compare(file, directory, sums(directory).get(real.relative_to(directory).as_posix()))
    _verified.add(key)
    return file


_verified: set[tuple[str, int, int, int]] = set()


def verify_all(directory: Path) -> list[str]:
    """Compare all files of a directory with their checksums, also those that were compared before.

    Args:
        directory: a sealed one; of another, nothing is compared.

    Returns:
        What is wrong, a sentence for each file that is damaged or missing.
    """
    problems = []
    try:
        noted = sums(directory)
    except (Damaged, OSError) as error:
        return [str(error)]
    for name, expected in noted.items():
        try:
            _compare(directory / name, directory, expected)
        except FileNotFoundError:
            problems.append(f"{directory / name} is missing; {made_again(directory)}")
        except (Damaged, OSError) as error:
            problems.append(str(error))
    return problems


def _compare(file: Path, directory: Path, expected: str | None) -> None:
    """Raise `Damaged` if a file's content has another checksum than the noted one; None if none was noted."""
    if expected is None:
        return
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise Damaged(
            f"{file} is damaged: its SHA-256 is {digest[:16]}…, and was {expected[:16]}… when it was written; "
            f"{made_again(directory)}"
        )


def sealed_in(path: Path) -> Path | None:
    """The nearest directory above a file that has checksums; None if none has."""
    return next((above for above in path.parents if (above / SUMS).is_file()), None)


def sums(directory: Path) -> dict[str, str]:
    """The noted checksums of a directory: SHA-256 in hexadecimal digits by the file's name; empty without any.

    Raises:
        Damaged: the list itself can't be read.
    """
    file = directory / SUMS
    return _parsed(file, file.stat().st_mtime_ns) if file.is_file() else {}


@lru_cache(maxsize=64)
def _parsed(file: Path, changed: int) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:
        raise Damaged(f"{file} is damaged ({error}); {made_again(file.parent)}") from None
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], 1):
        if not (parts := _LINE.fullmatch(line)):
            raise Damaged(f"{file} is damaged: line {number} is no checksum; {made_again(file.parent)}")
        found[parts[2]] = parts[1]
    # Cut off, or empty beside files that it should list: without a word nothing would be compared.
    if lines[-1] or (not found and any(path != file for path in file.parent.iterdir())):
        raise Damaged(f"{file} is damaged: its end is missing; {made_again(file.parent)}")
    return found


_LINE = re.compile(r"([0-9a-f]{64})  ([^\0]+)")


def made_again(place: Path) -> str:
    """What to do to have a file made anew: a clause for the end of an error.

    Args:
        place: the file, or the directory of a stage, a dataset, or of what another command wrote.
    """
    place = Path(os.path.realpath(place))  # not resolve(), which raises for a link to itself
    directory = place if place.is_dir() else sealed_in(place) or place.parent
    above = directory.parent
    if above.name == STAGES:
        if run := _run_of(directory, above.parent):
            runs = os.path.relpath(above.parent)
            name = run.relative_to(above.parent)
            config = Path(runs, name, "recipe.yaml")
            command = f"`moonlib fit --config {config} --runs {runs} --name {name}` makes it again"
        else:
            command = "the next `moonlib fit` that needs it makes it again"
        return f"remove {directory}, and {command}"
    if above.name == DATASETS:
        return f"remove {directory}, and the next `moonlib fit` builds it again"
    if (directory / "dataset.json").exists():
        return "copy the dataset again, or remove it and build it again"
    return "copy it again, or remove it and write it again with the command that wrote it"


def _run_of(stage: Path, runs: Path) -> Path | None:
    """A run that links to a stage."""
    for recipe in sorted(runs.glob("**/recipe.yaml")):
        if any(path.is_symlink() and os.path.realpath(path) == str(stage) for path in recipe.parent.iterdir()):
            return recipe.parent
    return None
