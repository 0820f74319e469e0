"""The directory that `embed` writes: what it is an embedding of, who works on it, and how a newer one takes its place.

A first embedding grows in the directory itself. A newer one is made in ``<name>.partial`` beside it, while the old one
stays as it is, and exchanged with it when it is complete and on the disk. What only unfinished work needs lies in a
hidden folder, ``.work``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moonlib.artifacts.checksums import SUMS, again, seal, sums, verified
from moonlib.artifacts.directories import LOCK, refuse_links, write_json
from moonlib.artifacts.layout import QUARANTINE, partial
from moonlib.artifacts.reading import Unreadable, read_json, read_mapping
from moonlib.system import lock
from moonlib.system.disk import exchange, restore, second_name, unfinished

log = logging.getLogger(__name__)

ABOUT = "embedding.json"
WORK = ".work"
PLAN = "plan.json"
TABLES = ("products", "queries")
_HEADER = 128
"""Bytes of a ``.npy`` file without rows."""
ENDS = ("npy", "ids.npy", "ids.parquet", "content.npy", "parquet", QUARANTINE)
"""Endings of a table's files."""

OURS = (ABOUT, SUMS, LOCK, WORK, *(f"{table}.{end}" for table in TABLES for end in ENDS))


def embedding_identity(file: Path) -> dict[str, Any]:
    """Read what an embedding was made from, of its ``embedding.json``."""
    found = read_mapping(file).get("identity")
    if not isinstance(found, dict):
        raise Unreadable(f"{file} does not say what it is an embedding of; {again(file)}")
    return found


def is_complete(directory: Path) -> bool:
    """Whether a directory holds all the vectors that its ``embedding.json`` speaks of."""
    if not (directory / ABOUT).is_file():
        return False
    identity = embedding_identity(directory / ABOUT)
    tables = [table for table in TABLES if table in identity]
    return all((directory / f"{table}.{identity.get('format', 'npy')}").exists() for table in tables)


