from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moonlib.metrics import streaming
from moonlib.metrics.auc import auc
from moonlib.metrics.gauc import UserAUC, gauc, user_auc
from moonlib.metrics.streaming import external_auc, external_gauc, streaming_auc, streaming_gauc

USERS = [-(2**63), -1, 0, 7, 2**62, 2**62 + 1]
ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.sampled_from(USERS)), max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=6)
CONVENTIONS = st.tuples(
    st.sampled_from(["impressions", "unweighted", "positives"]), st.sampled_from(["dropped", "counted"])
)


def columns(rows: list[tuple[int, bool, int]]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor([s for s, _, _ in rows], dtype=torch.float64) / 3,
        torch.tensor([y for _, y, _ in rows], dtype=torch.bool),
        torch.tensor([u for _, _, u in rows], dtype=torch.int64),
    )


def chunked(table: tuple[Tensor, ...], cuts: list[int]) -> Iterator[tuple[Tensor, ...]]:
    """Any chunks, some of them empty, in memory that is written over once the next one is asked for."""
    borders = [0, *sorted(cuts), len(table[0])]
    for start, end in itertools.pairwise(borders):
        chunk = tuple(column[start:end].clone() for column in table)
        yield chunk
        for column in chunk:
            column.zero_()


def same(value: Tensor, expected: Tensor) -> bool:
    return value.dtype == torch.float64 and value.item() == pytest.approx(expected.item(), abs=1e-12, nan_ok=True)


@given(ROWS, CUTS)
def test_sorted_scores_equal_auc(rows: list, cuts: list[int]) -> None:
    scores, labels, _ = columns(sorted(rows, key=lambda row: row[0]))
    assert same(streaming_auc(chunked((scores, labels), cuts)), auc(scores, labels))


@given(ROWS, CUTS, CONVENTIONS)
def test_sorted_users_equal_gauc(rows: list, cuts: list[int], conventions: tuple) -> None:
    table = columns(sorted(rows, key=lambda row: row[2]))
    assert same(streaming_gauc(chunked(table, cuts), *conventions), gauc(*table, *conventions))


@given(ROWS, CUTS, st.integers(1, 50))
def test_any_scores_equal_auc(rows: list, cuts: list[int], memory: int) -> None:
    scores, labels, _ = columns(rows)
    assert same(external_auc(chunked((scores, labels), cuts), rows=memory), auc(scores, labels))


@given(ROWS, CUTS, CONVENTIONS, st.integers(1, 50))
def test_any_users_equal_gauc(rows: list, cuts: list[int], conventions: tuple, memory: int) -> None:
    table = columns(rows)
    assert same(external_gauc(chunked(table, cuts), *conventions, rows=memory), gauc(*table, *conventions))


def many(n: int = 10_000) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(n, generator=g, dtype=torch.float64)
    return scores, torch.rand(n, generator=g) < 0.2, torch.randint(-500, 500, (n,), generator=g)


@pytest.mark.parametrize("decimals", [1, 16])
def test_many_rows_of_little_memory(decimals: int) -> None:
    scores, labels, users = many()
    scores = scores.round(decimals=decimals)
    cuts = list(range(0, 10_000, 777))
    assert same(external_auc(chunked((scores, labels), cuts), rows=300), auc(scores, labels))
    assert same(external_gauc(chunked((scores, labels, users), cuts), rows=300), gauc(scores, labels, users))


def test_one_user_with_most_of_the_rows() -> None:
    scores, labels, users = many()
    users = torch.where(users < 400, 3, users)
    assert same(external_gauc([(scores, labels, users)], rows=1000), gauc(scores, labels, users))


def test_memory_is_that_of_a_chunk_and_the_largest_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of three chunks, after which their rows are let go of."""
    at_once: list[int] = []
    alive: list[weakref.ref[Tensor]] = []

    def spy(scores: Tensor, labels: Tensor, users: Tensor, single_class: Any) -> UserAUC:
        at_once.append(len(scores))
        return user_auc(scores, labels, users, single_class)

    def stream() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for users in [*(torch.arange(100 * i, 100 * i + 100) for i in range(20)), *(torch.full((100,), 5000),) * 3]:
            assert sum(ref() is not None for ref in alive) <= 1
            scores = torch.rand(100, dtype=torch.float64)
            alive.append(weakref.ref(scores))
            yield scores, torch.arange(100) % 2, users

    monkeypatch.setattr(streaming, "user_auc", spy)
    assert not streaming_gauc(stream()).isnan()
    assert max(at_once) == 300
    assert sum(at_once) == 2300


def test_users_that_come_back_are_refused() -> None:
    """In the same chunk, in the next, and after a user who took a whole chunk."""
    message = "user 1 comes after user 2, but rows must ascend by user; sort them, or use external_gauc"
    for ids in ([[1, 2, 1]], [[1, 2], [1]], [[1], [2, 2], [1]], [[1], [2], [], [1]]):
        chunks = [
            (torch.zeros(len(part)), torch.zeros(len(part)), torch.tensor(part, dtype=torch.int64)) for part in ids
        ]
        with pytest.raises(ValueError, match=message):
            streaming_gauc(chunks)


def test_scores_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match=r"score 0.25 comes after score 0.5, .* use external_auc"):
        streaming_auc([(torch.tensor([0.1, 0.5]), torch.zeros(2)), (torch.tensor([0.25]), torch.zeros(1))])


@pytest.mark.parametrize("function", [streaming_gauc, external_gauc])
def test_bad_input_is_refused(function: Any) -> None:
    good = torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="chunk 1: 1 of 2 scores are NaN"):
        function([good, (torch.tensor([0.1, math.nan]), *good[1:])])
    with pytest.raises(ValueError, match="chunk 1: users must be int64, got torch"):
        function([good, (*good[:2], torch.tensor([2.0, 3.0]))])
    with pytest.raises(ValueError, match="weighting must be one of impressions, unweighted, positives, got 'clicks'"):
        function([good], "clicks")
    with pytest.raises(ValueError, match="single_class must be one of dropped, counted, got 'half'"):
        function([good], single_class="half")


def test_reads_parquet_as_the_module_says(tmp_path: Path) -> None:
    scores, labels, users = many(1000)
    users += 2**60
    frame = {"probability": scores.numpy(), "clicked": labels.numpy(), "user_id": users.numpy()}
    pl.DataFrame(frame).write_parquet(tmp_path / "predictions.parquet")
    lazy = pl.scan_parquet(tmp_path / "predictions.parquet").select("probability", "clicked", "user_id")
    value = external_gauc(tuple(column.to_torch() for column in part) for part in lazy.collect_batches(chunk_size=100))
    assert same(value, gauc(scores, labels, users))
