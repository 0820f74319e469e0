from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.negatives.draw import draw_distinct


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 2**32))
def test_as_many_different_numbers_as_there_are_up_to_k(available: list[int], k: int, seed: int) -> None:
    drawn = draw_distinct(np.array(available), k, np.random.default_rng(seed))
    assert drawn.shape == (len(available), k) and drawn.dtype == np.int64
    for bound, row in zip(available, drawn.tolist(), strict=True):
        numbers = [number for number in row if number != -1]
        assert len(set(numbers)) == len(numbers) == min(k, bound)
        assert all(0 <= number < bound for number in numbers)


def test_every_set_is_equally_likely() -> None:
    drawn = np.sort(draw_distinct(np.full(20_000, 5), 3, np.random.default_rng(0)), axis=1)
    sets, count = np.unique(drawn, axis=0, return_counts=True)
    assert [tuple(row) for row in sets.tolist()] == list(combinations(range(5), 3))
    expected = len(drawn) / 10
    chi_square = ((count - expected) ** 2 / expected).sum()
    assert chi_square < 27.9  # 0.1 % of fair draws exceed this with 9 degrees of freedom