def differences(before: dict[str, Any], identity: dict[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """Say how two embeddings differ in what a vector depends on beside its row: the encoder, and how it is used."""
    tables = [table for table in TABLES if table in before and table in identity]
    keys = {*before, *identity} - set(ignored) - {key for table in TABLES for key in (table, _read_for(table))}
    known = [key for key in {**before, **identity} if key in keys] + [_read_for(table) for table in tables]
    return [
        f"{key} {before.get(key)} (now {identity.get(key)})" for key in known if before.get(key) != identity.get(key)
    ]


def _read_for(table: str) -> str:
    return f"{table} read for"


def vectors_digest(directory: Path) -> str | None:
    """SHA-256 that tells the products' vectors of an embedding, and their ids, from any others; None without checksums.

    Raises:
        Damaged: the checksums themselves are not as they were written.
    """
    noted = sums(directory)
    digests = [noted[name] for name in ("products.ids.npy", "products.ids.parquet", "products.npy") if name in noted]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else None


@contextmanager
def occupied(out: Path) -> Iterator[None]:
    """Hold a directory, so that no other process embeds into it.

    Raises:
        FileExistsError: it holds something, and no embedding.
        ValueError: another process embeds into it.
    """
    restore(out)
    made = not out.exists()
    if not made and not (out / ABOUT).exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise FileExistsError(f"{out} is not empty and holds no embedding; choose another place")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(out / LOCK):
            yield
    except lock.InUse as holder:
        raise ValueError(f"{out} is in use by {holder}: wait for it to end, or choose another place") from None
    finally:
        if made and not (out / ABOUT).exists() and {path.name for path in out.iterdir()} <= {LOCK}:
            shutil.rmtree(out)


def has_vectors(directory: Path) -> bool:
    """Whether a directory holds rows, encoded or hashed, that a resumed call need not do again."""
    names = [f"{table}.{end}" for table in TABLES for end in ("npy", "parquet", "hashes.npy")]
    places = [place / name for place in (directory, directory / WORK) for name in names]
    begun = [path for place in places for path in (place, unfinished(place)) if path.is_file()]
    return any(path.stat().st_size > _HEADER for path in begun)


def earlier_of(out: Path, reuse: Path | None, identity: dict[str, Any]) -> Path | None:
    """Return the embedding to take vectors from, or refuse one whose vectors are of another making.

    Args:
        out: where an embedding is to be written; what is there must be of the same making.
        reuse: the embedding to take vectors from; by default ``out``, if it holds a complete one.
        identity: what is to be made.

    Raises:
        ValueError: ``reuse`` is no complete embedding, one is of another making, or ``out`` holds a table that the new
            one would not have.
    """
    if is_complete(out) or ((out / ABOUT).exists() and has_vectors(out)):
        before = embedding_identity(out / ABOUT)
        if lines := differences(before, identity):
            raise ValueError(f"{out} holds another embedding: {', '.join(lines)}; choose another place")
        if lost := [table for table in TABLES if table in before and table not in identity]:
            raise ValueError(f"{out} holds {lost[0]} too: give --{lost[0]} again, or choose another place")
    if reuse is None:
        return out if is_complete(out) else None
    if not (reuse / ABOUT).is_file():
        raise ValueError(f"{reuse} holds no embedding that could be reused")
    if lines := differences(embedding_identity(reuse / ABOUT), identity, ("format",)):
        raise ValueError(f"{reuse} can't be reused, it holds another embedding: {', '.join(lines)}")
    if not is_complete(reuse):
        raise ValueError(f"{reuse} is not complete; the `moonlib embed` that wrote it resumes it")
    return reuse


def state(directory: Path) -> str:
    """Tells a complete embedding from any other: the SHA-256 of its checksums."""
    file = directory / SUMS
    return hashlib.sha256((file if file.is_file() else directory / ABOUT).read_bytes()).hexdigest()


def settle(directory: Path) -> None:
    """Compare a complete embedding with its checksums, or note them where a process was killed before it did.

    Raises:
        Damaged: a file is not what was written.
    """
    if (directory / SUMS).is_file():
        verified(directory)
    else:
        _seal(directory)


def _seal(directory: Path) -> None:
    seal(directory, [directory / name for name in OURS if name not in (SUMS, LOCK, WORK)])


class Draft:
    """An embedding that is being made.

    Attributes:
        directory: where it grows: ``out``, or, where that holds a complete one, beside it.
        work: for what is not part of it.

    Args:
        out: where it belongs; `occupied`.
        plan: what it depends on. What another plan has left unfinished is begun anew.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        self.out = out
        self.replaces = is_complete(out)
        if self.replaces:
            if os.path.ismount(out):
                raise ValueError(f"{out} is a mount point, and can't be replaced: choose a folder in it, with --reuse")
            shutil.rmtree(out / WORK, ignore_errors=True)
        self.directory = partial(out) if self.replaces else out
        self.work = self.directory / WORK
        self.plan = plan
        self._locks = ExitStack()

    def __enter__(self) -> Draft:
        if self.replaces:
            refuse_links(self.directory, self.out.parent)
            visible = self.directory.is_dir() and any(not at.name.startswith(".") for at in self.directory.iterdir())
            if visible and not (self.directory / ABOUT).exists():
                raise FileExistsError(f"{self.directory} is in the way, and no embedding; move it elsewhere")
            self.directory.mkdir(exist_ok=True)
            self._locks.enter_context(lock.held(self.directory / LOCK))
        if not self._is_of_plan():
            if has_vectors(self.directory) and not (self.directory / SUMS).exists():
                log.warning(f"{self.directory} holds an unfinished embedding of other data, which is begun anew")
            self.clear()
            self.work.mkdir()
            write_json(self.work / PLAN, self.plan)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            listed = any(self.directory.glob(f"*.{QUARANTINE}"))  # an error may have named it
            if kind is not None and self.work.is_dir() and not listed and not has_vectors(self.directory):
                self.discard()
        finally:
            self._locks.close()

    def _is_of_plan(self) -> bool:
        try:
            return bool(read_json(self.work / PLAN) == self.plan)
        except (OSError, ValueError):
            return False

    def clear(self) -> None:
        """Remove what is there of it; beside the old embedding, all that is there."""
        for path in list(self.directory.iterdir()):
            ours = path.name in OURS or path.name.startswith(tuple(f".{table}." for table in TABLES))
            if path.name == LOCK or not (ours or self.replaces):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def discard(self) -> None:
        """Remove it: the old embedding stays, or there is none."""
        self.clear()
        if self.replaces:
            shutil.rmtree(self.directory)

    def finish(self) -> None:
        """Seal it, and let it take its place; other files of the old one, such as an index, stay where they are."""
        _seal(self.directory)
        if self.replaces:
            shutil.copytree(
                self.out,
                self.directory,
                copy_function=second_name,
                symlinks=True,
                ignore=lambda folder, names: {*names} & {*OURS} if Path(folder) == self.out else (),
                dirs_exist_ok=True,
            )
            exchange(self.directory, self.out)
        shutil.rmtree(self.out / WORK, ignore_errors=True)
        if self.replaces:
            shutil.rmtree(self.directory)
