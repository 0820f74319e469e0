from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moonlib.losses.circle import Circle
from moonlib.testing import check_loss

RandomCase = Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]


def one_at_a_time(
    scores: Tensor, positive: Tensor, ignore: Tensor, margin: float, gamma: float, weighed: Tensor | None = None
) -> Tensor:
    """The definition, pair by pair; ``weighed`` are the scores that the weights are computed from."""
    losses = []
    weighed = scores if weighed is None else weighed
    rows = zip(scores.tolist(), weighed.tolist(), positive.tolist(), ignore.tolist(), strict=True)
    for s, w, is_positive, is_ignored in rows:
        positives = negatives = 0.0
        for x, y, p, i in zip(s, w, is_positive, is_ignored, strict=True):
            if p:
                positives += math.exp(-gamma * max(0.0, 1 + margin - y) * (x - (1 - margin)))
            elif not i:
                negatives += math.exp(gamma * max(0.0, y + margin) * (x - margin))
        losses.append(math.log(1 + negatives * positives))
    return torch.tensor(losses, dtype=torch.float64)


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([-0.2, 0.0, 0.25, 0.4]),
    st.sampled_from([1.0, 80.0]),
)
def test_equals_the_definition(
    random_case: RandomCase, seed: int, queries: int, candidates: int, margin: float, gamma: float
) -> None:
    scores, positive, ignore = random_case(seed, queries, candidates)
    loss = Circle(margin, gamma)(scores, positive, ignore)
    # The definition's own 1 + x rounds at 1e-16.
    torch.testing.assert_close(loss, one_at_a_time(scores, positive, ignore, margin, gamma), rtol=1e-8, atol=1e-15)


def test_golden_value() -> None:
    # m = .5, gamma = 2: the positive's weight is 1.5 - .25 = 1.25, its logit 2 * 1.25 * (.5 - .25) = .625;
    # the negative's weight .1 + .5 = .6, its logit 2 * .6 * (.1 - .5) = -.48.
    positive = torch.tensor([[True, False]])
    value = Circle(margin=0.5, gamma=2.0)(torch.tensor([[0.25, 0.1]]), positive, torch.zeros_like(positive))
    assert value.item() == pytest.approx(math.log(1 + math.exp(0.625 - 0.48)))


def test_its_boundary_is_a_circle() -> None:
    margin = 0.25
    angles = torch.linspace(0.1, 1.4, 8, dtype=torch.float64)
    radius = math.sqrt(2) * margin
    scores = torch.stack([1 - radius * angles.cos(), radius * angles.sin()], dim=1)
    positive = torch.tensor([[True, False]]).expand(8, 2)
    value = Circle(margin)(scores, positive, torch.zeros_like(positive))
    torch.testing.assert_close(value, torch.full((8,), math.log(2), dtype=torch.float64), rtol=1e-9, atol=0)


def test_gradients_match_finite_differences_at_constant_weights(random_case: RandomCase) -> None:
    scores, positive, ignore = random_case(1, 5, 7)
    loss, step = Circle(0.25, 10.0), 1e-6
    scores.requires_grad_()
    loss(scores, positive, ignore).sum().backward()
    fixed = scores.detach()
    expected = torch.zeros_like(fixed)
    for i in range(5):
        for j in range(7):
            for sign in (1, -1):
                moved = fixed.clone()
                moved[i, j] += sign * step
                value = one_at_a_time(moved, positive, ignore, 0.25, 10.0, weighed=fixed)[i]
                expected[i, j] += sign * value / (2 * step)
    torch.testing.assert_close(scores.grad, expected, rtol=1e-6, atol=1e-7)


def test_a_score_past_its_optimum_has_no_gradient() -> None:
    # Beyond 1 + m and below -m, which cosines reach for a negative only.
    scores = torch.tensor([[1.5, -0.5, 0.4]], requires_grad=True)
    positive = torch.tensor([[True, False, False]])
    Circle(0.4, 1.0)(scores, positive, torch.zeros_like(positive)).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, :2].tolist() == [0.0, 0.0] and scores.grad[0, 2] > 0


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize(
    ("positive", "ignore"),
    [
        ([True, True, True], [False, False, False]),
        ([True, False, False], [False, True, True]),
        ([False, False, False], [False, False, False]),
        ([False, False, False], [True, True, True]),
    ],
    ids=["all positive", "rest ignored", "no positive", "all ignored"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_positives_or_negatives_value_and_gradients_are_zero(
    positive: list[bool], ignore: list[bool], dtype: torch.dtype
) -> None:
    scores = torch.tensor([[-1.0, 0.3, 1.0]], dtype=dtype, requires_grad=True)
    with torch.autograd.detect_anomaly(check_nan=True):
        value = Circle()(scores, torch.tensor([positive]), torch.tensor([ignore]))
        value.sum().backward()
    assert value.tolist() == [0.0]
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_large_logits_stay_finite() -> None:
    # exp(256 * 2.25 * 1.75) does not exist in float64.
    scores = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    positive = torch.tensor([[True, False]])
    loss = Circle(0.25, 256.0)(scores, positive, torch.zeros_like(positive))
    loss.sum().backward()
    assert loss.item() == pytest.approx(256 * (2.25 * 1.75 + 1.25 * 0.75))
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([-256 * 2.25, 256 * 1.25])


def test_half_precision_scores_are_summed_in_float32(random_case: RandomCase) -> None:
    scores, positive, ignore = random_case(2, 4, 300)
    half, loss = scores.bfloat16(), Circle()
    assert loss(half, positive, ignore).dtype == torch.float32
    torch.testing.assert_close(loss(half, positive, ignore), loss(half.float(), positive, ignore))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 1.0}, "margin must be between -1 and 1, got 1.0"),
        ({"gamma": 0.0}, "gamma must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Circle(**arguments)


@pytest.mark.parametrize(("margin", "gamma"), [(0.4, 80.0), (0.25, 256.0)])
def test_keeps_the_promises_of_a_loss(margin: float, gamma: float) -> None:
    check_loss(lambda: Circle(margin, gamma))
