from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from torch import nn

from moonlib.encoders.weights import save_weights
from moonlib.system.disk import exchange, is_panic, rename, replacing, restore, sync, unfinished, writing


class PanicException(BaseException):
    """What libraries written in Rust raise when they panic; its class is made anew in each of them."""


def recorded(monkeypatch: pytest.MonkeyPatch, place: Path) -> list[tuple[str, str]]:
    """What of a folder reaches the disk and what is renamed, in order."""
    happened = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        happened.append(("sync", next(path.name for path in (place, *place.iterdir()) if path.stat().st_ino == number)))
        fsync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        happened.append(("rename", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    return happened


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = recorded(monkeypatch, tmp_path)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not happened
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert happened == [("sync", f".a.txt.{os.getpid()}.partial"), ("rename", "a.txt"), ("sync", tmp_path.name)]


def test_what_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("before")
    for error in (ValueError("no"), KeyboardInterrupt(), PanicException("no")):
        with pytest.raises(type(error)), replacing(file) as temporary:
            temporary.write_text("half")
            raise error
        assert file.read_text() == "before"
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    unfinished(tmp_path / f"a.txt.{os.getpid()}").symlink_to(tmp_path / "victim")
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / "a.txt").read_text() == "new"


def test_a_folder_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a").write_text("a")
    rename(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/a").read_text() == "a"


def test_a_file_system_that_cannot_sync_folders_is_none_that_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", [RuntimeError, PanicException])
def test_a_full_disk_is_told_with_the_file_also_by_a_library_in_rust(kind: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="make room") as caught, writing(tmp_path / "a.txt"):
        raise kind("I/O error: No space left on device (os error 28)")
    assert caught.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(kind, match="another"), writing(tmp_path / "a.txt"):
        raise kind("another")


def test_what_is_a_panic() -> None:
    assert is_panic(PanicException()) and not is_panic(KeyboardInterrupt())


@pytest.mark.parametrize("atomic", [True, False])
def test_directories_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    old, new = tmp_path / "old", tmp_path / "new"
    for place in (old, new):
        place.mkdir()
        (place / "is").write_text(place.name)
    exchange(new, old)
    assert ((old / "is").read_text(), (new / "is").read_text()) == ("new", "old")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}


def test_a_directory_that_a_kill_left_without_its_name_has_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    old = tmp_path / "old"
    old.mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "missing", old)
    assert old.is_dir()
    old.rename(tmp_path / ".old.exchanged")  # as far as a killed process came
    restore(old)
    assert [*tmp_path.iterdir()] == [old]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_who_may_read_a_file_is_up_to_the_umask_whatever_wrote_it(tmp_path: Path, umask: int) -> None:
    """Some libraries make their files for the owner alone: a colleague or a server could not load such weights."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "private") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        with replacing(tmp_path / "usual") as temporary:
            temporary.write_text("")
        left = unfinished(tmp_path / f"again.{os.getpid()}")  # by a killed process that had this one's number
        os.close(os.open(left, os.O_CREAT | os.O_WRONLY, 0o600))
        with replacing(tmp_path / "again") as temporary:
            temporary.write_text("")
        save_weights(nn.Linear(2, 2), tmp_path / "weights.safetensors")
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["private", "usual", "again", "weights.safetensors"], 0o666 & ~umask)
