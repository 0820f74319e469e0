"""Files in a cloud or on the web, named by a URL and read through fsspec.

Credentials come from where each cloud's own tools take them (environment variables, configuration files, fsspec's
configuration), and never appear in a message: neither a URL's user and password nor its query, which may be signed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from moonlib.system.disk import NO_ROOM
from moonlib.system.download_cache import Versions, cached

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_CONNECTION_STRING",
    "hf": "HF_TOKEN, or `hf auth login`",
    "https": "the URL alone: it may be a signed one",
    "http": "the URL alone: it may be a signed one",
    "memory": "none",
}
"""Where the credentials of each kind of URL are taken from."""

INSTALL = "pip install 'moonlib-embedding[cloud]'"

LISTING = "moonlib.sha256"
"""File that lists a finished folder, see `moonlib.artifacts.checksums`: a web server lists none."""

USER_AGENT = "moonlib (+https://pypi.org/project/moonlib-embedding/)"
"""Header that a web server is told."""

_LOGGERS = ("s3fs", "gcsfs", "adlfs", "fsspec")
_SECONDS = 60
_URL = re.compile(r"[\w.+:-]+://")
_COLLAPSED = re.compile(rf"({'|'.join(CREDENTIALS)}):/(?!/)")
_WEB_USER = re.compile(r"(https?://)[^/\s'\"@]*@")
_PASSWORD = re.compile(r"(\w+://)[^/\s'\"@:]*:[^/\s'\"@]*@")
_QUERY = re.compile(r"(\w+://[^\s'\"?]*)\?[^\s'\"]*")
_SIGNED = re.compile(r"[?&][^=&]*(sig|signature|token|secret|key|password|credential)[^=&]*=", re.IGNORECASE)
_VERSION = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "blob_id", "oid", "mtime", "updated")
_TIME = ("last_modified", "LastModified", "Last-Modified", "created")
_NOT_FOUND = ("ResourceNotFoundError", "RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError")
_REFUSED = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError")


class RemoteError(OSError):
    """A URL that can't be read or written; the message names it, without credentials, and says what to do."""


class NotFound(RemoteError):
    """There is nothing at a URL."""


class Refused(RemoteError):
    """Access to a URL is refused, or credentials are missing."""


