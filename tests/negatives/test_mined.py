from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from moonlib.negatives.mined import Mined
from moonlib.negatives.negative_sampler import TrainingData
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs
from moonlib.representations.store import Representations
from moonlib.testing import check_negative_sampler

RNG = np.random.default_rng(0)
ITEMS = np.sort(RNG.integers(-(2**63), 2**63 - 1, 40))
SPUS = np.arange(40) // 2
QUERIES = np.array([-7, 2**62, 5])
# Query -7 led to two items; pairs in the order of (query_id, item_id), as search_pairs makes them.
ROWS = np.array([4, 20, 9, 31])
ASKED = np.array([-7, -7, 5, 2**62])
PAIRS = Pairs(ASKED, ITEMS[ROWS], ITEMS[np.array([[4, 20], [20, 4], [9, 9], [31, 31]])], "query")


def sampler(**options: int) -> Mined:
    made = Mined(**{"k": 2, "keep": 4, "refresh_every": 64, **options})
    made.setup(TrainingData(PAIRS, Catalogue(ITEMS, SPUS, SPUS % 3), pl.DataFrame(), 6))
    return made


def vectors(seed: int) -> tuple[Representations, Representations]:
    rng = np.random.default_rng(seed)
    products = Representations(ITEMS, rng.standard_normal((40, 6), dtype=np.float32))
    return products, Representations(QUERIES, rng.standard_normal((3, 6), dtype=np.float32))


def nearest(products: Representations, queries: Representations, keep: int) -> list[list[int]]:
    """For each pair the nearest items of other SPUs than the query's positives', by a sort of all."""
    found = []
    for query, positives in zip(ASKED, PAIRS.positives, strict=True):
        vector = queries.gather(np.array([query]))[0]
        spus = set(SPUS[np.isin(ITEMS, positives)])
        scores = [
            (float(v @ vector / np.linalg.norm(v)), item)
            for v, item, spu in zip(products.vectors, ITEMS.tolist(), SPUS, strict=True)
            if spu not in spus
        ]
        found.append([item for _, item in sorted(scores, reverse=True)[:keep]])
    return found


def test_it_keeps_the_promises_of_a_negative_sampler() -> None:
    check_negative_sampler(Mined)


def test_it_draws_distinct_items_among_the_nearest_of_each_pair() -> None:
    mined, (products, queries) = sampler(), vectors(1)
    mined.refresh(products, queries, 0)
    expected = nearest(products, queries, 4)
    drawn: list[set[int]] = [set() for _ in range(4)]
    order = np.array([2, 0, 3, 1, 0])  # pairs of a batch stand in any order, and twice
    for step in range(40):
        proposed = mined.propose(PAIRS[order], step, np.random.default_rng(step))
        assert proposed.shape == (5, 2) and proposed.dtype == np.int64
        for row, items in zip(order, proposed.tolist(), strict=True):
            assert len(set(items)) == 2
            drawn[row] |= set(items)
    assert drawn == [set(items) for items in expected]


def test_before_the_first_search_and_where_nothing_is_found_it_asks_for_nothing() -> None:
    mined = sampler()
    own = np.repeat(PAIRS.item_id[:, None], 2, axis=1)
    np.testing.assert_array_equal(mined.propose(PAIRS, 0, np.random.default_rng(0)), own)
    products, queries = vectors(1)
    blank = np.where((QUERIES == 5)[:, None], 0, queries.gather(QUERIES)).astype(np.float32)
    mined.refresh(products, Representations(QUERIES, blank), 0)
    proposed = mined.propose(PAIRS, 0, np.random.default_rng(0))
    assert proposed[2].tolist() == own[2].tolist()
    assert not (proposed[[0, 1, 3]] == own[[0, 1, 3]]).any()


def test_what_is_found_is_used_from_its_batch_on_and_what_was_before_until_then() -> None:
    """Batches are planned ahead and planned again after an interruption: both must give the same."""
    mined, old, new = sampler(), vectors(1), vectors(2)
    mined.refresh(*old, 0)
    planned = [mined.propose(PAIRS, step, np.random.default_rng(step)) for step in range(128)]
    mined.refresh(*new, 64)
    restored = sampler()
    restored.load_state_dict(mined.state_dict())
    for step in range(128):
        again = restored.propose(PAIRS, step, np.random.default_rng(step))
        if step < 64:
            np.testing.assert_array_equal(again, planned[step])
        for items, allowed in zip(again.tolist(), nearest(*(old if step < 64 else new), 4), strict=True):
            assert set(items) <= set(allowed)
    assert torch.equal(restored.valid_from, torch.tensor([0, 64]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 5}, r"k must be between 1 and keep \(4\), got 5"),
        ({"k": 0}, "k must be between 1"),
        ({"skip": -1}, "skip must be at least 0"),
        ({"refresh_every": 63}, "refresh_every must be at least 64, got 63"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**options)
