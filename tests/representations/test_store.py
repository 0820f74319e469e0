from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.representations.store import Representations

INT64 = np.iinfo(np.int64)


def test_survives_disk_with_the_extremes_of_int64(tmp_path: Path) -> None:
    ids = np.array([INT64.max, 0, INT64.min, 2**53 + 1, 2**53], dtype=np.int64)
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    Representations(ids, vectors).save(tmp_path, "products")
    store = Representations.open(tmp_path, "products")
    assert isinstance(store.vectors, np.memmap)
    np.testing.assert_array_equal(store.vectors[store.rows(ids)], vectors)


@given(known=st.sets(st.integers(INT64.min, INT64.max)), asked=st.lists(st.integers(INT64.min, INT64.max)))
def test_rows_finds_known_ids_and_only_those(known: set[int], asked: list[int]) -> None:
    store = Representations(np.array(list(known), dtype=np.int64), np.zeros((len(known), 1), np.float32))
    asked = asked + list(known)
    for wanted, row in zip(asked, store.rows(np.array(asked, dtype=np.int64)), strict=True):
        assert (row >= 0) == (wanted in known)
        assert row < 0 or store.ids[row] == wanted


def test_an_id_with_two_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="id 4 has two"):
        Representations(np.array([4, 3, 4]), np.zeros((3, 1), np.float32))


def test_a_missing_file_names_itself_and_the_stage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"products\.ids\.npy.*represent"):
        Representations.open(tmp_path, "products")


def test_shuffled_keeps_the_vectors_and_deals_them_anew() -> None:
    store = Representations(np.arange(50), np.arange(50, dtype=np.float32)[:, None])
    shuffled = store.shuffled(seed=1)
    np.testing.assert_array_equal(np.sort(shuffled.vectors[:, 0]), store.vectors[:, 0])
    assert (shuffled.vectors != store.vectors).mean() > 0.8
    np.testing.assert_array_equal(shuffled.vectors, store.shuffled(seed=1).vectors)
