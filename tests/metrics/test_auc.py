from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.metrics.auc import AUC, auc

ROWS = st.lists(st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 3)), max_size=40)


def over_all_pairs(scores: list[float], labels: list[int], weights: list[float]) -> float:
    """The definition, pair by pair."""
    won = pairs = 0.0
    for s, y, w in zip(scores, labels, weights, strict=True):
        for other, z, v in zip(scores, labels, weights, strict=True):
            if y and not z:
                pairs += w * v
                won += w * v * (1 if s > other else 0.5 if s == other else 0)
    return won / pairs if pairs else math.nan


@settings(deadline=None)
@given(ROWS)
def test_equals_the_definition_with_ties_and_weights(rows: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (scores, labels, weights)]
    assert auc(*tensors).item() == pytest.approx(over_all_pairs(scores, labels, weights), nan_ok=True)
    plain = over_all_pairs(scores, labels, [1.0] * len(rows))
    assert auc(*tensors[:2]).item() == pytest.approx(plain, nan_ok=True)


def test_golden_weighted_auc() -> None:
    scores = torch.tensor([0.2, 0.6, 0.8, 0.4, 0.9])
    labels = torch.tensor([1, 0, 0, 1, 1])
    weights = torch.tensor([0.13, 0.2, 0.5, 0.8, 0.75])
    assert auc(scores, labels, weights).item() == pytest.approx(0.4464, abs=5e-5)


def test_close_scores_are_not_ties() -> None:
    """Where thresholds or float32 would merge them."""
    scores = torch.tensor([0.5, 0.5 + 1e-12], dtype=torch.float64)
    assert auc(scores, torch.tensor([0, 1])).item() == 1.0


@settings(deadline=None)
@given(ROWS, st.integers(0, 40), st.randoms())
def test_metric_does_not_depend_on_batches_or_order(rows: list, cut: int, random) -> None:
    scores = torch.tensor([float(s) for s, _, _ in rows])
    labels = torch.tensor([y for _, y, _ in rows], dtype=torch.bool)
    order = torch.tensor(random.sample(range(len(rows)), len(rows)), dtype=torch.int64)
    first, second = AUC(), AUC()
    first.update(scores[order[:cut]], labels[order[:cut]])
    second.update(scores[order[cut:]], labels[order[cut:]])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(auc(scores, labels).item(), abs=0, nan_ok=True)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_nan(label: int) -> None:
    assert auc(torch.rand(5), torch.full((5,), label)).isnan()


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "message"),
    [
        ([0.1, math.nan], [0, 1], None, "1 of 2 scores are NaN"),
        ([0.1, 0.2], [0, 2], None, "labels must be 0 or 1, got 2"),
        ([0.1, 0.2], [0], None, r"one shape \[n\], got \[2\] and \[1\]"),
        ([0.1, 0.2], [0, 1], [1.0, -1.0], "weights must be non-negative"),
        ([0.1, 0.2], [0, 1], [1.0], "weights must be non-negative and of shape"),
    ],
)
def test_bad_input_is_refused(scores: list, labels: list, weights: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(torch.tensor(scores), torch.tensor(labels), None if weights is None else torch.tensor(weights))
