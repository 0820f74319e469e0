from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.center.at_rest import recall_at_rest
from moonlib.center.base import Base, write_base
from moonlib.representations.store import Representations, unit


def base_of(directory: Path, store: Representations) -> Base:

    n = len(store.ids)
    zeros = np.zeros(n, np.int64)
    write_base(
        directory,
        pl.Series("id", store.ids),
        iter([np.asarray(store.vectors)]),
        store.dim,
        str(store.vectors.dtype),  # type: ignore[arg-type]
        np.zeros((n, 16), np.uint8),
        zeros,
        zeros,
        pl.DataFrame(),
        None,
    )
    return Base(directory)


def test_recall_is_the_share_of_neighbours_that_are_left(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((120, 32)).astype(np.float32)
    whole = Representations(np.arange(120) * 3, vectors)
    kept = Representations(whole.ids[10:], vectors[10:, :8])  # ten of them are not in the center
    measured = recall_at_rest(base_of(tmp_path / "few", kept), whole)
    expected = []
    there, here = unit(vectors[10:]), unit(vectors[10:, :8])
    for row in range(110):
        by_whole, by_kept = np.argsort(-(there @ there[row])), np.argsort(-(here @ here[row]))
        expected.append(len({*by_whole[by_whole != row][:10]} & {*by_kept[by_kept != row][:10]}) / 10)
    assert measured == pytest.approx(np.mean(expected), abs=0.01) and 0.1 < measured < 0.9
    assert recall_at_rest(base_of(tmp_path / "same", whole), whole) == 1
    assert recall_at_rest(base_of(tmp_path / "small", whole.as_type("int8")), whole) > 0.95


def test_too_few_products_in_common_are_refused(tmp_path: Path) -> None:
    store = Representations(np.arange(30), np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32))
    others = Representations(np.arange(15, 45), store.vectors)
    with pytest.raises(ValueError, match=r"15 products have a vector both in the space and .* at least 20"):
        recall_at_rest(base_of(tmp_path / "base", store), others)
