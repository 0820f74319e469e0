from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.representations import similarity_topk as unit
from moonlib.representations.similarity_topk import similarity_topk
from moonlib.representations.store import Representations


def oracle(store: Representations, target: int, behaviours: list[int], real: list[bool], k: int) -> list[int]:
    def cosine(row: int) -> float | None:
        if row < 0 or target < 0:
            return None
        a, b = np.asarray(store.vectors[target], float), np.asarray(store.vectors[row], float)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    columns = [column for column, there in enumerate(real) if there]
    known = [column for column in columns if cosine(behaviours[column]) is not None]
    ranked = sorted(known, key=lambda column: -cosine(behaviours[column]))  # type: ignore[operator]
    return sorted((ranked + [column for column in columns if column not in known])[:k])


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 5),
    length=st.integers(0, 12),
    k=st.integers(1, 8),
    block=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_equals_a_loop_for_any_block(rows: int, length: int, k: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    store = Representations(np.arange(20), rng.standard_normal((20, 4)).astype(np.float32))
    target = rng.integers(-1, 20, rows)
    behaviours = np.stack([rng.permutation(20)[:length] for _ in range(rows)])
    behaviours[rng.random(behaviours.shape) < 0.2] = -1
    real = rng.random(behaviours.shape) < 0.8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit, "BEHAVIOURS_AT_ONCE", block)
        found = similarity_topk(store, target, behaviours, real, k)
    assert found.shape == (rows, min(k, length))
    for row in range(rows):
        expected = oracle(store, target[row], behaviours[row].tolist(), real[row].tolist(), k)
        assert found[row].tolist() == expected + [-1] * (min(k, length) - len(expected))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_stores_type_does_not_matter(dtype: type) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-8, 9, (500, 16)).astype(dtype)
    store = Representations(np.arange(500), vectors)
    exact = Representations(np.arange(500), vectors.astype(np.float32))
    args = rng.integers(0, 500, 8), rng.integers(0, 500, (8, 300)), np.ones((8, 300), dtype=bool), 20
    np.testing.assert_array_equal(similarity_topk(store, *args), similarity_topk(exact, *args))
