from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moonlib.losses.info_nce import Form, InfoNCE
from moonlib.testing import check_loss

RandomCase = Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]


def one_at_a_time(
    scores: Tensor, positive: Tensor, ignore: Tensor, temperature: float, form: Form = "each", smoothing: float = 0.0
) -> Tensor:
    """The definition: for each positive the cross entropy between its target and a softmax over what it is among."""
    losses = []
    for s, is_positive, is_ignored in zip(scores.tolist(), positive.tolist(), ignore.tolist(), strict=True):
        terms = []
        for own in range(len(s)):
            if not is_positive[own]:
                continue
            others_count = form == "supcon"
            among = [c for c in range(len(s)) if not is_ignored[c] and (not is_positive[c] or others_count or c == own)]
            total = sum(math.exp(s[c] / temperature) for c in among)
            term = 0.0
            for c in among:
                target = smoothing / len(among) + (1 - smoothing if c == own else 0.0)
                term -= target * math.log(math.exp(s[c] / temperature) / total)
            terms.append(term)
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


FORMS: list[Form] = ["each", "supcon"]


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([0.02, 0.07, 1.0]),
    st.sampled_from(FORMS),
    st.sampled_from([0.0, 0.1, 0.9]),
)
def test_equals_the_definition(
    random_case: RandomCase, seed: int, queries: int, candidates: int, temperature: float, form: Form, smoothing: float
) -> None:
    scores, positive, ignore = random_case(seed, queries, candidates)
    loss = InfoNCE(temperature, learnable=False, form=form, label_smoothing=smoothing)(scores, positive, ignore)
    expected = one_at_a_time(scores, positive, ignore, temperature, form, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_with_one_positive_it_is_cross_entropy_in_value_and_gradient(form: Form, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(16, 40, generator=generator) * 2 - 1
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    positive = torch.eye(16, 40, dtype=torch.bool)
    loss = InfoNCE(0.07, learnable=False, form=form, label_smoothing=smoothing)(
        ours, positive, torch.zeros_like(positive)
    )
    expected = F.cross_entropy(theirs / 0.07, torch.arange(16), reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_match_finite_differences_also_of_the_temperature(
    random_case: RandomCase, form: Form, smoothing: float
) -> None:
    scores, positive, ignore = random_case(1, 5, 7)
    loss = InfoNCE(form=form, label_smoothing=smoothing).double()
    assert torch.autograd.gradcheck(lambda s: loss(s, positive, ignore), scores.requires_grad_())

    assert loss.log_excess is not None
    weight = loss.log_excess.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(loss, {"log_excess": w}, (scores.detach(), positive, ignore)), weight
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_other_positives_and_ignored_candidates_change_nothing(smoothing: float) -> None:
    loss = InfoNCE(0.1, learnable=False, label_smoothing=smoothing)
    positive = torch.tensor([[True, False, False, False]])
    ignore = torch.tensor([[False, False, True, False]])
    before = loss(torch.tensor([[0.5, 0.3, -0.9, 0.1]]), positive, ignore)
    after = loss(torch.tensor([[0.5, 0.3, 0.99, 0.1]]), positive, ignore)
    assert torch.equal(before, after)
    # A second positive with the same score leaves the mean where it was.
    two = loss(torch.tensor([[0.5, 0.3, 0.5, 0.1]]), positive | ignore, torch.zeros_like(ignore))
    torch.testing.assert_close(two, before)


def test_supcon_has_the_other_positives_in_the_denominator_and_not_the_ignored() -> None:
    loss = InfoNCE(1.0, learnable=False, form="supcon")
    positive = torch.tensor([[True, True, False, False], [True, True, False, False]])
    ignore = torch.tensor([[False, False, False, True], [False, False, True, True]])
    scores = torch.tensor([[0.0, 0.0, math.log(2), 5.0], [0.3, 0.3, 5.0, -5.0]])
    # One positive of 1 + 1 + 2; without negatives one of 1 + 1.
    assert loss(scores, positive, ignore).tolist() == pytest.approx([math.log(4), math.log(2)])


def test_supcon_without_negatives_asks_for_equal_scores_of_the_positives() -> None:
    scores = torch.tensor([[0.1, 0.4, 0.9]], requires_grad=True)
    positive = torch.tensor([[True, True, False]])
    InfoNCE(0.1, learnable=False, form="supcon")(scores, positive, ~positive).sum().backward()
    assert scores.grad is not None
    low, high, ignored = scores.grad[0].tolist()
    assert low < 0 < high and low == pytest.approx(-high) and ignored == 0.0


def test_one_positive_alone_costs_nothing_in_either_form() -> None:
    positive = torch.tensor([[True, False]])
    for form in FORMS:
        loss = InfoNCE(0.1, learnable=False, form=form, label_smoothing=0.1)
        assert loss(torch.tensor([[0.1, 0.9]]), positive, ~positive).item() == 0.0


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_supcon_without_positives_value_and_gradients_are_zero(ignored: bool, smoothing: float) -> None:
    scores = torch.tensor([[-1.0, 0.3, 1.0]], requires_grad=True)
    none = torch.zeros(1, 3, dtype=torch.bool)
    loss = InfoNCE(0.02, form="supcon", label_smoothing=smoothing)
    with torch.autograd.detect_anomaly(check_nan=True):
        value = loss(scores, none, torch.full_like(none, ignored))
        value.sum().backward()
    assert value.tolist() == [0.0]
    assert scores.grad is not None and loss.log_excess is not None and loss.log_excess.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0, 0.0]]
    assert loss.log_excess.grad.item() == 0.0


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
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_positives_or_negatives_value_and_gradients_are_zero(
    positive: list[bool], ignore: list[bool], dtype: torch.dtype, smoothing: float
) -> None:
    scores = torch.tensor([[-1.0, 0.3, 1.0]], dtype=dtype, requires_grad=True)
    loss = InfoNCE(0.02, label_smoothing=smoothing)
    with torch.autograd.detect_anomaly(check_nan=True):
        value = loss(scores, torch.tensor([positive]), torch.tensor([ignore]))
        value.sum().backward()
    assert value.tolist() == [0.0]
    assert scores.grad is not None and loss.log_excess is not None and loss.log_excess.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0, 0.0]]
    assert loss.log_excess.grad.item() == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_scores_far_apart_stay_finite(form: Form) -> None:
    scores = torch.tensor([[-1000.0, 1000.0], [1000.0, -1000.0]], requires_grad=True)
    positive = torch.tensor([[True, False], [True, False]])
    loss = InfoNCE(0.01, learnable=False, form=form)(scores, positive, torch.zeros_like(positive))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([200_000.0, 0.0])
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_half_precision_scores_are_summed_in_float32(random_case: RandomCase) -> None:
    scores, positive, ignore = random_case(2, 4, 300)
    half = scores.bfloat16()
    loss = InfoNCE(0.05, learnable=False)
    assert loss(half, positive, ignore).dtype == torch.float32
    torch.testing.assert_close(loss(half, positive, ignore), loss(half.float(), positive, ignore))


