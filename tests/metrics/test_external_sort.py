from __future__ import annotations

import errno
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moonlib.metrics.external_sort import external_sort
from tests.disks import full_disk


def chunks_of(table: list[NDArray], size: int) -> Iterator[list[NDArray]]:
    for start in range(0, max(len(table[0]), 1), size):
        yield [column[start : start + size] for column in table]


@given(
    st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), max_size=200),
    st.integers(1, 60),
    st.integers(1, 250),
)
def test_every_row_comes_once_in_order(keys: list[int], chunk: int, rows: int) -> None:
    key, number = np.array(keys, dtype=np.int64), np.arange(len(keys), dtype=np.int16)
    found = list(external_sort(chunks_of([number, key], chunk), by=1, rows=rows))
    order, ordered = (np.concatenate([part[i] for part in found]) if found else number for i in (0, 1))
    assert order.dtype == np.int16
    assert np.array_equal(ordered, np.sort(key))
    assert np.array_equal(key[order], ordered)
    assert np.array_equal(np.sort(order), number)


@pytest.mark.parametrize("kind", ["distinct", "two values", "runs apart", "one value, then distinct"])
def test_no_chunk_is_larger_than_the_limit(kind: str) -> None:
    rng = np.random.default_rng(0)
    n, rows = 20_000, 500
    key = {
        "distinct": rng.random(n),
        "two values": rng.integers(2, size=n).astype(np.float64),
        "runs apart": np.arange(n, 0, -1.0),
        "one value, then distinct": np.where(np.arange(n) < n // 2, 0.5, rng.random(n)),
    }[kind]
    parts = [part[0] for part in external_sort(chunks_of([key], 3000), rows=rows)]
    assert max(map(len, parts)) <= rows
    assert np.array_equal(np.concatenate(parts), np.sort(key))


def test_memory_is_that_of_the_limit_not_of_the_stream() -> None:
    rng = np.random.default_rng(0)
    n, rows = 400_000, 10_000

    def stream() -> Iterator[list[NDArray]]:
        for _ in range(n // 1000):
            yield [rng.random(1000), rng.integers(2, size=1000, dtype=np.int8)]

    tracemalloc.start()
    try:
        counted = sum(len(key) for key, _ in external_sort(stream(), rows=rows))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counted == n
    assert peak < 6 * 9 * rows  # of a stream of 9 n bytes, which is 40 times the limit


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files as Linux shows them")
def test_leaves_nothing_behind(tmp_path: Path) -> None:
    key = np.random.default_rng(0).random(1000)
    unfinished = external_sort(chunks_of([key], 100), rows=100, directory=tmp_path)
    next(unfinished)
    assert [Path(f"/proc/self/fd/{fd}").stat().st_size for fd in open_files(tmp_path)] == [key.nbytes]
    assert not list(tmp_path.iterdir())
    del unfinished
    assert not open_files(tmp_path)


def open_files(directory: Path) -> list[str]:
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link.name for link in links if str(link.readlink()).startswith(str(directory))]


@pytest.mark.parametrize("rows", [10, 10_000])
def test_a_full_disk_names_the_directory_and_what_to_do(rows: int, tmp_path: Path) -> None:
    with full_disk(50_000), pytest.raises(OSError, match="make room") as caught:
        list(external_sort(chunks_of([np.zeros(50_000)], 1000), rows=rows, directory=tmp_path))
    assert caught.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_stream_stays_what_it_is(tmp_path: Path) -> None:
    def stream() -> Iterator[list[NDArray]]:
        yield [np.zeros(20)]
        raise OSError(errno.ENOSPC, "of somebody else", "elsewhere")

    with pytest.raises(OSError, match="of somebody else") as caught:
        list(external_sort(stream(), rows=10, directory=tmp_path))
    assert caught.value.filename == "elsewhere"


def test_bad_input_is_refused() -> None:
    one = np.zeros(1)
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        next(external_sort([[one]], rows=0))
    with pytest.raises(ValueError, match=r"columns of a chunk must have one length, got \[1, 2\]"):
        next(external_sort([[one, np.zeros(2)]]))
    with pytest.raises(ValueError, match="columns were float64, in a later chunk float32"):
        next(external_sort([[one], [one.astype(np.float32)]]))
