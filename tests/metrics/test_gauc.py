from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.metrics.auc import auc
from moonlib.metrics.gauc import GAUC, gauc, user_auc

ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.sampled_from([-(2**63), -1, 0, 7, 2**62, 2**62 + 1])), max_size=40
)


def user_by_user(
    scores: torch.Tensor, labels: torch.Tensor, users: torch.Tensor, weighting: str, single_class: str = "dropped"
) -> float:
    total = mass = 0.0
    for user in set(users.tolist()):
        rows = users == user
        value = auc(scores[rows], labels[rows]).item()
        if math.isnan(value):
            if single_class == "dropped":
                continue
            value = 0.5
        weight = {"impressions": int(rows.sum()), "unweighted": 1, "positives": int(labels[rows].sum())}[weighting]
        total += weight * value
        mass += weight
    return total / mass if mass else math.nan


def columns(rows: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.tensor([s for s, _, _ in rows], dtype=torch.float32),
        torch.tensor([y for _, y, _ in rows], dtype=torch.int64),
        torch.tensor([u for _, _, u in rows], dtype=torch.int64),
    )


@settings(deadline=None)
@given(ROWS, st.sampled_from(["impressions", "unweighted", "positives"]), st.sampled_from(["dropped", "counted"]))
def test_equals_a_loop_over_users(rows: list, weighting: str, single_class: str) -> None:
    scores, labels, users = columns(rows)
    expected = user_by_user(scores, labels, users, weighting, single_class)
    assert gauc(scores, labels, users, weighting, single_class).item() == pytest.approx(expected, nan_ok=True)


def test_golden_torchrec() -> None:
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 1, 0])
    users = torch.tensor([1, 1, 1, 2, 2])
    assert gauc(scores, labels, users, "unweighted").item() == 0.75
    assert gauc(scores, labels, users).item() == pytest.approx((3 * 0.5 + 2 * 1.0) / 5)


def test_golden_torcheasyrec_leaves_users_with_one_class_out() -> None:
    scores = torch.arange(1, 9) / 10
    labels, users = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1]), torch.tensor([1, 2, 2, 1, 3, 3, 4, 4])
    assert gauc(scores, labels, users, "unweighted").item() == 0.5
    per_user = user_auc(scores, labels, users)
    assert per_user.users.tolist() == [1, 2]
    assert per_user.auc.tolist() == [0.0, 1.0]


def test_users_with_one_class_are_counted_with_one_half() -> None:
    # One user ranked rightly, one who clicked both rows, one who clicked none of three.
    scores = torch.tensor([0.2, 0.7, 0.1, 0.9, 0.3, 0.4, 0.5])
    labels, users = torch.tensor([0, 1, 1, 1, 0, 0, 0]), torch.tensor([1, 1, 2, 2, 3, 3, 3])
    rows = scores, labels, users
    assert gauc(*rows, "impressions", "counted").item() == pytest.approx((2 * 1 + 2 * 0.5 + 3 * 0.5) / 7)
    assert gauc(*rows, "unweighted", "counted").item() == pytest.approx((1 + 0.5 + 0.5) / 3)
    # By clicks, who clicked nothing weighs nothing.
    assert gauc(*rows, "positives", "counted").item() == pytest.approx((1 * 1 + 2 * 0.5) / 3)
    assert gauc(*rows).item() == 1
    per_user = user_auc(*rows, "counted")
    assert per_user.users.tolist() == [1, 2, 3]
    assert per_user.auc.tolist() == [1, 0.5, 0.5]


def test_nobody_clicked_anything() -> None:
    rows = torch.rand(4), torch.zeros(4), torch.tensor([1, 1, 2, 2])
    assert gauc(*rows, "unweighted").isnan()
    assert gauc(*rows, "unweighted", "counted") == 0.5
    assert gauc(*rows, "positives", "counted").isnan()


def test_golden_recbole() -> None:
    # Users of 2, 3, 5 rows with positives at the descending ranks {1}, {1, 3}, {1, 3, 5}: rank sums 1, 4, 9.
    labels = torch.tensor([1, 0, 1, 0, 1, 1, 0, 1, 0, 1])
    scores = torch.tensor([0.9, 0.1, 0.9, 0.5, 0.1, 0.9, 0.7, 0.5, 0.3, 0.1])
    users = torch.tensor([1, 1, 2, 2, 2, 3, 3, 3, 3, 3])
    assert gauc(scores, labels, users, "positives").item() == pytest.approx(0.58333, abs=5e-6)


def test_ids_that_float_cannot_tell_apart_are_different_users() -> None:
    users = torch.tensor([2**53, 2**53 + 1, 2**53, 2**53 + 1])
    per_user = user_auc(torch.tensor([0.1, 0.9, 0.2, 0.8]), torch.tensor([0, 0, 1, 1]), users)
    assert per_user.users.tolist() == [2**53, 2**53 + 1]
    assert per_user.auc.tolist() == [1.0, 0.0]


@settings(deadline=None)
@given(
    ROWS,
    st.integers(0, 40),
    st.randoms(),
    st.sampled_from([(), ("unweighted", "counted"), ("positives", "counted")]),
)
def test_metric_does_not_depend_on_batches_or_order(rows: list, cut: int, random, conventions: tuple) -> None:
    shuffled = columns(random.sample(rows, len(rows)))
    first, second = GAUC(*conventions), GAUC(*conventions)
    first.update(*(column[:cut] for column in shuffled))
    second.update(*(column[cut:] for column in shuffled))
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(gauc(*columns(rows), *conventions).item(), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("users", "weighting", "message"),
    [
        (torch.tensor([1.0, 2.0]), "impressions", "users must be int64, got torch.float32"),
        (torch.tensor([1]), "impressions", r"users of shape \[2\], got \[1\]"),
        (torch.tensor([1, 2]), "clicks", "must be one of impressions, unweighted, positives, got 'clicks'"),
    ],
)
def test_bad_input_is_refused(users: torch.Tensor, weighting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gauc(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), users, weighting)
    with pytest.raises(ValueError, match=message):
        GAUC(weighting).update(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), users)


def test_a_misspelt_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="single_class must be one of dropped, counted, got 'kept'"):
        gauc(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), torch.tensor([1, 2]), single_class="kept")
    with pytest.raises(ValueError, match="single_class must be one of dropped, counted, got 'kept'"):
        GAUC(single_class="kept")