def test_learnt_temperature_starts_as_told_and_stays_above_its_minimum() -> None:
    loss = InfoNCE(0.07, min_temperature=0.01)
    assert torch.as_tensor(loss.temperature).item() == pytest.approx(0.07)
    optimizer = torch.optim.SGD(loss.parameters(), lr=10.0)
    positive = torch.eye(2, dtype=torch.bool)
    for _ in range(50):  # perfect scores ask for an ever smaller temperature
        optimizer.zero_grad()
        loss(torch.eye(2), positive, torch.zeros_like(positive)).mean().backward()
        optimizer.step()
    assert 0.01 <= torch.as_tensor(loss.temperature).item() < 0.07
    restored = InfoNCE(0.5)
    restored.load_state_dict(loss.state_dict())
    assert torch.as_tensor(restored.temperature).item() == torch.as_tensor(loss.temperature).item()


def test_fixed_temperature_has_no_parameter() -> None:
    assert list(InfoNCE(0.07, learnable=False).parameters()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": 0.01, "min_temperature": 0.01}, "below temperature 0.01"),
        ({"min_temperature": -0.1}, "min_temperature must be at least 0"),
        ({"form": "supconn"}, "form must be 'each' or 'supcon', got 'supconn'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfoNCE(**arguments)


# Smoothing pulls back what is already told apart, so the promise that negatives are pushed holds only at high t.
@pytest.mark.parametrize(("temperature", "smoothing"), [(0.07, 0.0), (1.0, 0.1)])
@pytest.mark.parametrize("form", FORMS)
def test_keeps_the_promises_of_a_loss(form: Form, temperature: float, smoothing: float) -> None:
    check_loss(lambda: InfoNCE(temperature, form=form, label_smoothing=smoothing))


@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("scale", [100.0, 14.3, 117.0])
def test_it_starts_from_the_scale_that_the_encoder_was_trained_with(scale: float, learnable: bool) -> None:
    loss = InfoNCE(temperature="encoder", learnable=learnable)
    loss.start_from((scale, 0.0))
    assert torch.as_tensor(loss.temperature).item() == pytest.approx(1 / scale, rel=1e-5)
    for parameter in loss.parameters():
        loss(
            torch.tensor([[0.5, 0.1]]), torch.tensor([[True, False]]), torch.zeros(1, 2, dtype=torch.bool)
        ).sum().backward()
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()


def test_a_number_stays_what_it_is_whatever_the_encoder_was_trained_with() -> None:
    loss = InfoNCE(temperature=0.2)
    loss.start_from((100.0, 0.0))
    loss.start_from(None)
    assert torch.as_tensor(loss.temperature).item() == pytest.approx(0.2)


def test_an_encoder_without_a_scale_is_named() -> None:
    with pytest.raises(ValueError, match="loss: temperature: the encoder was not trained with a logit scale"):
        InfoNCE(temperature="encoder").start_from(None)
