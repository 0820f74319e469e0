from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moonlib.data.vocabulary import Vocabulary

ids = st.lists(st.integers(-(2**63), 2**63 - 1))


@given(known=ids, asked=ids)
def test_rows_are_distinct_for_known_ids_and_zero_for_others(known: list[int], asked: list[int]) -> None:
    vocabulary = Vocabulary(np.array(known, dtype=np.int64))
    assert len(vocabulary) == len(set(known)) + 1
    rows = vocabulary.rows(np.array(asked + known, dtype=np.int64))
    assert len(set(rows[len(asked) :])) == len(set(known))
    for wanted, row in zip(asked, rows[: len(asked)], strict=True):
        assert (row > 0) == (wanted in known)
    assert rows.max(initial=0) < len(vocabulary)


def test_neighbours_beyond_float_precision_stay_apart() -> None:
    vocabulary = Vocabulary(np.array([2**53, 2**53 + 1, -58759430334327705]))
    assert len(set(vocabulary.rows(np.array([2**53, 2**53 + 1])))) == 2
    assert vocabulary.rows(np.array([-58759430334327704])) == 0
