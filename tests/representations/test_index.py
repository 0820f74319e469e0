from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from moonlib.representations import index as module
from moonlib.representations.index import BrokenIndex, Index, IndexKind, build_index, nearest
from moonlib.representations.store import Representations

KINDS = get_args(IndexKind)


@pytest.fixture(scope="module")
def store() -> Representations:
    """2,000 clustered vectors of any length, a few of them zeros; -1 and the extremes of int64 are among the ids."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))
    vectors = centres[rng.integers(50, size=2000)] + 0.5 * rng.normal(size=(2000, 16))
    vectors *= rng.uniform(0.1, 10, size=(2000, 1))
    vectors[::100] = 0
    ids = rng.integers(-(2**62), 2**62, size=2000)
    ids[:3] = -1, np.iinfo(np.int64).min, np.iinfo(np.int64).max
    vectors[:3] = np.eye(3, 16)
    return Representations(ids, vectors.astype(np.float32))


def by_sorting(store: Representations, query: np.ndarray, k: int, among: set[int] | None = None) -> list[int]:
    scored = []
    for id, vector in zip(store.ids.tolist(), store.vectors.astype(np.float64), strict=True):
        if vector.any() and (among is None or id in among):
            scored.append((-(vector @ query) / np.linalg.norm(vector), id))
    return [id for _, id in sorted(scored)[:k]]


@pytest.mark.parametrize("block", [7, 512, 16_384])
def test_nearest_equals_sorting_everything(store: Representations, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VECTORS_AT_ONCE", block)
    queries = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    among = store.ids[::3]
    for chosen in (None, among):
        ids, scores = nearest(store, queries, 10, chosen)
        for query, found in zip(queries, ids, strict=True):
            assert found.tolist() == by_sorting(store, query, 10, None if chosen is None else set(among.tolist()))
        assert (np.diff(scores, axis=1) <= 0).all() and (abs(scores) <= 1 + 1e-6).all()
    assert nearest(store, queries, 9999)[0].shape == (5, 1981)
    assert nearest(store, queries, 3, np.array([4]))[0].shape == (5, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_what_the_exact_search_finds(store: Representations, kind: IndexKind, tmp_path: Path) -> None:
    built = build_index(store, kind, tmp_path / "i.faiss", encoder="e", queries=store.vectors)
    assert built.about.comparison and built.about.comparison.recall_at_10 >= (1 if kind == "flat" else 0.9)
    assert built.about.vectors == 1981
    index = Index.open(tmp_path / "i.faiss")
    assert index.about == built.about
    assert built.about.to_json() == json.loads((tmp_path / "i.faiss.json").read_text())
    ids, scores = index.search(np.eye(3, 16, dtype=np.float32) * 9, 1)
    assert ids[:, 0].tolist() == [-1, np.iinfo(np.int64).min, np.iinfo(np.int64).max]
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    among = store.ids[5:25]
    ids, scores = index.search(store.vectors[7:8], 12, among)
    there = np.isfinite(scores[0])
    assert set(ids[0][there]) <= set(among) and ids[0][0] == store.ids[7]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_vectors_make_the_same_index(store: Representations, kind: IndexKind, tmp_path: Path) -> None:
    files = [tmp_path / "a.faiss", tmp_path / "b.faiss"]
    for file in files:
        build_index(store, kind, file, encoder="e")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_few_vectors_are_indexed_by_every_kind(tmp_path: Path) -> None:
    store = Representations(np.arange(3), np.eye(3, dtype=np.float32))
    for kind in KINDS:
        index = build_index(store, kind, tmp_path / kind, encoder="e")
        assert index.search(np.eye(3, dtype=np.float32), 10)[0][:, 0].tolist() == [0, 1, 2]


def test_nothing_to_index_and_broken_files_are_told(
    store: Representations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokenIndex, match="none of 2 vectors"):
        build_index(Representations(np.arange(2), np.zeros((2, 3), np.float32)), "flat", tmp_path / "n", encoder="e")
    with pytest.raises(BrokenIndex, match="is missing"):
        Index.open(tmp_path / "n")
    path = tmp_path / "i.faiss"
    build_index(store, "hnsw", path, encoder="e")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenIndex, match=r"i\.faiss is broken"):
        Index.open(path)
    path.write_bytes(whole)
    ids = np.load(tmp_path / "i.faiss.ids.npy")
    monkeypatch.setattr(module, "TRIES", 2)
    for wrong in (np.arange(4), ids[::-1].copy()):
        np.save(tmp_path / "i.faiss.ids.npy", wrong)
        with pytest.raises(BrokenIndex, match="are not of one build: build the index again"):
            Index.open(path)


def test_an_index_that_an_earlier_version_wrote_is_read(store: Representations, tmp_path: Path) -> None:
    path = tmp_path / "i.faiss"
    about = build_index(store, "flat", path, encoder="e").about.to_json()
    del about["sha256"]
    (tmp_path / "i.faiss.json").write_text(json.dumps(about))
    assert Index.open(path).about.to_json() == about
    np.save(tmp_path / "i.faiss.ids.npy", np.arange(4))
    with pytest.raises(BrokenIndex, match="4 ids"):
        Index.open(path)


def test_who_opens_an_index_while_it_is_built_anew_sees_one_build(tmp_path: Path) -> None:
    """Two builds take turns; each has ids and vectors of its own, and says whose they are."""
    path = tmp_path / "i.faiss"
    ids = np.arange(64)
    stores = {
        str(turn): Representations(ids + 1000 * turn, np.roll(np.eye(64, dtype=np.float32), turn, axis=1))
        for turn in range(2)
    }
    build_index(stores["0"], "flat", path, encoder="0")
    opened: list[tuple[str, int, int]] = []
    errors: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                index = Index.open(path)
                found = index.search(np.eye(64, dtype=np.float32)[5:6], 1)[0][0, 0]
                opened.append((index.about.encoder, int(found), int(index.ids[0])))
            except Exception as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(1, 60):
            build_index(stores[str(turn % 2)], "flat", path, encoder=str(turn % 2))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not errors
    assert {encoder for encoder, _, _ in opened} == {"0", "1"}
    assert set(opened) <= {("0", 5, 0), ("1", 1004, 1000)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["i.faiss", "i.faiss.ids.npy", "i.faiss.json"]


def test_a_build_that_fails_leaves_the_index_that_was_there(
    store: Representations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "i.faiss"
    build_index(store, "flat", path, encoder="old")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match=r"make room") as caught:
        build_index(store, "hnsw", path, encoder="new")
    assert caught.value.filename == str(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert Index.open(path).about.encoder == "old"
