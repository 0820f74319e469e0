"""Files at URLs: read through the cache, with errors that name the URL and no secret."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from moonlib.artifacts.checksums import SUMS
from moonlib.system import remote
from moonlib.system.remote import NotFound, Refused, RemoteError, is_url, local_copy, local_only, upload

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def shop(download_cache: Path) -> Iterator[Any]:
    """fsspec's memory, with a folder of tables."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    system = fsspec.filesystem("memory")
    system.pipe({"/shop/products.csv": b"item_id\n7\n", "/shop/photos/a.jpg": b"a" * 1000, "/shop/photos/b.jpg": b"b"})
    yield system
    MemoryFileSystem.store.clear()


class _Pages(BaseHTTPRequestHandler):
    """Serves what the test put into `pages`; a number is a status."""

    pages: dict[str, bytes | int] = {}  # noqa: RUF012
    agents: set[str] = set()  # noqa: RUF012

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0], 404)
        self.agents.add(self.headers["User-Agent"])
        self.send_response(page if isinstance(page, int) else 200)
        body = b"" if isinstance(page, int) else page
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(download_cache: Path) -> Iterator[tuple[str, dict[str, bytes | int]]]:
    """A web server's address, and its pages."""
    pytest.importorskip("aiohttp")
    _Pages.pages = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", _Pages.pages
    server.shutdown()
    server.server_close()


