"""What is finished has checksums, and what differs from them is named."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from moonlib.artifacts.checksums import SUMS, Damaged, again, seal, sums, verified, verify_all
from moonlib.cli import main
from moonlib.runs.run import Run


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A finished directory of two files, one of them nested."""
    place = tmp_path / "place"
    (place / "csv").mkdir(parents=True)
    (place / "vectors.npy").write_bytes(bytes(range(256)))
    (place / "csv/metrics.csv").write_text("step,loss\n0,1.5\n")
    (place / "elsewhere").symlink_to("/etc")
    seal(place)
    return place


def flip(file: Path, byte: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 4
    file.write_bytes(data)


def test_whole_files_are_themselves(sealed: Path) -> None:
    assert sorted(sums(sealed)) == ["csv/metrics.csv", "vectors.npy"]
    assert verified(sealed / "vectors.npy") == sealed / "vectors.npy"
    assert verified(sealed / "csv/metrics.csv") == sealed / "csv/metrics.csv"
    assert verify_all(sealed) == []


@pytest.mark.parametrize("name", ["vectors.npy", "csv/metrics.csv"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "lengthen"])
def test_whatever_differs_is_named(sealed: Path, name: str, how: str) -> None:
    file = sealed / name
    data = file.read_bytes()
    if how == "flip":
        flip(file, len(data) // 2)
    else:
        file.write_bytes({"cut": data[:-1], "empty": b"", "lengthen": data + b"\0"}[how])
    with pytest.raises(Damaged, match=rf"^{file} is damaged: its SHA-256 is [0-9a-f]{{16}}…, and was [0-9a-f]{{16}}…"):
        verified(file)
    (problem,) = verify_all(sealed)
    assert str(file) in problem and f"copy {sealed} again" in problem


def test_a_file_that_changes_after_the_first_look_is_compared_again(sealed: Path) -> None:
    file = sealed / "vectors.npy"
    verified(file)
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    for _ in range(2):  # and an error is no approval
        with pytest.raises(Damaged):
            verified(file)
    flip(file)
    verified(file)


def test_a_missing_file_is_told_and_one_added_later_is_left_alone(sealed: Path) -> None:
    (sealed / "vectors.npy").unlink()
    (sealed / "index.faiss").write_bytes(b"later")
    with pytest.raises(Damaged, match=r"vectors\.npy is missing; copy .* again"):
        verified(sealed / "vectors.npy")
    with pytest.raises(FileNotFoundError):
        verified(sealed / "never.npy")
    assert verified(sealed / "index.faiss") == sealed / "index.faiss"
    (problem,) = verify_all(sealed)
    assert problem.startswith(f"{sealed / 'vectors.npy'} is missing; ")


def test_through_a_link_it_is_the_same_file(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/represent").symlink_to("../place")
    verified(tmp_path / "run/represent/vectors.npy")
    flip(sealed / "vectors.npy")
    with pytest.raises(Damaged, match=r"run/represent/vectors\.npy is damaged"):
        verified(tmp_path / "run/represent/vectors.npy")


def test_without_checksums_nothing_is_compared(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    verified(tmp_path / "a")
    (tmp_path / "a").write_text("b")
    verified(tmp_path / "a")
    assert verify_all(tmp_path) == [] and sums(tmp_path) == {}


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"  ", b" ", 1),
        lambda data: b"z" + data[1:],
        lambda data: b"<html>\n",
    ],
    ids=["empty", "cut", "halved", "no text", "spaces", "no digest", "foreign"],
)
def test_a_damaged_list_is_an_error_and_no_permission(sealed: Path, harm: object) -> None:
    file = sealed / SUMS
    file.write_bytes(harm(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(Damaged, match=rf"^{file} is damaged"):
        verified(sealed / "vectors.npy")
    (problem,) = verify_all(sealed)
    assert problem.startswith(f"{file} is damaged")


def test_any_bit_of_the_list_is_compared_too(sealed: Path) -> None:
    """A name that changed by a letter would otherwise mean that nothing is compared."""
    file = sealed / SUMS
    whole = file.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(data)
        (problem,) = verify_all(sealed)
        assert problem.startswith(f"{file} is damaged")


def test_sha256sum_agrees(sealed: Path) -> None:
    command = ["sha256sum", "--check", SUMS]
    done = subprocess.run(command, cwd=sealed, capture_output=True, text=True, check=True)
    assert done.stdout == "csv/metrics.csv: OK\nvectors.npy: OK\n"
    flip(sealed / "vectors.npy")
    done = subprocess.run(command, cwd=sealed, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "vectors.npy: FAILED" in done.stdout


def test_the_same_content_has_the_same_list(sealed: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed, tmp_path / "copy", symlinks=True)
    before = (sealed / SUMS).read_bytes()
    seal(tmp_path / "copy")
    assert (tmp_path / "copy" / SUMS).read_bytes() == before


def test_the_command_that_is_named_makes_a_stage_again(
    finished_run: Path, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished_run.parent, runs, symlinks=True)
    run = Run(runs / finished_run.name)
    file = run.directory / "represent/products.npy"
    whole = file.read_bytes()
    flip(file.resolve(), 200)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Damaged) as caught:
        verified(file)
    stage = file.parent.resolve()
    remove, command = re.fullmatch(r".*; remove (\S+), and `(.*)` makes it again", str(caught.value)).groups()  # type: ignore[union-attr]
    assert Path(remove).resolve() == stage
    shutil.rmtree(remove)
    words = shlex.split(command)
    assert words[:2] == ["moonlib", "fit"]
    assert main(words[1:]) == 0
    assert file.read_bytes() == whole and verify_all(stage) == []


def test_what_to_do_depends_on_who_wrote_it(tmp_path: Path) -> None:
    stage, dataset, built = tmp_path / ".stages/abc", tmp_path / ".data/tiny", tmp_path / "shop"
    for place in (stage, dataset, built, tmp_path / "vectors"):
        place.mkdir(parents=True)
    (built / "dataset.json").touch()
    assert again(stage) == f"remove {stage}, and the next `moonlib fit` that needs it makes it again"
    assert again(dataset) == f"remove {dataset}, and the next `moonlib fit` builds it again"
    assert again(built / "products.arrow") == "copy the dataset again, or remove it and build it again"
    assert again(tmp_path / "vectors/a.npy").startswith(f"copy {tmp_path / 'vectors'} again, or remove it and run")
    (tmp_path / "loop").symlink_to("loop")
    assert again(tmp_path / "loop").startswith("copy ")


def test_a_list_that_another_program_wrote_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "checksums.sha256").write_text("0" * 64 + "  place/a\n")
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  place/a\n")
    (tmp_path / "place/a").write_text("a")
    assert verified(tmp_path / "place/a")


def test_the_list_itself_is_written_whole_or_not_at_all(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (sealed / SUMS).read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="make room"):
        seal(sealed)
    assert (sealed / SUMS).read_bytes() == before


def test_only_what_is_named_is_noted(sealed: Path) -> None:
    seal(sealed, [sealed / "vectors.npy", sealed / "never.npy"])
    assert list(sums(sealed)) == ["vectors.npy"]


def test_a_line_break_in_a_name_is_refused_and_not_misread(sealed: Path) -> None:
    before = (sealed / SUMS).read_bytes()
    (sealed / "two\nlines").touch()
    with pytest.raises(ValueError, match="a line break in the name"):
        seal(sealed)
    assert (sealed / SUMS).read_bytes() == before
    (sealed / "two\nlines").rename(sealed / "two \u2028 lines")  # what other programs may take for one
    seal(sealed)
    assert sealed / "two \u2028 lines" in [sealed / name for name in sums(sealed)] and verify_all(sealed) == []
