from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.metrics.ndcg import NDCG, gains, group_ndcg, ndcg
from moonlib.testing import check_metric

ROWS = st.lists(
    st.tuples(st.integers(-1, 1), st.integers(0, 3), st.sampled_from([-(2**63), -1, 2**62, 2**62 + 1])), max_size=14
)


def columns(rows: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.tensor([s for s, _, _ in rows], dtype=torch.float32),
        torch.tensor([r for _, r, _ in rows], dtype=torch.float32),
        torch.tensor([g for _, _, g in rows], dtype=torch.int64),
    )


def of_an_order(worth: list[float], k: int | None) -> float:
    return sum(value / math.log2(2 + place) for place, value in enumerate(worth[:k]))


def over_all_orders(scores: list[float], worth: list[float], k: int | None) -> float:
    """The mean over every order in which no row stands before one of a higher score, by trying all orders."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        placed = [scores[i] for i in order]
        if placed == sorted(scores, reverse=True):
            found.append(of_an_order([worth[i] for i in order], k))
    return sum(found) / len(found) / of_an_order(sorted(worth, reverse=True), k)


@settings(max_examples=60)
@given(ROWS, st.sampled_from([None, 1, 2, 3, 50]), st.sampled_from(["exponential", "linear"]))
def test_equals_the_mean_over_all_orders_of_ties_group_by_group(rows: list, k: int | None, gain: str) -> None:
    # Orders of a group are counted one by one: four rows each are enough, and quick.
    rows = [row for i, row in enumerate(rows) if sum(other[2] == row[2] for other in rows[:i]) < 4]
    values = []
    for group in sorted({g for _, _, g in rows}):
        scores, grades = zip(*((s, r) for s, r, g in rows if g == group), strict=True)
        if len(set(grades)) > 1:
            worth = [2.0**grade - 1 if gain == "exponential" else float(grade) for grade in grades]
            values.append(over_all_orders(list(scores), worth, k))
    found = group_ndcg(*columns(rows), k, gain)  # type: ignore[arg-type]
    assert found.ndcg.tolist() == pytest.approx(values)
    mean = sum(values) / len(values) if values else math.nan
    assert ndcg(*columns(rows), k, gain).item() == pytest.approx(mean, nan_ok=True)  # type: ignore[arg-type]


def test_golden_scikit_learn() -> None:
    """The examples in the documentation of sklearn.metrics.ndcg_score, whose gain is linear."""
    relevance, one = torch.tensor([10.0, 0, 0, 1, 5]), torch.ones(5, dtype=torch.int64)

    def of(scores: list[float], k: int | None = None) -> float:
        return ndcg(torch.tensor(scores), relevance, one, k, "linear").item()

    assert of([0.1, 0.2, 0.3, 4, 70]) == pytest.approx(0.69569, abs=1e-5)
    assert of([0.05, 1.1, 1.0, 0.5, 0.0]) == pytest.approx(0.49368, abs=1e-5)
    assert of([0.05, 1.1, 1.0, 0.5, 0.0], 4) == pytest.approx(0.35202, abs=1e-5)
    assert of([1, 0, 0, 0, 1], 1) == pytest.approx(0.75)


def test_the_best_order_is_one_and_a_constant_score_is_not() -> None:
    relevance, groups = torch.tensor([0.0, 1, 2, 3, 0, 0]), torch.tensor([1, 1, 1, 1, 2, 2])
    assert ndcg(relevance, relevance, groups, 2).item() == 1
    assert 0 < ndcg(torch.zeros(6), relevance, groups, 2).item() < 1
    assert group_ndcg(relevance, relevance, groups).groups.tolist() == [1]  # all of group 2 are of one grade


@settings(deadline=None)
@given(ROWS, st.integers(0, 14), st.randoms())
def test_metric_does_not_depend_on_batches_or_order(rows: list, cut: int, random) -> None:
    shuffled = columns(random.sample(rows, len(rows)))
    first, second = NDCG(2), NDCG(2)
    first.update(*(column[:cut] for column in shuffled))
    second.update(*(column[cut:] for column in shuffled))
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(ndcg(*columns(rows), 2).item(), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("gain", ["exponential", "linear"])
def test_keeps_the_promises_of_a_metric(gain: str) -> None:
    g = torch.Generator().manual_seed(0)
    relevance, groups = torch.randint(4, (40,), generator=g), torch.randint(5, (40,), generator=g) + 2**60
    check_metric(lambda: NDCG(3, gain), torch.rand(40, generator=g), relevance, groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.tensor([math.nan, 1.0])}, "1 of 2 scores are NaN"),
        ({"relevance": torch.tensor([0.0, -1.0])}, "a grade from 0 up, got -1"),
        ({"relevance": torch.tensor([0.0, math.nan])}, "a grade from 0 up, got nan"),
        ({"relevance": torch.tensor([0.0, 2000.0])}, "exponential gain of grade 2000 is too large: use the linear"),
        ({"relevance": torch.tensor([0.0])}, r"of one shape \[n\], got \[2\], \[1\], \[2\]"),
        ({"groups": torch.tensor([1.0, 1.0])}, "groups must be int64, got torch.float32"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"gain": "cubic"}, "gain must be one of exponential, linear, got 'cubic'"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    rows = {"scores": torch.ones(2), "relevance": torch.tensor([0.0, 1.0]), "groups": torch.tensor([1, 1])}
    options = {name: change.pop(name) for name in ("k", "gain") if name in change}
    with pytest.raises(ValueError, match=message):
        ndcg(**rows | change, **options)
    with pytest.raises(ValueError, match=message):
        NDCG(**options).update(**rows | change)


def test_gains_by_hand() -> None:
    assert gains(torch.tensor([0, 1, 3])).tolist() == [0, 1, 7]
    assert gains(torch.tensor([0.5, 3]), "linear").tolist() == [0.5, 3]
