from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.clicks.vocabulary import HashedVocabulary, TextVocabulary, Vocabulary, fingerprints, mix

LOWEST, HIGHEST = -(2**63), 2**63 - 1
ids = st.lists(st.integers(LOWEST, HIGHEST))
texts = st.lists(st.none() | st.text(max_size=5))


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


@settings(max_examples=40)
@given(known=texts, asked=texts)
def test_texts_have_rows_of_their_own_and_null_and_others_have_none(
    known: list[str | None], asked: list[str | None]
) -> None:
    vocabulary = TextVocabulary(pl.Series(known, dtype=pl.String))
    present = {text for text in known if text is not None}
    assert len(vocabulary) == len(present) + 1
    rows = vocabulary.rows(pl.Series(asked + known, dtype=pl.String)).tolist()
    place: dict[str | None, int] = {text: row for row, text in enumerate(sorted(present), start=1)}
    assert rows == [place.get(text, 0) for text in asked + known]


def test_arrays_of_texts_do_and_numbers_are_no_texts() -> None:
    vocabulary = TextVocabulary(np.array(["b", "a"]))
    assert vocabulary.rows(np.array(["a", "c", "b"])).tolist() == [1, 0, 2]
    with pytest.raises(TypeError, match="expected texts, got Int64"):
        vocabulary.rows(pl.Series([1, 2]))


@settings(max_examples=40)
@given(known=st.lists(st.integers(-3, 3)), counts=st.data(), least=st.integers(1, 4))
def test_rare_values_share_row_zero(known: list[int], counts: st.DataObject, least: int) -> None:
    often = counts.draw(st.lists(st.integers(0, 3), min_size=len(known), max_size=len(known)))
    for each in (None, often):
        seen = dict.fromkeys(known, 0)
        for value, count in zip(known, each or [1] * len(known), strict=True):
            seen[value] += count
        kept = {value for value, count in seen.items() if count >= least}
        given_counts = None if each is None else np.array(each, dtype=np.int64)
        vocabulary = Vocabulary(np.array(known, dtype=np.int64), least, given_counts)
        assert set(vocabulary.ids.tolist()) == kept
        words = pl.Series([str(value) for value in known], dtype=pl.String)
        assert set(TextVocabulary(words, least, given_counts).texts) == {str(value) for value in kept}


def mixed(value: int, seed: int) -> int:
    """SplitMix64's output function in Python's own integers."""

    def mix(bits: int) -> int:
        bits = (bits + 0x9E3779B97F4A7C15) % 2**64
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        return bits ^ (bits >> 31)

    return mix((value % 2**64) ^ mix(seed % 2**64))


@given(asked=ids, buckets=st.integers(1, 2**40), seed=st.integers(LOWEST, HIGHEST))
def test_hashed_rows_are_those_of_plain_integers(asked: list[int], buckets: int, seed: int) -> None:
    vocabulary = HashedVocabulary(buckets, seed)
    rows = vocabulary.rows(np.array(asked, dtype=np.int64))
    assert rows.tolist() == [1 + mixed(value, seed) % buckets for value in asked]
    assert len(vocabulary) == buckets + 1


def test_the_mixing_is_that_of_splitmix64() -> None:
    # The first five numbers of the generator that starts at 0: its state goes up by the golden ratio's 64 bits.
    states = np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    known = "e220a8397b1dcdaf 6e789e6aa1b965f4 06c45d188009454f f88bb8a8724c81ec 1b39896a51a8749b"
    assert [f"{bits:016x}" for bits in mix(states).tolist()] == known.split()


def test_hashing_spreads_evenly_whatever_the_ids_have_in_common() -> None:
    buckets = 64
    for spread in (1, 2**32, -(2**40), 2**53 + 1):
        rows = HashedVocabulary(buckets).rows(np.arange(6400, dtype=np.int64) * spread)
        counts = np.bincount(rows, minlength=buckets + 1)[1:]
        # 100 on average with a standard deviation of 10.
        assert counts.sum() == 6400 and counts.min() > 50 and counts.max() < 150


def test_seeds_hash_apart() -> None:
    asked = np.arange(1000, dtype=np.int64)
    same = HashedVocabulary(1000, 0).rows(asked) == HashedVocabulary(1000, 1).rows(asked)
    assert same.sum() < 20


@settings(max_examples=20)
@given(asked=texts)
def test_texts_are_hashed_the_same_wherever_they_stand(asked: list[str | None]) -> None:
    vocabulary = HashedVocabulary(10**9)
    rows = vocabulary.rows(pl.Series(["before", *asked], dtype=pl.String)[1:])
    alone = [vocabulary.rows(pl.Series([text], dtype=pl.String))[0] for text in asked]
    assert rows.tolist() == alone
    assert [row == 0 for row in alone] == [text is None for text in asked]


def test_texts_that_differ_little_have_other_fingerprints() -> None:
    words = ["", "a", "b", "ab", "ba", "aa", "aaa", "a\0", "\0a", "红", "色", "红色", "色红"]
    words += [f"merchant {i}" for i in range(5000)]
    assert len(set(fingerprints(pl.Series(words)).tolist())) == len(words)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary(np.array([1]), min_count=0), "min_count must be at least 1, got 0"),
        (lambda: TextVocabulary(pl.Series(["a"]), min_count=-1), "min_count must be at least 1, got -1"),
        (lambda: HashedVocabulary(0), "buckets must be at least 1, got 0"),
        (lambda: HashedVocabulary(5, 2**63), "seed must be an int64"),
    ],
)
def test_bad_arguments_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
