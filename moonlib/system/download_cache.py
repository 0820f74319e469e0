"""A cache of downloaded files on local disk, of a limited size, that several processes may use at once.

    files/<key>              a file, once; the key is a hash of its URL, version and size
    folders/<key>/.in-use    locked by each process that uses the folder, for as long as it lives
    folders/<key>/<name>/…   what a URL names, as hard links to the files

``MOONLIB_CACHE`` is its directory, by default ``~/.cache/moonlib``; ``MOONLIB_CACHE_LIMIT`` its limit, such as
``20GB``, by default 50 GB. What was used least recently is removed first, and never what a process uses. fsspec's own
caches of whole files have no limit, and their list of files is not made for several processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

from moonlib.system import lock
from moonlib.system.disk import sync, writing

log = logging.getLogger(__name__)

Versions: TypeAlias = "dict[str, tuple[str, int | None]]"
"""By relative name, the version of a file, unique among all URLs, and its size in bytes if that is known."""

DIRECTORY, LIMIT = "MOONLIB_CACHE", "MOONLIB_CACHE_LIMIT"
DEFAULT_LIMIT = "50GB"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_FILES_AT_ONCE = 16
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)

_ABOUT, _PARTIAL = ".about.json", ".partial"

_in_use: dict[Path, int] = {}
"""Descriptors of this process's locks, by folder."""
_threads = threading.RLock()


def cache_directory() -> Path:
    """The cache's directory; it need not exist."""
    given = os.environ.get(DIRECTORY) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "moonlib")
    return Path(given).expanduser().absolute()


def cache_limit() -> int:
    """How many bytes the cache may hold.

    Raises:
        ValueError: the variable says no size.
    """
    text = os.environ.get(LIMIT) or DEFAULT_LIMIT
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{LIMIT}: {text!r} is no size; write it like 20GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def cached(
    url: str, versions: Versions, download: Callable[[dict[str, Path]], None], unknown: Collection[str] = ()
) -> Path:
    """Return a folder that holds a URL's files, downloading those that are not there yet.

    Each is there whole or not at all. The folder stays until this process ends, and must not be written to.

    Args:
        url: for messages, without credentials.
        versions: of the files, by name.
        download: writes the files of some names to the paths it is given, at most 16 at a time.
        unknown: names of which nobody knows whether they have changed: they are downloaded in any case.

    Raises:
        ValueError: the files are larger than the cache's limit, or than what is in use leaves of it.
        OSError: the cache can't be written.
    """
    root = cache_directory()
    keys = {name: _hash([*version, str(uuid4())] if name in unknown else version) for name, version in versions.items()}
    folder = root / "folders" / _hash([url, sorted(keys.items())])
    with _threads, writing(root):
        (root / "files").mkdir(parents=True, exist_ok=True)
        (root / "folders").mkdir(exist_ok=True)
        with _locked(root):
            _use(folder)
            (folder / _ABOUT).write_text(json.dumps({"url": url}) + "\n", encoding="utf-8")
        with lock.awaited(folder / ".downloading", lambda holder: log.warning(f"{url} is being read by {holder}")):
            shutil.rmtree(folder / _PARTIAL, ignore_errors=True)  # of a process that was killed
            with _locked(root):
                missing = [name for name in versions if not _linked(root / "files" / keys[name], folder / name)]
                if missing:
                    _make_room(root, sum(versions[name][1] or 0 for name in missing), url)
            if missing:
                _download(root, folder, url, {name: keys[name] for name in missing}, download)
    return folder


def origin(path: Path) -> str | None:
    """The URL, without credentials, that a path in the cache is a copy of; None for any other path."""
    folders = cache_directory() / "folders"
    if not path.is_absolute() or not path.is_relative_to(folders) or path == folders:
        return None
    folder = folders / path.relative_to(folders).parts[0]
    try:
        url = str(json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError):
        return None
    below = path.relative_to(folder).parts[1:]
    return "/".join([url.rstrip("/"), *below])


def named_by_origin(text: str) -> str:
    """Replace paths in the cache, wherever a text names them, by the URLs that they are copies of."""
    folder = re.compile(
        re.escape(f"{cache_directory() / 'folders'}{os.sep}") + rf"[0-9a-f]+{os.sep}[^\s{os.sep}'\":,;]+"
    )
    return folder.sub(lambda found: origin(Path(found[0])) or found[0], text)


def _download(
    root: Path, folder: Path, url: str, keys: Mapping[str, str], download: Callable[[dict[str, Path]], None]
) -> None:
    """Download files under temporary names, some at a time, and give them theirs once they are on the disk."""
    from moonlib.system.console import progress

    partial, names = folder / _PARTIAL, list(keys)
    try:
        partial.mkdir()
        with progress() as bars:
            bar = bars.add_task(f"Downloading {url}", total=len(names))
            for start in range(0, len(names), _FILES_AT_ONCE):
                targets = {name: partial / str(start + i) for i, name in enumerate(names[start:][:_FILES_AT_ONCE])}
                download(targets)
                for name, target in targets.items():
                    target.chmod(0o444)
                    sync(target)
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    # First the folder's own link: what has two is not removed to make room.
                    (folder / name).hardlink_to(target)
                    target.replace(root / "files" / keys[name])
                bars.update(bar, advance=len(targets))
        sync(root / "files")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the whole cache, for a moment."""
    with lock.awaited(root / ".lock", lambda _: None):
        yield


def _use(folder: Path) -> None:
    """Keep others from removing a folder for as long as this process lives."""
    folder.mkdir(exist_ok=True)
    if folder not in _in_use:
        descriptor = os.open(folder / ".in-use", os.O_RDWR | os.O_CREAT, 0o666)
        with _without_locks():
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        _in_use[folder] = descriptor


@contextmanager
def _without_locks() -> Iterator[None]:
    """Go on where a file system knows no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in lock.NO_LOCKS:
            raise


def _linked(file: Path, place: Path) -> bool:
    """Link a file of the cache into a folder, and tell whether it is there."""
    if place.exists():
        if not file.exists():  # a process was killed between its two links
            file.hardlink_to(place)
    elif file.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(file)
    else:
        return False
    os.utime(file)
    return True


def _make_room(root: Path, size: int, url: str) -> None:
    """Remove what was used least recently, until so many bytes have room."""
    limit = cache_limit()
    if size > limit:
        raise ValueError(f"{url} takes {size:,} bytes, and the cache in {root} may hold {limit:,}; {_more(size)}")
    files = sorted((root / "files").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    held = sum(file.stat().st_size for file in files)
    if held + size <= limit:
        return
    for folder in (root / "folders").iterdir():
        if folder not in _in_use and not _is_used(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        about = file.stat()
        if held + size <= limit:
            return
        if about.st_nlink == 1:
            file.unlink()
            held -= about.st_size
    if held + size > limit:
        raise ValueError(
            f"{url} takes {size:,} bytes, and of the {limit:,} that the cache in {root} may hold {held:,} are in use; "
            f"{_more(held + size)}"
        )


def _more(size: int) -> str:
    return f"give it more ({LIMIT}={-(-size // 10**9)}GB), or copy what you need to a local folder"


def _is_used(folder: Path) -> bool:
    """Whether another process uses a folder."""
    try:
        descriptor = os.open(folder / ".in-use", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # without locks nobody knows: it stays
        return True
    finally:
        os.close(descriptor)
    return False


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
