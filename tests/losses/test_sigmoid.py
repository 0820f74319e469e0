from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moonlib.losses.sigmoid import Sigmoid
from moonlib.testing import check_loss

RandomCase = Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]


def one_at_a_time(scores: Tensor, positive: Tensor, ignore: Tensor, scale: float, bias: float) -> Tensor:
    """The definition: a yes-or-no decision per pair."""
    losses = []
    for s, is_positive, is_ignored in zip(scores.tolist(), positive.tolist(), ignore.tolist(), strict=True):
        total = 0.0
        for x, p, i in zip(s, is_positive, is_ignored, strict=True):
            if any(is_positive) and not i:
                logit = scale * x + bias
                total += math.log1p(math.exp(-logit if p else logit))
        losses.append(total)
    return torch.tensor(losses, dtype=torch.float64)


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([0.5, 10.0, 100.0]),
    st.sampled_from([-10.0, 0.0, 3.0]),
)
def test_equals_the_definition(
    random_case: RandomCase, seed: int, queries: int, candidates: int, scale: float, bias: float
) -> None:
    scores, positive, ignore = random_case(seed, queries, candidates)
    loss = Sigmoid(scale, bias).double()
    expected = one_at_a_time(scores, positive, ignore, loss.scale.item(), bias)
    torch.testing.assert_close(loss(scores, positive, ignore), expected, rtol=1e-9, atol=1e-12)


def test_mean_over_queries_is_siglip_s_loss(random_case: RandomCase) -> None:
    scores, *_ = random_case(0, 6, 6)
    labels = 2 * torch.eye(6, dtype=torch.float64) - 1
    positive = labels > 0
    loss = Sigmoid().double()
    # Its sum over all pairs, divided by the size of the batch.
    expected = torch.log1p(torch.exp(-labels * (10 * scores - 10))).sum() / 6
    torch.testing.assert_close(loss(scores, positive, torch.zeros_like(positive)).mean(), expected, rtol=1e-6, atol=0)


def test_golden_value_of_the_initial_loss() -> None:
    # A perfect pair has the logit 10 * 1 - 10 = 0, an opposite one 10 * -1 - 10 = -20.
    positive = torch.tensor([[True, False]])
    value = Sigmoid()(torch.tensor([[1.0, -1.0]]), positive, torch.zeros_like(positive))
    assert value.item() == pytest.approx(math.log(2) + math.exp(-20), rel=1e-5)


def test_every_pair_weighs_the_same() -> None:
    loss = Sigmoid(1.0, 0.0)
    scores = torch.zeros(1, 4, requires_grad=True)
    positive = torch.tensor([[True, True, False, False]])
    ignore = torch.tensor([[False, False, False, True]])
    loss(scores, positive, ignore).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-0.5, -0.5, 0.5, 0.0]]


def test_gradients_match_finite_differences_also_of_scale_and_bias(random_case: RandomCase) -> None:
    scores, positive, ignore = random_case(1, 5, 7)
    loss = Sigmoid().double()
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in (scores, loss.log_scale, loss.bias))
    assert torch.autograd.gradcheck(
        lambda s, w, b: torch.func.functional_call(loss, {"log_scale": w, "bias": b}, (s, positive, ignore)), leaves
    )


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_positives_value_and_gradients_are_zero(ignored: bool, dtype: torch.dtype) -> None:
    scores = torch.tensor([[-1.0, 0.3, 1.0]], dtype=dtype, requires_grad=True)
    none = torch.zeros(1, 3, dtype=torch.bool)
    loss = Sigmoid()
    value = loss(scores, none, torch.full_like(none, ignored))
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert scores.grad is not None and loss.log_scale.grad is not None and loss.bias.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0, 0.0]]
    assert loss.log_scale.grad.item() == loss.bias.grad.item() == 0.0


def test_scores_far_apart_stay_finite() -> None:
    scores = torch.tensor([[-1000.0, 1000.0], [1000.0, -1000.0]], requires_grad=True)
    positive = torch.tensor([[True, False], [True, False]])
    loss = Sigmoid(10.0, 0.0)(scores, positive, torch.zeros_like(positive))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([20_000.0, 0.0])
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_half_precision_scores_are_summed_in_float32(random_case: RandomCase) -> None:
    scores, positive, ignore = random_case(2, 4, 300)
    half, loss = scores.bfloat16(), Sigmoid()
    assert loss(half, positive, ignore).dtype == torch.float32
    torch.testing.assert_close(loss(half, positive, ignore), loss(half.float(), positive, ignore))


def test_scale_and_bias_are_learnt_and_the_scale_stays_above_zero() -> None:
    loss = Sigmoid()
    assert loss.scale.item() == pytest.approx(10.0) and loss.bias.item() == -10.0
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    positive = torch.eye(2, dtype=torch.bool)
    for _ in range(50):  # scores the wrong way round ask for a negative scale
        optimizer.zero_grad()
        loss(-torch.eye(2), positive, torch.zeros_like(positive)).mean().backward()
        optimizer.step()
    assert 0 < loss.scale.item() < 10.0 and loss.bias.item() > -10.0


def test_fixed_scale_and_bias_have_no_gradient() -> None:
    assert not any(parameter.requires_grad for parameter in Sigmoid(learnable=False).parameters())


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        Sigmoid(scale=0)


def test_keeps_the_promises_of_a_loss() -> None:
    check_loss(Sigmoid)


def test_it_starts_from_the_scale_and_the_bias_that_the_encoder_was_trained_with() -> None:
    loss = Sigmoid(scale="encoder")
    loss.start_from((117.0, -12.9))
    assert float(loss.scale) == pytest.approx(117.0) and float(loss.bias) == pytest.approx(-12.9)
    with pytest.raises(ValueError, match="loss: scale: the encoder was not trained with a logit scale"):
        loss.start_from(None)
    given = Sigmoid(scale=3.0, bias=-1.0)
    given.start_from((117.0, -12.9))
    assert float(given.scale) == pytest.approx(3.0) and float(given.bias) == pytest.approx(-1.0)
