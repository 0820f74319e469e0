"""The cache of downloads: its limit, what is in use, and several processes at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moonlib.system.download_cache import cache_limit, cached, named_by_origin, origin
from moonlib.testing.processes import run_processes


def read(url: str, size: int = 100, log: Path | None = None) -> Path:
    """Read a made-up URL of one file through the cache."""

    def download(targets: dict[str, Path]) -> None:
        for target in targets.values():
            target.write_bytes(b"x" * size)
        if log is not None:
            with log.open("a") as lines:
                lines.write(f"{url}\n")

    return cached(url, {"file": (url, size)}, download) / "file"


def in_another_process(rank: int, cache: str, log: str, urls: list[str]) -> None:
    """Read URLs one after the other, and end."""
    os.environ["MOONLIB_CACHE"], os.environ["MOONLIB_CACHE_LIMIT"] = cache, "350B"
    for number, url in enumerate(urls):
        os.utime(read(url, log=Path(log)), ns=(number, number * 10**9))


def held(cache: Path) -> int:
    return sum(file.stat().st_size for file in (cache / "files").iterdir())


def test_what_was_used_least_recently_goes_first(download_cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    run_processes(in_another_process, str(download_cache), str(log), ["a://1", "a://2", "a://3", "a://1"], processes=1)
    assert held(download_cache) == 300
    run_processes(in_another_process, str(download_cache), str(log), ["a://4"], processes=1)
    assert held(download_cache) == 300, "one had to go"
    run_processes(in_another_process, str(download_cache), str(log), ["a://1", "a://3"], processes=1)
    assert log.read_text().split() == ["a://1", "a://2", "a://3", "a://4"], "and it was the second"


def test_what_is_in_use_stays(download_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONLIB_CACHE_LIMIT", "350B")
    mine = [read(f"b://{i}") for i in range(3)]
    with pytest.raises(ValueError, match=r"b://4 takes 100 bytes, and of the 350 that the cache in .* 300 are in use"):
        read("b://4")
    log = tmp_path / "log"
    with pytest.raises(Exception, match="300 are in use"):  # nor does another process remove what this one uses
        run_processes(in_another_process, str(download_cache), str(log), ["b://5"], processes=1)
    assert all(path.read_bytes() == b"x" * 100 for path in mine)


def test_more_than_the_limit_is_refused_before_it_is_downloaded(
    download_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLIB_CACHE_LIMIT", "50B")
    log = tmp_path / "log"
    with pytest.raises(ValueError, match=r"takes 100 bytes.* may hold 50; give it more \(MOONLIB_CACHE_LIMIT=1GB\)"):
        read("c://1", log=log)
    assert not log.exists()


def test_processes_download_a_file_once(download_cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_processes(in_another_process, str(download_cache), str(log), ["d://1", "d://2"], processes=3)
    assert sorted(log.read_text().split()) == ["d://1", "d://2"]


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 MB", 1_500_000), ("2GiB", 2 * 2**30), ("7", 7), ("9k", 9000)]
)
def test_limits(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONLIB_CACHE_LIMIT", text)
    assert cache_limit() == size


@pytest.mark.parametrize("text", ["much", "-1GB", "20 XB"])
def test_a_limit_that_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONLIB_CACHE_LIMIT", text)
    with pytest.raises(ValueError, match=f"MOONLIB_CACHE_LIMIT: '{text}' is no size; write it like 20GB"):
        cache_limit()


def test_a_copy_knows_what_it_is_of(download_cache: Path, tmp_path: Path) -> None:
    file = read("s3://bucket/file")
    assert origin(file) == "s3://bucket/file" and origin(tmp_path) is None
    assert named_by_origin(f"{file}: row 7; see {tmp_path}") == f"s3://bucket/file: row 7; see {tmp_path}"
