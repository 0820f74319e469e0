from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.negatives.same_category import SameCategory
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs
from moonlib.testing import check_negative_sampler
from moonlib.testing.training import example_training_data

DATA = example_training_data(8)


def sampler_of(k: int, catalogue: Catalogue) -> SameCategory:
    sampler = SameCategory(k)
    sampler.setup(replace(DATA, catalogue=catalogue))
    return sampler


@pytest.mark.parametrize("k", [1, 3, 50])
def test_it_keeps_the_promises_of_a_negative_sampler(k: int) -> None:
    check_negative_sampler(lambda: SameCategory(k))


@st.composite
def shops(draw: st.DrawFn) -> tuple[Catalogue, Pairs]:
    """Few categories and SPUs, so that SPUs span categories, and categories may be too small."""
    n = draw(st.integers(1, 25))
    item_id = np.array(sorted(draw(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n))))
    spu_id, category = (np.array(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))) for _ in range(2))
    row = st.integers(0, n - 1)
    known = draw(st.integers(1, 4))
    rows = np.array(draw(st.lists(st.lists(row, min_size=known, max_size=known), min_size=1, max_size=6)))
    positives = item_id[rows]
    return Catalogue(item_id, spu_id - 3, category), Pairs(rows[:, 0], positives[:, 0], positives, "query")


@settings(deadline=None)
@given(shops(), st.integers(1, 6), st.integers(0, 2**32))
def test_equals_the_definition(shop: tuple[Catalogue, Pairs], k: int, seed: int) -> None:
    catalogue, pairs = shop
    proposed = sampler_of(k, catalogue).propose(pairs, 0, np.random.default_rng(seed))
    assert proposed.shape == (len(pairs), k) and proposed.dtype == np.int64
    items = list(zip(*(x.tolist() for x in (catalogue.item_id, catalogue.spu_id, catalogue.category)), strict=True))
    for own, positives, row in zip(pairs.item_id, pairs.positives, proposed.tolist(), strict=True):
        (wanted,) = (category for item, _, category in items if item == own)
        known_spus = {spu for item, spu, _ in items if item in positives}
        eligible = {item for item, spu, category in items if category == wanted and spu not in known_spus}
        others = [item for item in row if item != own]
        assert len(others) == len(set(others)) == min(k, len(eligible))
        assert set(others) <= eligible


def test_every_eligible_item_is_equally_likely() -> None:
    # Ten items of one category; those of SPU 3 (own) and SPU 6 (another positive) are out.
    item_id = np.arange(10)
    catalogue = Catalogue(item_id, np.array([0, 3, 1, 6, 3, 2, 6, 4, 5, 7]), np.zeros(10, dtype=np.int64))
    positives = np.tile([1, 3], (20_000, 1))
    pairs = Pairs(positives[:, 0], positives[:, 0], positives, "query")
    proposed = sampler_of(2, catalogue).propose(pairs, 0, np.random.default_rng(0))
    items, count = np.unique(proposed, return_counts=True)
    assert items.tolist() == [0, 2, 5, 7, 8, 9]
    assert count / len(pairs) == pytest.approx(np.full(6, 2 / 6), abs=0.015)


def test_asking_for_none_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        SameCategory(0)
