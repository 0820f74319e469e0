"""What is mined is what a full sort of each pair's items gives."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.negatives import mining
from moonlib.negatives.mining import mine

# Unit vectors whose dot products, multiples of 1/2, are exact in floating point: ties are ties, whoever computes them,
# and a bound may be met exactly.
EXACT = np.concatenate([np.eye(4), -np.eye(4), np.array(list(itertools.product((-0.5, 0.5), repeat=4)))])


def by_sorting(
    queries: np.ndarray,
    items: np.ndarray,
    pair_query: np.ndarray,
    pair_item: np.ndarray,
    *,
    group: np.ndarray,
    keep: int,
    known: np.ndarray | None = None,
    skip: int = 0,
    margin: float | None = None,
    relative_margin: float | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    depth: int = 10**9,
) -> np.ndarray:
    """The definition, pair by pair."""
    pairs = list(zip(pair_query.tolist(), pair_item.tolist(), strict=True))
    spus: dict[int, set[int]] = {q: set() for q, _ in pairs}
    for row, (q, p) in enumerate(pairs):
        spus[q] |= {int(group[i]) for i in [p, *([] if known is None else known[row])]}

    def directions(vectors: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
        return vectors / np.where(length, length, 1)

    cosines = (directions(queries) @ directions(items).T).tolist()
    mined = np.full((len(pairs), keep), -1)
    for row, (q, p) in enumerate(pairs):
        if not queries[q].any():
            continue
        score = {i: cosines[q][i] for i in np.flatnonzero(items.any(axis=1)).tolist()}
        ranked = sorted(score, key=lambda i: (-score[i], i))[:depth]
        ranked = [i for i in ranked if int(group[i]) not in spus[q]]
        if margin is not None:
            ranked = [i for i in ranked if p in score and score[i] <= score[p] - margin]
        if relative_margin is not None:
            ranked = [i for i in ranked if p in score and score[i] <= score[p] - relative_margin * abs(score[p])]
        if min_score is not None:
            ranked = [i for i in ranked if score[i] >= min_score]
        if max_score is not None:
            ranked = [i for i in ranked if score[i] <= max_score]
        chosen = ranked[skip : skip + keep]
        mined[row, : len(chosen)] = chosen
    return mined


def bounds(*values: float) -> st.SearchStrategy[float | None]:
    return st.sampled_from([None, *values])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 150),
    pairs=st.integers(0, 12),
    options=st.fixed_dictionaries(
        {
            "keep": st.integers(1, 5),
            "skip": st.integers(0, 5),
            "margin": bounds(-0.5, 0.0, 0.5, 0.75),
            "relative_margin": bounds(0.0, 0.5, 1.0),
            "min_score": bounds(-0.5, 0.0),
            "max_score": bounds(-0.5, 0.5, 0.75),
        }
    ),
    block=st.sampled_from([1, 100, 2**20]),
    read=st.sampled_from([3, 16_384]),
)
def test_equals_sorting_all_items(
    seed: int, n: int, pairs: int, options: dict[str, Any], block: int, read: int
) -> None:
    rng = np.random.default_rng(seed)

    def vectors(count: int) -> np.ndarray:
        length = rng.choice([0.0, 0.25, 1.0, 8.0], size=(count, 1), p=[0.1, 0.3, 0.3, 0.3])
        return (EXACT[rng.integers(len(EXACT), size=count)] * length).astype(np.float32)

    queries, items = vectors(4), vectors(n)
    query, item = rng.integers(4, size=pairs), rng.integers(n, size=pairs)
    # The SPUs are anything that an int64 holds, some next to one another where floats have gaps.
    spus = np.array([np.iinfo(np.int64).min, -1, *range(2**62, 2**62 + max(1, n // 2))])
    options |= {"group": rng.choice(spus, size=n), "known": rng.integers(n, size=(pairs, rng.integers(3)))}
    with mock.patch.object(mining, "NEIGHBOURS_AT_ONCE", block), mock.patch.object(mining, "READ", read):
        mined = mine(queries, items, query, item, **options)
    assert mined.dtype == np.int64
    np.testing.assert_array_equal(mined, by_sorting(queries, items, query, item, **options))


@pytest.fixture(scope="module")
def clustered() -> dict[str, Any]:
    """4,000 items in 100 clusters, in SPUs of two; 100 queries near some, each with two positives of one cluster."""
    rng = np.random.default_rng(0)
    cluster = np.sort(rng.integers(100, size=4000))
    items = (rng.normal(size=(100, 16))[cluster] + 0.5 * rng.normal(size=(4000, 16))).astype(np.float32)
    first = rng.integers(3999, size=100)
    queries = items[first] + 0.3 * rng.normal(size=(100, 16)).astype(np.float32)
    item, query = np.stack([first, first + 1], axis=1).ravel(), np.repeat(np.arange(100), 2)
    shuffled = rng.permutation(4000)
    item, items = np.argsort(shuffled)[item], items[shuffled]
    order = rng.permutation(200)
    return {
        "queries": queries,
        "items": items,
        "pair_query": query[order],
        "pair_item": item[order],
        "group": np.arange(4000) // 2,
    }


@pytest.mark.parametrize("depth", [40, 200, 4000])
def test_looks_at_the_nearest_only(clustered: dict[str, Any], depth: int) -> None:
    options = {"keep": 8, "skip": 3, "relative_margin": 0.3, "depth": depth}
    mined = mine(**clustered, **options)
    np.testing.assert_array_equal(mined, by_sorting(**clustered, **options))
    assert (mined < 0).any() == (depth < 4000)


def test_the_approximate_search_misses_little_and_keeps_to_the_rules(clustered: dict[str, Any]) -> None:
    options = {"keep": 10, "skip": 2, "margin": 0.1}
    exact = mine(**clustered, **options)
    assert (mine(**clustered, **options, approximate=True) == exact).all()  # there are few items
    with mock.patch.object(mining, "READ", 1000):
        approximate = mine(**clustered, **options, approximate=True)
        assert (mine(**clustered, **options, approximate=True) == approximate).all()
        many = mine(**clustered, keep=2000, depth=4000, approximate=True)
    wanted = exact >= 0
    hits = (exact[:, :, None] == approximate[:, None, :]).any(axis=2)[wanted]
    assert 0.95 <= hits.mean() < 1
    unlimited = by_sorting(**clustered, **{**options, "skip": 0, "keep": 4000})
    for found, allowed in zip(approximate, unlimited, strict=True):
        assert set(found.tolist()) <= set(allowed.tolist()) | {-1}
    # More than the lists that are read hold: what is found is found once, and the rest is left.
    for found in many:
        there = found[found >= 0]
        assert 0 < len(there) < 2000 and len(np.unique(there)) == len(there) and (found[len(there) :] == -1).all()


def test_all_positives_of_a_query_count_and_each_pair_has_its_own_bound() -> None:
    items = EXACT[[0, 8 + 15, 2, 1, 4]].astype(np.float32)  # cosines with the query: 1, 0.5, 0, 0, -1
    queries = EXACT[[3, 0]].astype(np.float32)
    mined = mine(
        queries, items, np.array([1, 0, 1]), np.array([0, 3, 1]), group=np.array([7, 8, 9, 10, 11]), keep=5, margin=0.75
    )
    # The second positive of query 1 is no negative of the first; for itself, 0 is too near to 0.5.
    assert mined.tolist() == [[2, 3, 4, -1, -1], [-1] * 5, [4, -1, -1, -1, -1]]
    told = mine(queries, items, np.array([1]), np.array([0]), known=np.array([[3]]), group=np.arange(5), keep=5)
    assert told.tolist() == [[1, 2, 4, -1, -1]]


def test_a_relative_margin_lies_below_a_negative_positive() -> None:
    items = np.array([[-4, 3], [-3, 4], [-5, 0], [5, 0]], dtype=np.float32)  # -0.8, -0.6, -1, 1
    options: dict[str, Any] = {"group": np.arange(4), "keep": 3}
    pair = np.array([0]), np.array([1])
    assert mine(items[3:], items, *pair, **options, relative_margin=0.5).tolist() == [[2, -1, -1]]
    assert mine(items[3:], items, *pair, **options, relative_margin=0.25).tolist() == [[0, 2, -1]]


def test_a_memory_map_will_do(clustered: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", clustered["items"])
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    for approximate, read in ((False, 16_384), (True, 1000)):
        options: dict[str, Any] = {"keep": 4, "margin": 0.1, "approximate": approximate}
        with mock.patch.object(mining, "READ", read):
            expected = mine(**clustered, **options)
            np.testing.assert_array_equal(mine(**{**clustered, "items": mapped}, **options), expected)


def test_memory_is_bound_by_the_block_not_by_queries_times_items() -> None:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(10_000, 2)).astype(np.float32)
    rows = np.arange(1000)
    with mock.patch.object(mining, "NEIGHBOURS_AT_ONCE", 2**14):
        tracemalloc.start()
        # The margin makes searches deep: a positive lies anywhere.
        mine(items[:1000], items, rows, rows[::-1], group=np.arange(10_000), keep=2, margin=0.1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 1000 * 1024  # the scores of all neighbours looked at, a tenth of those of all items


def test_what_does_not_fit_is_told() -> None:
    vectors = np.eye(3, dtype=np.float32)
    one, none = np.array([1]), np.array([], dtype=np.int64)
    group = np.arange(3)
    assert mine(vectors, vectors, none, none, group=group, keep=2).shape == (0, 2)
    with pytest.raises(ValueError, match=r"one width, got \(3, 3\) and \(3, 2\)"):
        mine(vectors, vectors[:, :2], one, one, group=group, keep=1)
    with pytest.raises(ValueError, match="SPU of each of 3 items, got 2"):
        mine(vectors, vectors, one, one, group=group[:2], keep=1)
    with pytest.raises(ValueError, match="a row per pair, got 1, 0 and 1"):
        mine(vectors, vectors, one, none, group=group, keep=1)
    with pytest.raises(ValueError, match="pair_item: 3 is no row of 3"):
        mine(vectors, vectors, one, np.array([3]), group=group, keep=1)
    with pytest.raises(ValueError, match="known: -1 is no row of 3"):
        mine(vectors, vectors, one, one, known=np.array([[-1]]), group=group, keep=1)
    with pytest.raises(ValueError, match="keep must be at least 1"):
        mine(vectors, vectors, one, one, group=group, keep=0)
    with pytest.raises(ValueError, match="depth 4 leaves no room"):
        mine(vectors, vectors, one, one, group=group, keep=3, skip=2, depth=4)
    with pytest.raises(ValueError, match="share must be above 0"):
        mine(vectors, vectors, one, one, group=group, keep=1, approximate=True, share=0.0)
