"""Images at a URL: below one that their names start from, or each at a URL of its own, as a shop's feed names them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from moonlib.system.remote import NotFound, Refused, RemoteError, file_system, is_url, told_of, without_credentials

WEB = "https"
"""In place of an image folder: the names of the images are URLs (``https://…`` or ``http://…``)."""

_AT_ONCE = 32
_TRIES = 3
_SECONDS = 30.0


class CloudImages:
    """Reads images at a URL, many at once; a `moonlib.data.image_sources.ImageSource`. Picklable.

    Args:
        place: the URL that names start from, or `WEB`.

    Raises:
        RemoteError: what the URL needs is not installed.
        ValueError: it is of no kind that moonlib reads.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        file_system(f"{WEB}://" if place == WEB else place)

    def read(self, name: str) -> bytes:
        """Return an image's file as it is.

        Raises:
            ValueError: see `prefetched`.
            RemoteError: see `prefetched`.
        """
        return self.prefetched([name]).read(name)

    def prefetched(self, names: Sequence[str]) -> Prefetched:
        """Read the files of some images, and return what `read` takes them from.

        That an image is not there, or that its name leads elsewhere, is said when it is asked for. At URLs of their own
        so is everything else: a hundred servers are never all well.

        Raises:
            RemoteError: the place that all names start from refuses access, or can't be reached.
        """
        wanted = list(dict.fromkeys(names))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            read = self._reader()
            files = dict(zip(wanted, threads.map(read, wanted), strict=True))
        return Prefetched(files)

    def _reader(self) -> Callable[[str], bytes | Exception]:
        # One file system for all threads, which each would else have connections of its own.
        system, root = file_system(f"{WEB}://" if self.place == WEB else self.place, seconds=_SECONDS)
        web = "http" in system.protocol

        def read(name: str) -> bytes | Exception:
            if problem := self._problem(name):
                return ValueError(problem)
            if self.place == WEB:
                url = path = name
            else:
                part = quote(name) if web else name
                url, path = f"{self.place.rstrip('/')}/{part}", f"{root.rstrip('/')}/{part}"
            for left in reversed(range(_TRIES)):
                try:
                    with told_of(url):
                        data: bytes = system.cat_file(path)
                        return data
                except NotFound as error:
                    return error
                except RemoteError as error:
                    if left and not isinstance(error, Refused):
                        time.sleep(0.2 * (_TRIES - left) ** 2)
                        continue
                    if self.place == WEB:
                        return error
                    raise
            raise AssertionError  # the last try returns or raises

        return read

    def _problem(self, name: str) -> str | None:
        """Say why a name is not read."""
        if self.place == WEB:
            if name.startswith(("https://", "http://")):
                return None
            return "it is no https:// URL; names below a folder or a URL are read with --images DIR"
        if is_url(name) or name.startswith("/") or ".." in PurePosixPath(name).parts:
            web = "; URLs are read with --images https" if name.startswith(("https://", "http://")) else ""
            return f"the name leads out of {without_credentials(self.place)}{web}"
        if ".tar/" in name:
            return "it is a member of a tar, and tars are read from a local folder; copy them there"
        return None


class Prefetched:
    """Images that have been read, or the errors in their place; see `CloudImages.prefetched`."""

    def __init__(self, files: dict[str, bytes | Exception]) -> None:
        self._files = files

    def read(self, name: str) -> bytes:
        """Return an image's file as it is.

        Raises:
            ValueError: it could not be read.
        """
        found = self._files[name]
        if isinstance(found, Exception):
            raise ValueError(str(found))
        return found


def in_cloud(images: str | Path | None) -> bool:
    """Whether images are at a URL or at URLs of their own; a local folder of that name is one."""
    return images is not None and (is_url(images) or (str(images) == WEB and not Path(WEB).is_dir()))


def image_place(images: str | Path) -> str | Path:
    """Return a place of images, as text if it is a URL or `WEB`.

    Raises:
        ValueError: it is neither, nor a local folder.
    """
    if in_cloud(images):
        return str(images)
    if not Path(images).is_dir():
        raise ValueError(f"{images} is no folder of images")
    return Path(images)
