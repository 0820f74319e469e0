"""Ids decide what is positive, ignored and negative."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moonlib.negatives.masks import positive_and_ignore

SPU = {1: 100, 2: 100, 3: 100, 4: 200, 5: 200, 6: 2**63 - 1, 7: -(2**63)}
items = st.sampled_from(sorted(SPU))


@given(
    known=st.integers(1, 3).flatmap(
        lambda k: st.lists(st.lists(items, min_size=k, max_size=k), min_size=1, max_size=5)
    ),
    pool=st.lists(items, min_size=1, max_size=12),
)
def test_equals_the_loop(known: list[list[int]], pool: list[int]) -> None:
    positive, ignore = positive_and_ignore(
        torch.tensor(known),
        torch.tensor([[SPU[item] for item in row] for row in known]),
        torch.tensor(pool),
        torch.tensor([SPU[item] for item in pool]),
    )
    for q, own in enumerate(known):
        for n, item in enumerate(pool):
            assert positive[q, n] == (item in own)
            assert ignore[q, n] == (item not in own and SPU[item] in {SPU[i] for i in own})


def test_ids_that_floats_would_merge_stay_apart() -> None:
    ids = torch.tensor([-58759430334327705, -58759430334327704])
    positive, ignore = positive_and_ignore(ids[:1, None], ids[:1, None], ids, ids)
    assert positive.tolist() == [[True, False]]
    assert not ignore.any()