@dataclass(frozen=True)
class RemoteFile:
    """A file below a URL.

    Attributes:
        name: relative to the URL; empty for what the URL itself names.
        path: as the file system calls it.
        size: in bytes; None where the server doesn't say.
        version: another one where the content has changed; empty where the server doesn't say.
    """

    name: str
    path: str
    size: int | None
    version: str


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL, and no local path.

    Raises:
        ValueError: it was a URL before it became a `Path`, which makes one slash of two.

    Example:
        >>> is_url("s3://bucket/runs/iter3"), is_url("runs/iter3")
        (True, False)
    """
    if url := former_url(place):
        raise ValueError(f"{place} is a URL that has lost a slash; give it as text, {url}")
    return _URL.match(str(place)) is not None


def former_url(place: str | Path) -> str | None:
    """The URL that something was before it became a `Path`; None for a local path or a URL.

    Example:
        >>> former_url(Path("s3://bucket/runs")), former_url("runs")
        ('s3://bucket/runs', None)
    """
    text = str(place)
    return text.replace(":/", "://", 1) if _COLLAPSED.match(text) else None


def without_credentials(text: str) -> str:
    """Leave out of the URLs in a text what may be secret: user and password, and the query.

    Example:
        >>> without_credentials("https://me:secret@host/a.csv?X-Amz-Signature=f00 is missing")
        'https://host/a.csv is missing'
    """
    return _QUERY.sub(r"\1", _PASSWORD.sub(r"\1", _WEB_USER.sub(r"\1", text)))


def holds_credentials(url: str) -> bool:
    """Whether a URL has a password, or a query with a signature or a token.

    Example:
        >>> holds_credentials("https://host/data?X-Amz-Signature=f00"), holds_credentials("https://host/data?page=2")
        (True, False)
    """
    return is_url(url) and (_PASSWORD.match(url) or _SIGNED.search(url)) is not None


def local_only(place: str | Path, what: str) -> Path:
    """Return a local path, and refuse a URL.

    Args:
        place: where something is to be written.
        what: is written; the subject of the message.

    Raises:
        ValueError: it is a URL.
    """
    if is_url(place):
        raise ValueError(
            f"{without_credentials(str(place))}: {what} can't be written to a URL, because that takes locks, links or "
            "more than one try; give a local path, and copy the result there"
        )
    return Path(place)


def everything(name: str) -> bool:
    """Want every file."""
    return True


def local_copy(place: str | Path, wanted: Callable[[str], bool] = everything) -> Path:
    """Return where the file or the folder that a URL names lies on this machine, downloading what has changed.

    A copy lies in the cache, see `moonlib.system.download_cache`; it must not be written to.

    Args:
        place: a URL, or a local path, which is returned as it is.
        wanted: tells by the relative name of a file or a folder whether it is needed. Others are not downloaded, and of
            a folder not even listed.

    Raises:
        RemoteError: the URL can't be read.
        ValueError: its scheme is not one that moonlib reads, or the cache's limit is too small.
        OSError: the cache's disk is full.

    Example: ``local_copy("s3://bucket/export")``
    """
    if not is_url(place):
        return Path(place)
    url = str(place).rstrip("/")
    shown = without_credentials(url)
    system, path = file_system(url)
    with told_of(url):
        system.invalidate_cache()
        files = list(_listed(system, path, wanted))
    if not files:
        raise RemoteError(f"{shown}: there is nothing in it that is read")
    base = PurePosixPath(path.partition("?")[0].rstrip("/")).name
    named = {base if file.name == "" else f"{base}/{file.name}": file for file in files}
    for name in named:
        if not base or ".." in (parts := PurePosixPath(name).parts) or name != "/".join(parts):
            raise RemoteError(f"{shown}: {name!r} can't be the name of a file in a local folder; rename it there")
    versions: Versions = {name: (f"{file.path} {file.version}", file.size) for name, file in named.items()}

    def download(targets: dict[str, Path]) -> None:
        _download(url, system, {target: named[name] for name, target in targets.items()})

    return cached(shown, versions, download, unknown=[name for name, file in named.items() if not file.version]) / base


def _download(url: str, system: AbstractFileSystem, files: dict[Path, RemoteFile]) -> None:
    """Download files, all at once where the file system can."""
    with told_of(url):
        system.get([file.path for file in files.values()], [str(target) for target in files])
    for target, file in files.items():
        size = target.stat().st_size
        if file.size is not None and size != file.size:
            raise RemoteError(
                f"{without_credentials(url)}: {file.name or 'the file'} was cut off, or changed while it was read: "
                f"{size:,} of {file.size:,} bytes came; the same command tries again"
            )


def file_system(url: str, *, seconds: float | None = None) -> tuple[AbstractFileSystem, str]:
    """Open the file system that a URL is of.

    Args:
        url: of anything in it.
        seconds: that a web server has for a whole file; by default no limit, which may be large.

    Returns:
        The file system, and the URL as it calls it.

    Raises:
        RemoteError: what it needs is not installed.
        ValueError: its scheme is not one that moonlib reads.
    """
    scheme, shown = url.partition("://")[0], without_credentials(url)
    if scheme not in CREDENTIALS:
        known = ", ".join(f"{name}://" for name in CREDENTIALS if name != "memory")
        raise ValueError(f"{shown}: {scheme}:// is none of the places that moonlib reads: {known} and local paths")
    for name in _LOGGERS:  # they log what they raise as well; with no handler that would go to the terminal
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        from fsspec.core import url_to_fs

        options = _web_options(seconds) if scheme in ("http", "https") else {}
        with told_of(url):
            system, path = url_to_fs(url, **options)
    except ImportError as error:
        raise RemoteError(f"{shown}: {scheme}:// needs a package that is not installed ({error}): {INSTALL}") from None
    return system, path


def _web_options(seconds: float | None) -> dict[str, Any]:
    import aiohttp

    # A server that has stopped sending is not waited for, however large the file.
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_SECONDS, sock_read=_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "headers": {"User-Agent": USER_AGENT}}}


def upload(folder: Path, url: str, last: tuple[str, ...]) -> None:
    """Copy a finished folder to a URL. What marks it as finished goes last, so that no reader takes a half for it.

    Args:
        folder: a local one.
        url: where its files go; nothing may be there.
        last: names of the files that readers look for first, in the order in which they go.

    Raises:
        RemoteError: it can't be written. What was written already is left, without the files that mark it as finished.
        FileExistsError: something is there.
    """
    from moonlib.system.console import progress

    refuse_occupied(url)
    system, path = file_system(url)
    files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    marks = [name for name in last if name in files]
    ordered = [*(name for name in files if name not in marks), *marks]
    with told_of(url, "written"), progress() as bars:
        for name in bars.track(ordered, description=f"Uploading {without_credentials(url)}"):
            system.put_file(str(folder / name), f"{path.rstrip('/')}/{name}")


def refuse_occupied(url: str) -> None:
    """Refuse to write where something is.

    Raises:
        RemoteError: the URL can't be written to, or not be looked at.
        FileExistsError: something is there.
    """
    shown = without_credentials(url)
    if url.startswith(("http://", "https://")):
        raise RemoteError(f"{shown}: a web server takes no files; write to a local folder, and publish that")
    system, path = file_system(url)
    with told_of(url, "written"):
        system.invalidate_cache()
        occupied = system.exists(path)
    if occupied:
        raise FileExistsError(f"{shown} exists; remove it or choose another place")


@contextmanager
def told_of(url: str, done: str = "read") -> Iterator[None]:
    """Turn what the libraries of the clouds raise into one line that names the URL.

    Errors are not chained: those of some libraries hold the URL with its signature.

    Args:
        url: what is being read or written.
        done: to it.
    """
    try:
        yield
    except (RemoteError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise  # of the local disk, and named there
        raise _translated(url, error, done) from None


def _translated(url: str, error: Exception, done: str) -> RemoteError:
    shown, scheme = without_credentials(url), url.partition("://")[0]
    reason = without_credentials(next(iter(str(error).splitlines()), ""))[:200] or type(error).__name__
    names, status = {cls.__name__ for cls in type(error).__mro__}, _status(error) or _status(error.__cause__)
    if status == 404 or names & set(_NOT_FOUND) or (isinstance(error, FileNotFoundError) and status is None):
        return NotFound(f"{shown}: there is no such object, folder or bucket ({reason}); check its name")
    if isinstance(error, PermissionError) or status in (401, 403) or names & set(_REFUSED) or "credentials" in reason:
        return Refused(f"{shown}: access was refused ({reason}); credentials are taken from {CREDENTIALS.get(scheme)}")
    return RemoteError(f"{shown} can't be {done} ({reason}); the same command tries again")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error tells of; each library keeps it elsewhere, and fsspec's own only in the cause."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for holder, name in ((error, "status"), (error, "status_code"), (error, "code"), (response, "status_code")):
        try:
            return int(getattr(holder, name))
        except (AttributeError, TypeError, ValueError):
            continue
    return None


def _listed(system: AbstractFileSystem, path: str, wanted: Callable[[str], bool]) -> Iterator[RemoteFile]:
    """List the files that a path names: itself, or those of a folder."""
    if "http" in system.protocol:
        yield from _listed_by_file(system, path, wanted)
        return
    info = system.info(path)
    root = path.rstrip("/")
    if info["type"] != "directory":
        yield _file(info, "", path)
    else:
        yield from _walk(system, root, root, wanted)


def _walk(system: AbstractFileSystem, folder: str, root: str, wanted: Callable[[str], bool]) -> Iterator[RemoteFile]:
    for info in sorted(system.ls(folder, detail=True), key=lambda info: str(info["name"])):
        path = str(info["name"])
        name = path.rstrip("/").removeprefix(root).lstrip("/")
        if not name or path.rstrip("/") == folder or not wanted(name):  # some stores keep an empty object for a folder
            continue
        if info["type"] == "directory":
            yield from _walk(system, path.rstrip("/"), root, wanted)
        elif not path.endswith("/"):
            yield _file(info, name, path)


def _listed_by_file(system: AbstractFileSystem, url: str, wanted: Callable[[str], bool]) -> Iterator[RemoteFile]:
    """List a web server's files by the checksums that a finished folder of moonlib has, and else take one file."""
    base, mark, query = url.partition("?")
    listing = f"{base.rstrip('/')}/{LISTING}{mark}{query}"
    try:
        lines = system.cat_file(listing).decode().splitlines()
    except Exception as error:  # of any library, and a page in place of the file is no text perhaps
        if not isinstance(error, FileNotFoundError | UnicodeDecodeError) and _status(error) not in (400, 401, 403):
            raise
        lines = []
    names = [line.split("  ", 1)[1] for line in lines if re.match(r"[0-9a-f]{64}  \S", line)]
    if not names:
        yield _file(system.info(url), "", url)
        return
    for name in [*names, LISTING]:
        if wanted(name):
            path = f"{base.rstrip('/')}/{name}{mark}{query}"
            yield _file(system.info(path), name, path)


def _file(info: dict[str, Any], name: str, path: str) -> RemoteFile:
    version = next((str(info[key]) for key in (*_VERSION, *_TIME) if info.get(key)), "")
    return RemoteFile(name, path, info.get("size"), version)
