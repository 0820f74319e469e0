"""Unreadable samples are named once and counted over processes and runs."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from moonlib.data.quarantine import Quarantine, TooManyUnreadable


def test_records_once_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path, total=10).record("products", -(2**63), "损坏\u2028\n truncated")
    Quarantine(path, total=10).record("products", -(2**63), "again")
    Quarantine(path, total=10).record("queries", -(2**63), "bomb")
    assert Quarantine(path, total=10).entries() == {
        ("products", -(2**63)): "损坏\u2028\n truncated",
        ("queries", -(2**63)): "bomb",
    }
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "line", [b"[]", b"3", b"null", b'{"table": "products"}', b'{"table": [], "id": 1, "reason": ""}', b"\xff"]
)
def test_a_line_that_is_no_entry_is_left_out(tmp_path: Path, line: bytes) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", total=10)
    quarantine.record("products", 1, "torn")
    (tmp_path / "q.jsonl").write_bytes(line + b"\n" + (tmp_path / "q.jsonl").read_bytes())
    assert quarantine.entries() == {("products", 1): "torn"}


def test_one_process_may_keep_it_in_memory() -> None:
    quarantine = Quarantine(None, total=10, floor=2)
    for bad in (1, 2, 2):
        quarantine.record("products", bad, "broken")
    assert quarantine.entries() == {("products", 1): "broken", ("products", 2): "broken"}
    with pytest.raises(TooManyUnreadable, match=r"3 samples .* more than the 2 tolerated. Last: products 3: torn"):
        quarantine.record("products", 3, "torn")


def test_nothing_is_written_before_something_is_wrong(tmp_path: Path) -> None:
    assert Quarantine(tmp_path / "q.jsonl", total=10).entries() == {}
    assert list(tmp_path.iterdir()) == []


def test_stops_above_the_limit(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", total=300, limit=0.01, floor=2)
    for bad in (1, 2, 3, 3):
        quarantine.record("products", bad, "broken")
    with pytest.raises(
        TooManyUnreadable, match=r"4 samples .* more than the 3 tolerated; .*q\.jsonl.*products 4: torn"
    ):
        quarantine.record("products", 4, "torn")


def test_a_small_dataset_may_lose_a_few(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", total=20, floor=2)
    quarantine.record("products", 1, "broken")
    quarantine.record("products", 2, "broken")
    with pytest.raises(TooManyUnreadable):
        quarantine.record("products", 3, "broken")


def _record(path: Path, start: int) -> None:
    quarantine = Quarantine(path, total=10, floor=1000)
    for bad in range(start, start + 50):
        quarantine.record("products", bad, "x" * 300)


def test_processes_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    workers = [multiprocessing.get_context("fork").Process(target=_record, args=(path, 25 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(Quarantine(path, total=10).entries()) == {("products", n) for n in range(100)}
