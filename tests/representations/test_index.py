from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from moonlib.representations import index as module
from moonlib.representations.index import BrokenIndex, Index, Kind, build_index, nearest
from moonlib.representations.store import Representations

KINDS = get_args(Kind)


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
    monkeypatch.setattr(module, "BLOCK", block)
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
def test_an_index_finds_what_the_exact_search_finds(store: Representations, kind: Kind, tmp_path: Path) -> None:
    built = build_index(store, kind, tmp_path / "i.faiss", encoder="e", queries=store.vectors)
    assert built.about["recall@10"] >= (1 if kind == "flat" else 0.9)
    assert built.about["vectors"] == 1981
    index = Index.open(tmp_path / "i.faiss")
    assert index.about == json.loads((tmp_path / "i.faiss.json").read_text()) == built.about
    ids, scores = index.search(np.eye(3, 16, dtype=np.float32) * 9, 1)
    assert ids[:, 0].tolist() == [-1, np.iinfo(np.int64).min, np.iinfo(np.int64).max]
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    among = store.ids[5:25]
    ids, scores = index.search(store.vectors[7:8], 12, among)
    there = np.isfinite(scores[0])
    assert set(ids[0][there]) <= set(among) and ids[0][0] == store.ids[7]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_vectors_make_the_same_index(store: Representations, kind: Kind, tmp_path: Path) -> None:
    files = [tmp_path / "a.faiss", tmp_path / "b.faiss"]
    for file in files:
        build_index(store, kind, file, encoder="e")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_few_vectors_are_indexed_by_every_kind(tmp_path: Path) -> None:
    store = Representations(np.arange(3), np.eye(3, dtype=np.float32))
    for kind in KINDS:
        index = build_index(store, kind, tmp_path / kind, encoder="e")
        assert index.search(np.eye(3, dtype=np.float32), 10)[0][:, 0].tolist() == [0, 1, 2]


def test_nothing_to_index_and_broken_files_are_told(store: Representations, tmp_path: Path) -> None:
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
    np.save(tmp_path / "i.faiss.ids.npy", np.arange(4))
    with pytest.raises(BrokenIndex, match="4 ids"):
        Index.open(path)
