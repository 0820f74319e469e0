from __future__ import annotations

import numpy as np
import pytest

from moonlib.sources.marketplace.detector import JITTER, MISSED, MISTAKEN, detect

N = 20_000


def overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, row by row."""
    shared = np.maximum(np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2]), 0).prod(axis=1)
    areas = (one[:, 2:] - one[:, :2]).prod(axis=1) + (two[:, 2:] - two[:, :2]).prod(axis=1)
    return shared / (areas - shared)


@pytest.fixture(scope="module")
def true() -> np.ndarray:
    """Boxes of all sizes, some at the edge of their picture."""
    rng = np.random.default_rng(0)
    side = rng.uniform(0.3, 0.8, size=(N, 2))
    low = rng.random((N, 2)) * (1 - side)
    return np.concatenate([low, low + side], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def found(true: np.ndarray) -> np.ndarray:
    return detect(true, np.random.default_rng(1))


def test_boxes_are_boxes_and_a_function_of_the_stream(true: np.ndarray, found: np.ndarray) -> None:
    assert found.shape == true.shape and found.dtype == np.float32
    there = found[~np.isnan(found).any(axis=1)]
    assert (there[:, :2] >= 0).all() and (there[:, :2] < there[:, 2:]).all() and (there[:, 2:] <= 1).all()
    np.testing.assert_array_equal(found, detect(true, np.random.default_rng(1)))


def test_some_are_missing_and_some_on_another_thing(true: np.ndarray, found: np.ndarray) -> None:
    missing = np.isnan(found).all(axis=1)
    assert missing.mean() == pytest.approx(MISSED, abs=0.01)
    np.testing.assert_array_equal(missing, np.isnan(found).any(axis=1))
    shared = overlap(true[~missing], found[~missing])
    assert (shared < 0.3).mean() == pytest.approx(MISTAKEN, abs=0.01)
    assert np.median(shared) > 0.7


def test_edges_are_off_by_a_share_of_the_side(true: np.ndarray, found: np.ndarray) -> None:
    inner = (true[:, :2].min(axis=1) > 0.2) & (true[:, 2:].max(axis=1) < 0.8)
    close = inner & (overlap(true, np.nan_to_num(found)) > 0.3)
    off = (found - true)[close] / np.tile(true[:, 2:] - true[:, :2], 2)[close]
    assert off.std() == pytest.approx(JITTER, rel=0.1)
    assert abs(off.mean()) < 0.01


def test_no_pictures_no_boxes() -> None:
    assert detect(np.empty((0, 4), dtype=np.float32), np.random.default_rng(0)).shape == (0, 4)
