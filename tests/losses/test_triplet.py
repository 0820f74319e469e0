from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moonlib.losses.triplet import Mining, Triplet
from moonlib.testing import check_loss

RandomCase = Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]

MININGS: list[Mining] = ["all", "semi_hard", "hardest"]


def one_at_a_time(scores: Tensor, positive: Tensor, ignore: Tensor, margin: float, mining: Mining) -> Tensor:
    """The definition, triplet by triplet."""
    losses = []
    for s, is_positive, is_ignored in zip(scores.tolist(), positive.tolist(), ignore.tolist(), strict=True):
        negatives = [x for x, p, i in zip(s, is_positive, is_ignored, strict=True) if not p and not i]
        costs = []
        for own, p in zip(s, is_positive, strict=True):
            if not p:
                continue
            chosen = negatives
            if mining == "semi_hard":
                chosen = [x for x in negatives if x < own]
            if mining == "hardest":
                chosen = [max(negatives)] if negatives else []
            costs += [margin - own + x for x in chosen if margin - own + x > 0]
        losses.append(sum(costs) / len(costs) if costs else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from([0.05, 0.2, 3.0]),
    st.sampled_from(MININGS),
)
def test_equals_the_definition(
    random_case: RandomCase, seed: int, queries: int, candidates: int, margin: float, mining: Mining
) -> None:
    scores, positive, ignore = random_case(seed, queries, candidates)
    loss = Triplet(margin, mining)(scores, positive, ignore)
    expected = one_at_a_time(scores, positive, ignore, margin, mining)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("mining", "value"),
    # Costs .1 - .5 + (.7, .5, .45, .1) = .3, .1, .05, 0; the ignored .99 costs nothing, .5 is not below the positive.
    [("all", (0.3 + 0.1 + 0.05) / 3), ("semi_hard", 0.05), ("hardest", 0.3)],
)
def test_golden_values(mining: Mining, value: float) -> None:
    scores = torch.tensor([[0.5, 0.7, 0.5, 0.45, 0.1, 0.99]])
    positive = torch.tensor([[True, False, False, False, False, False]])
    assert Triplet(0.1, mining)(scores, positive, positive.flip(1)).item() == pytest.approx(value)


@pytest.mark.parametrize("mining", MININGS)
def test_triplets_that_keep_the_margin_do_not_dilute_the_others(mining: Mining) -> None:
    loss = Triplet(0.2, mining)
    positive = torch.zeros(1, 100, dtype=torch.bool)
    positive[0, 0] = True
    scores = torch.full((1, 100), -0.5)
    scores[0, :2] = torch.tensor([0.5, 0.4])
    ignore = torch.zeros_like(positive)
    assert loss(scores, positive, ignore).item() == loss(scores[:, :2], positive[:, :2], ignore[:, :2]).item() > 0


@pytest.mark.parametrize("mining", MININGS)
def test_gradients_match_finite_differences(random_case: RandomCase, mining: Mining) -> None:
    scores, positive, ignore = random_case(1, 5, 9)
    loss = Triplet(0.3, mining)
    assert loss(scores, positive, ignore).any()
    assert torch.autograd.gradcheck(lambda s: loss(s, positive, ignore), scores.requires_grad_())


def test_equally_hard_negatives_share_the_gradient() -> None:
    scores = torch.tensor([[0.5, 0.4, 0.4, 0.1]], requires_grad=True)  # the same item twice in the pool
    positive = torch.tensor([[True, False, False, False]])
    Triplet(0.2, "hardest")(scores, positive, torch.zeros_like(positive)).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-1.0, 0.5, 0.5, 0.0]]


@pytest.mark.parametrize("mining", MININGS)
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
    positive: list[bool], ignore: list[bool], dtype: torch.dtype, mining: Mining
) -> None:
    scores = torch.tensor([[-1.0, 0.3, 1.0]], dtype=dtype, requires_grad=True)
    value = Triplet(mining=mining)(scores, torch.tensor([positive]), torch.tensor([ignore]))
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_memory_grows_with_positives_times_candidates_only() -> None:
    # All triplets that the pool has room for would be 4 x 4,096 x 4,096 values.
    scores = torch.rand(4, 4096, generator=torch.Generator().manual_seed(0)).requires_grad_()
    positive = torch.eye(4, 4096, dtype=torch.bool)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        Triplet()(scores, positive, torch.zeros_like(positive)).sum().backward()
    assert max(sizes) == 4 * 4096


def test_half_precision_scores_are_summed_in_float32(random_case: RandomCase) -> None:
    scores, positive, ignore = random_case(2, 4, 300)
    half, loss = scores.bfloat16(), Triplet()
    assert loss(half, positive, ignore).dtype == torch.float32
    torch.testing.assert_close(loss(half, positive, ignore), loss(half.float(), positive, ignore))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin must be above 0, got 0.0"),
        ({"mining": "hard"}, "mining must be 'all', 'semi_hard' or 'hardest', got 'hard'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Triplet(**arguments)


@pytest.mark.parametrize("mining", MININGS)
def test_keeps_the_promises_of_a_loss(mining: Mining) -> None:
    check_loss(lambda: Triplet(mining=mining))
