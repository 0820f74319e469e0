from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moonlib.sources.marketplace.streams import Streams, mix


def test_parts_do_not_share_numbers_and_begin_anew() -> None:
    streams = Streams(1, 2, 3)
    a, b = streams["catalogue"].random(4), streams["shoppers"].random(4)
    assert not np.isin(a, b).any()
    np.testing.assert_array_equal(a, streams["catalogue"].random(4))
    assert not np.isin(a, Streams(1, 2, 4)["catalogue"].random(4)).any()


@given(st.integers(0, 2**63 - 1))
def test_ids_are_distinct_under_any_salt(salt: int) -> None:
    ids = mix(np.arange(1_000), salt)
    assert ids.dtype == np.int64
    assert len(np.unique(ids)) == 1_000


def test_mix_is_splitmix64() -> None:
    # The reference's first outputs for seed 1234567: state = seed + n * the golden ratio's increment.
    expected = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], dtype=np.uint64)
    np.testing.assert_array_equal(mix(np.arange(1, 4), 1234567).view(np.uint64), expected)
