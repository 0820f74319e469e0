from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from moonlib.representations.index import build_index, nearest
from moonlib.representations.store import (
    Chunk,
    Chunks,
    Representations,
    open_content,
    unit,
    write_parquet,
    write_vectors,
)

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


def chunked(vectors: np.ndarray, chunk: int, stop: int | None = None) -> Chunks:
    """Chunks of ``vectors``; before chunk ``stop`` the disk is full."""

    def chunks(start: int) -> Iterator[np.ndarray]:
        for number in range(start, -(-len(vectors) // chunk)):
            if number == stop:
                raise OSError(28, "No space left on device")
            yield vectors[number * chunk : (number + 1) * chunk]

    return chunks


@pytest.mark.parametrize("keep", [0, 10, 128, 129, 128 + 4 * 6, 128 + 4 * 6 * 2 + 5, 128 + 4 * 6 * 4])
def test_vectors_cut_off_at_any_byte_are_continued_to_the_same_bytes(tmp_path: Path, keep: int) -> None:
    ids, vectors = np.arange(-5, 6), np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    (tmp_path / "whole").mkdir()
    write_vectors(tmp_path / "whole", "x", ids, 2, 3, chunked(vectors, 3))
    with pytest.raises(OSError, match="No space"):
        write_vectors(tmp_path, "x", ids, 2, 3, chunked(vectors, 3, stop=3))
    partial = tmp_path / ".x.npy.partial"
    partial.write_bytes(partial.read_bytes()[:keep])
    asked = []

    def chunks(start: int) -> Iterable[Chunk]:
        asked.append(start)
        return chunked(vectors, 3)(start)

    store = write_vectors(tmp_path, "x", ids, 2, 3, chunks)
    assert asked == [max(0, min(keep, 128 + 24 * 3) - 128) // 24]
    np.testing.assert_array_equal(store.vectors, vectors)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "whole/x.npy").read_bytes()
    assert not partial.exists()


def test_what_is_complete_is_not_made_again_and_what_is_of_other_ids_or_width_is(tmp_path: Path) -> None:
    vectors = np.ones((4, 2), np.float32)
    write_vectors(tmp_path, "x", np.arange(4), 2, 2, chunked(vectors, 2))
    write_vectors(tmp_path, "x", np.arange(4), 2, 2, chunked(vectors, 2, stop=0))
    for ids, dim in ((np.arange(4), 3), (np.arange(1, 5), 3)):
        changed = np.full((4, dim), 7, np.float32)
        with pytest.raises(OSError, match="No space"):
            write_vectors(tmp_path, "x", ids, dim, 2, chunked(changed, 2, stop=1))
        store = write_vectors(tmp_path, "x", ids, dim, 2, chunked(changed, 2))
        np.testing.assert_array_equal(store.ids, ids)
        np.testing.assert_array_equal(store.vectors, changed)


def test_what_the_system_could_not_open_is_not_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.ones((4, 2), np.float32)
    write_vectors(tmp_path, "x", np.arange(4), 2, 2, chunked(vectors, 2))
    before = (tmp_path / "x.npy").read_bytes()

    def refuse(file: Path) -> Path:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    monkeypatch.setattr("moonlib.artifacts.reading.verified", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        write_vectors(tmp_path, "x", np.arange(4), 2, 2, chunked(vectors, 2))
    assert (tmp_path / "x.npy").read_bytes() == before


@pytest.mark.parametrize("wrong", [np.zeros((1, 2), np.float32), np.zeros((2, 3), np.float32)])
def test_chunks_of_another_shape_are_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="does not belong"):
        write_vectors(tmp_path, "x", np.arange(4), 2, 2, lambda start: iter([wrong]))
    with pytest.raises(ValueError, match="end at byte"):
        write_vectors(tmp_path, "x", np.arange(4), 2, 2, lambda start: iter([]))
    assert not (tmp_path / "x.npy").exists()


def test_nothing_at_all_is_written_and_opened(tmp_path: Path) -> None:
    store = write_vectors(tmp_path, "x", np.empty(0, np.int64), 3, 2, chunked(np.empty((0, 3), np.float32), 2))
    assert store.vectors.shape == (0, 3)


def test_gather_has_zeros_where_there_is_no_representation() -> None:
    store = Representations(np.array([7, -3]), np.array([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(store.gather(np.array([-3, 5, 7, -3])), [[3, 4], [0, 0], [1, 2], [3, 4]])


def test_parquet_holds_ids_and_vectors(tmp_path: Path) -> None:
    ids, vectors = np.array([INT64.min, -1, INT64.max]), np.arange(6, dtype=np.float32).reshape(3, 2)
    Representations(ids, vectors).save(tmp_path, "products")
    write_parquet(tmp_path, "products", "item_id")
    table = parquet.read_table(tmp_path / "products.parquet")
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[2]"
    assert table["item_id"].to_pylist() == ids.tolist()
    assert table["vector"].to_pylist() == vectors.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["products.parquet"]


SMALL = st.sampled_from(["float16", "int8"])


@given(kind=SMALL, scale=st.floats(1e-3, 1e3), seed=st.integers(0, 9))
def test_smaller_types_keep_the_direction(kind: Literal["float16", "int8"], scale: float, seed: int) -> None:
    vectors = (scale * np.random.default_rng(seed).standard_normal((20, 32))).astype(np.float32)
    vectors[3] = 0
    store = Representations(np.arange(20), vectors)
    small = store.as_type(kind)
    assert small.vectors.dtype == kind and small.gather(np.array([3])).max() == 0
    directions = [unit(held.gather(store.ids)) for held in (store, small)]
    cosine = (directions[0] * directions[1]).sum(axis=1)
    assert (np.delete(cosine, 3) > (0.9999 if kind == "int8" else 1 - 1e-5)).all()
    if kind == "int8":
        assert (np.abs(small.vectors.astype(int)).max(axis=1) == np.where(np.arange(20) == 3, 0, 127)).all()
        assert np.abs(small.gather(store.ids)).max() == 1


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_every_type_survives_disk_shuffling_and_search(
    tmp_path: Path, kind: Literal["float32", "float16", "int8"]
) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    store = Representations(np.arange(300) - 150, vectors).as_type(kind)
    store.save(tmp_path, "x")
    opened = Representations.open(tmp_path, "x")
    assert isinstance(opened.vectors, np.memmap) and opened.vectors.dtype == kind and opened.scale == store.scale
    np.testing.assert_array_equal(opened.vectors, store.vectors)
    assert store.read(slice(2, 4)).dtype == store.gather(store.ids[:3]).dtype == np.float32
    np.testing.assert_array_equal(store.read(np.array([[1], [0]])), store.gather(store.ids[[1, 0]])[:, None])
    shuffled = opened.shuffled(0)
    assert shuffled.vectors.dtype == kind
    np.testing.assert_array_equal(np.sort(shuffled.vectors, axis=0), np.sort(store.vectors, axis=0))
    ids, _ = nearest(opened, vectors[:50], 1)
    assert (ids[:, 0] == store.ids[:50]).all()
    index = build_index(opened, "flat", tmp_path / "x.faiss", encoder="e")
    assert (index.search(vectors[:50], 1)[0][:, 0] == store.ids[:50]).all()
    write_parquet(tmp_path, "x", "item_id")
    assert parquet.read_table(tmp_path / "x.parquet")["vector"].to_pylist() == store.gather(store.ids).tolist()


def test_int8_is_read_as_127ths() -> None:
    store = Representations(np.array([9]), np.array([[127, -64, 0]], np.int8))
    np.testing.assert_allclose(store.gather(np.array([9])), [[1, -64 / 127, 0]], rtol=1e-6)
    assert (store.scale, Representations(store.ids, np.zeros((1, 2), np.float16)).scale) == (1 / 127, 1)


@pytest.mark.parametrize("kind, value", [("float16", 1e5), ("float16", np.nan), ("int8", np.inf), ("int8", np.nan)])
def test_what_a_type_cannot_hold_is_refused(kind: Literal["float16", "int8"], value: float) -> None:
    store = Representations(np.array([4, 7]), np.array([[1, 1], [1, value]], np.float32))
    with pytest.raises(ValueError, match=f"vector of id 7 has a value that {kind} can't hold"):
        store.as_type(kind)


def test_integers_that_are_not_int8_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.ids.npy", np.arange(2))
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.int16))
    with pytest.raises(ValueError, match=r"x\.npy holds int16 \[2, 3\], expected float32, float16 or int8"):
        Representations.open(tmp_path, "x")


@pytest.mark.parametrize("lost", [".x.npy.partial", ".x.content.npy.partial"])
def test_vectors_and_their_hashes_go_on_together_from_the_shorter_of_the_two(tmp_path: Path, lost: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    hashes = np.random.default_rng(1).integers(0, 256, (11, 16), np.uint8)

    def chunks(start: int, stop: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(3 * start, 11, 3):
            if first == stop:
                raise OSError(28, "No space left on device")
            yield vectors[first : first + 3], hashes[first : first + 3]

    with pytest.raises(OSError, match="No space"):
        write_vectors(tmp_path, "x", np.arange(11), 2, 3, lambda start: chunks(start, 9), hashed=True)
    cut = (tmp_path / lost).read_bytes()
    (tmp_path / lost).write_bytes(cut[: 128 + (len(cut) - 128) // 2])
    asked = []

    def more(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        asked.append(start)
        return chunks(start)

    store = write_vectors(tmp_path, "x", np.arange(11), 2, 3, more, hashed=True)
    found = open_content(tmp_path, "x", 11)
    assert asked == [1] and found is not None
    np.testing.assert_array_equal(store.vectors, vectors)
    np.testing.assert_array_equal(found, hashes)
    (tmp_path / "x.npy").rename(tmp_path / ".x.npy.partial")  # killed before the second of the two took its name
    write_vectors(tmp_path, "x", np.arange(11), 2, 3, more, hashed=True)
    assert asked == [1] and (tmp_path / "x.npy").exists()