def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are downloaded from now on."""
    from fsspec.implementations.memory import MemoryFileSystem

    found: list[str] = []
    get_file = MemoryFileSystem.get_file

    def counted(self: Any, rpath: str, lpath: str, **options: Any) -> None:
        found.append(rpath)
        get_file(self, rpath, lpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(cache: Path) -> list[Path]:
    """Files of the cache that are neither content nor its own notes."""
    return [path for path in cache.rglob("*") if ".partial" in path.parts or path.name.endswith(".partial")]


def test_a_local_path_stays_what_it_is() -> None:
    assert local_copy("runs/iter3") == Path("runs/iter3") and local_copy(Path("x")) == Path("x")
    assert not is_url("runs/iter3") and not is_url("{class_path: shards, init_args: {path: 's3://b'}}")


def test_a_url_that_has_become_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"s3:/b/x is a URL that has lost a slash; give it as text, s3://b/x"):
        is_url(Path("s3://b/x"))
    with pytest.raises(ValueError, match="lost a slash"):
        local_copy(Path("gs://b/x"))


def test_files_and_folders_are_downloaded_once_and_again_where_they_change(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = downloads(monkeypatch)
    folder = local_copy("memory://shop")
    assert folder.name == "shop"
    assert contents(folder) == {"products.csv": b"item_id\n7\n", "photos/a.jpg": b"a" * 1000, "photos/b.jpg": b"b"}
    assert local_copy("memory://shop/") == folder and len(found) == 3
    shop.pipe("/shop/products.csv", b"item_id\n8\n")  # as long as before
    assert contents(local_copy("memory://shop"))["products.csv"] == b"item_id\n8\n"
    assert found[3:] == ["/shop/products.csv"], "of a folder only what has changed comes again"
    assert contents(folder)["products.csv"] == b"item_id\n7\n", "what this process reads stays as it is"
    file = local_copy("memory://shop/products.csv")
    assert file.name == "products.csv" and file.read_bytes() == b"item_id\n8\n"


def test_only_what_is_wanted_is_downloaded(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = downloads(monkeypatch)
    assert contents(local_copy("memory://shop", lambda name: name != "photos")) == {"products.csv": b"item_id\n7\n"}
    assert found == ["/shop/products.csv"]
    with pytest.raises(RemoteError, match="memory://shop: there is nothing in it that is read"):
        local_copy("memory://shop", lambda name: False)


def test_what_is_not_there(shop: Any) -> None:
    with pytest.raises(NotFound, match=r"memory://shop/none: there is no such object, folder or bucket"):
        local_copy("memory://shop/none")


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "simplecache::s3://b/x", "S3://b/x"])
def test_other_urls_are_refused(url: str, download_cache: Path) -> None:
    with pytest.raises(ValueError, match=r"is none of the places that moonlib reads: s3://, gs://, az://, hf://"):
        local_copy(url)


def test_a_truncated_file_is_refused_and_leaves_nothing(
    shop: Any, download_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "get_file", lambda self, rpath, lpath, **_: Path(lpath).write_bytes(b"it"))
        with pytest.raises(RemoteError, match=r"memory://shop/products.csv: the file was cut off.*2 of 10 bytes came"):
            local_copy("memory://shop/products.csv")
    assert not leftovers(download_cache) and not any((download_cache / "files").iterdir())
    assert local_copy("memory://shop/products.csv").read_bytes() == b"item_id\n7\n"


def test_a_connection_that_breaks_leaves_nothing_half_written(
    shop: Any, download_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def get_file(self: Any, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(b"half")
        raise ConnectionResetError("connection reset by peer")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "get_file", get_file)
        with pytest.raises(
            RemoteError, match=r"memory://shop can't be read \(connection reset by peer\); the same comm"
        ):
            local_copy("memory://shop")
    assert not leftovers(download_cache) and not any((download_cache / "files").iterdir())
    assert len(contents(local_copy("memory://shop"))) == 3


def test_a_full_disk_names_the_cache(shop: Any, download_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def get_file(self: Any, rpath: str, lpath: str, **_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    with pytest.raises(OSError, match="No space left on device; make room") as raised:
        local_copy("memory://shop")
    assert raised.value.filename == str(download_cache) and not leftovers(download_cache)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, download_cache: Path) -> None:
    registry = sys.modules["fsspec.registry"]
    for package, url in (("s3fs", "s3://b/x"), ("fsspec", "memory://x"), ("aiohttp", "https://host/x")):
        with monkeypatch.context() as without:
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                without.setitem(sys.modules, name, None)
            without.setitem(sys.modules, package, None)
            for scheme in ("s3", "https"):
                without.delitem(registry._registry, scheme, raising=False)
            with pytest.raises(RemoteError, match=r"needs a package that is not installed.*moonlib-embedding\[cloud\]"):
                local_copy(url)


def test_buckets_and_keys_that_are_missing(bucket: str) -> None:
    with pytest.raises(NotFound, match=f"{bucket}/none: there is no such object, folder or bucket"):
        local_copy(f"{bucket}/none")
    with pytest.raises(NotFound, match="s3://no-such-bucket/x: there is no such object, folder or bucket"):
        local_copy("s3://no-such-bucket/x")


def test_missing_credentials_say_where_they_are_taken_from(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(Refused, match=r"access was refused .*; credentials are taken from AWS_ACCESS_KEY_ID and"):
        local_copy(f"{bucket}/x")


def test_a_bucket_that_vanishes_half_way(bucket: str, download_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    system = S3FileSystem()
    system.pipe({f"{bucket}/ds/{i}": b"x" * 10 for i in range(20)})
    listed = remote._listed

    def vanishing(*arguments: Any) -> Any:
        yield from list(listed(*arguments))
        system.rm(bucket, recursive=True)

    monkeypatch.setattr(remote, "_listed", vanishing)
    with pytest.raises(NotFound, match=f"{bucket}/ds: there is no such object, folder or bucket"):
        local_copy(f"{bucket}/ds")
    assert not leftovers(download_cache)


def test_an_upload_ends_with_what_marks_it_as_finished(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    folder = tmp_path / "export"
    for name in ("config.json", SUMS, "model.safetensors", "text/config.json", "zzz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    order: list[str] = []
    put_file = MemoryFileSystem.put_file

    def counted(self: Any, lpath: str, rpath: str, **options: Any) -> None:
        order.append(rpath.removeprefix("/exports/e/"))
        put_file(self, lpath, rpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", counted)
    upload(folder, "memory://exports/e", last=(SUMS, "config.json"))
    assert order == ["model.safetensors", "text/config.json", "zzz", SUMS, "config.json"]
    assert contents(local_copy("memory://exports/e")) == contents(folder)
    with pytest.raises(FileExistsError, match="memory://exports/e exists"):
        upload(folder, "memory://exports/e", last=())
    with pytest.raises(RemoteError, match="a web server takes no files"):
        upload(folder, "https://host/e", last=())


def test_what_needs_locks_stays_local() -> None:
    assert local_only("runs", "a run") == Path("runs")
    with pytest.raises(ValueError, match=r"s3://b/runs: a run can't be written to a URL, because that takes locks"):
        local_only("s3://b/runs", "a run")


def test_a_web_server_lists_a_folder_by_its_checksums(web: tuple[str, dict[str, bytes | int]]) -> None:
    address, pages = web
    digest = "0" * 64
    pages |= {
        "/d/moonlib.sha256": f"{digest}  a\n{digest}  sub/b c\n# the lines above: {digest}\n".encode(),
        "/d/a": b"A",
        "/d/sub/b%20c": b"B",
        "/one.csv": b"item_id\n",
    }
    folder = local_copy(f"http://{address}/d")
    assert {"a": b"A", "sub/b c": b"B"}.items() <= contents(folder).items() and (folder / SUMS).is_file()
    assert local_copy(f"http://{address}/one.csv").read_bytes() == b"item_id\n"
    assert remote.USER_AGENT in _Pages.agents
    assert remote.LISTING == SUMS


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "sub/../../evil"])
def test_a_listing_leads_nowhere_else(name: str, web: tuple[str, dict[str, bytes | int]], tmp_path: Path) -> None:
    address, pages = web
    pages["/d/moonlib.sha256"] = f"{'0' * 64}  {name}\n".encode()
    for place in ("/evil", "/etc/evil", "/d//etc/evil", "/d/evil"):
        pages[place] = b"evil"
    with pytest.raises(RemoteError, match="can't be the name of a file in a local folder"):
        local_copy(f"http://{address}/d")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_secrets_of_a_url_are_in_no_error(status: int, web: tuple[str, dict[str, bytes | int]]) -> None:
    address, pages = web
    pages["/x.csv"] = status
    secret = "hu" + "sh"  # not as it stands in the source lines of the traceback
    with pytest.raises(RemoteError) as raised:
        local_copy(f"http://me:{secret}@{address}/x.csv?X-Amz-Sig={secret}&b=c")
    told = "".join(traceback.format_exception(raised.value))
    assert secret not in told and f"http://{address}/x.csv" in str(raised.value)
    assert isinstance(raised.value, Refused) == (status in (401, 403))
    assert isinstance(raised.value, NotFound) == (status == 404)


def test_secrets_are_not_in_the_cache(web: tuple[str, dict[str, bytes | int]], download_cache: Path) -> None:
    address, pages = web
    pages["/x.csv"] = b"item_id\n"
    file = local_copy(f"http://{address}/x.csv?token=hush")
    assert file.name == "x.csv" and file.read_bytes() == b"item_id\n"
    assert not [path for path in download_cache.rglob("*") if "hush" in str(path)]
    assert not [path for path in download_cache.rglob("*") if path.is_file() and b"hush" in path.read_bytes()]
