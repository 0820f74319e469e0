from __future__ import annotations

from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.representations import lookup
from moonlib.representations.lookup import IdLookup, TextLookup
from moonlib.representations.store import Representations

INT64 = np.iinfo(np.int64)
EXTREMES = [INT64.min, INT64.min + 1, -1, 0, 1, 2**53, 2**53 + 1, INT64.max - 1, INT64.max]
IDS = st.one_of(st.integers(INT64.min, INT64.max), st.integers(0, 40), st.sampled_from(EXTREMES))


def by_dict(known: np.ndarray, asked: np.ndarray) -> list[int]:
    """The slow, obvious way."""
    first: dict[int, int] = {}
    for row, each in enumerate(known.tolist()):
        first.setdefault(each, row)
    return [first.get(each, -1) for each in asked.tolist()]


@given(known=st.lists(IDS, max_size=60), asked=st.lists(IDS))
@pytest.mark.parametrize("longest", [0, 1, 16], ids=["mixed", "short buckets", "as it is"])
def test_rows_are_those_of_a_dict(longest: int, known: list[int], asked: list[int]) -> None:
    ids, wanted = np.sort(np.array(known, np.int64)), np.array(asked + known, np.int64)
    with mock.patch.object(lookup, "_LONGEST", longest):
        assert IdLookup(ids).rows(wanted).tolist() == by_dict(ids, wanted)


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(-3000, 3000) * 7,
        np.unique(np.random.default_rng(0).integers(INT64.min, INT64.max, 5000)),
        np.concatenate([np.arange(3000), 4_000_000_000_000 + np.arange(3000) * 10]),  # numbers and barcodes
        np.concatenate([[INT64.min], np.arange(4000), [INT64.max]]),
        np.concatenate([np.zeros(2000, np.int64), [1]]),
    ],
    ids=["a series", "hashes", "two ranges", "one far away", "one id again and again"],
)
def test_ids_of_any_spread_are_found_and_their_neighbours_are_not(ids: np.ndarray) -> None:
    ids = ids.astype(np.int64)
    wanted = np.random.default_rng(1).permutation(np.concatenate([ids, ids + 1, ids - 1]))
    assert IdLookup(ids).rows(wanted).tolist() == by_dict(ids, wanted)


def test_rows_keep_the_shape_of_what_is_asked() -> None:
    assert IdLookup(np.array([1, 5])).rows(np.array([[5, 1, 2], [0, 1, 5]])).tolist() == [[1, 0, -1], [-1, 0, 1]]
    assert IdLookup(np.empty(0, np.int64)).rows(np.array([[5]])).tolist() == [[-1]]
    assert IdLookup(np.array([5])).rows(np.empty((0, 3), np.int64)).shape == (0, 3)


@given(known=st.lists(st.text(max_size=3)), asked=st.lists(st.none() | st.text(max_size=3)), collide=st.booleans())
def test_texts_are_found_by_themselves_and_not_by_their_hash(
    known: list[str], asked: list[str | None], collide: bool
) -> None:
    def two_hashes(names: pl.Series) -> np.ndarray:
        return (names.str.len_bytes().fill_null(0) % 2).cast(pl.Int64).to_numpy()

    names, wanted = pl.Series("id", known, pl.String), pl.Series("id", asked + known, pl.String)
    with mock.patch.object(lookup, "_hashed", two_hashes if collide else lookup._hashed):
        found = TextLookup(names).rows(wanted).tolist()
    assert found == [known.index(each) if each in known else -1 for each in wanted.to_list()]


def test_a_store_answers_the_same_however_often_it_was_asked() -> None:
    rng = np.random.default_rng(2)
    ids = np.unique(rng.integers(0, 10**12, 500))
    store = Representations(ids, rng.standard_normal((len(ids), 3)).astype(np.float32))
    for _ in range(4):
        wanted = rng.permutation(np.concatenate([ids, ids + 1]))[:300]
        assert store.rows(wanted).tolist() == by_dict(ids, wanted)
        vectors = store.gather(wanted)
        assert vectors[np.isin(wanted, ids)].any(axis=1).all() and not vectors[~np.isin(wanted, ids)].any()
