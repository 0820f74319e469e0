"""What a loss may read, and how a stage learns of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moonlib.losses import ARGUMENTS, InfoNCE, Loss, WeightedLoss
from moonlib.losses.weighted import one_or_several


class Near(Loss):
    """Reads vectors and ids."""

    def forward(self, candidates: Tensor, queries: Tensor, *, item_id: Tensor, eps: float = 0.0) -> Tensor:
        return (queries @ candidates.T).mean(dim=1) + item_id + eps


def test_a_loss_is_read_from_its_signature() -> None:
    assert InfoNCE().arguments == ("scores", "positive", "ignore")
    assert not InfoNCE().reads_representations
    assert Near().arguments == ("candidates", "queries", "item_id")
    assert Near().reads_representations
    assert set(Near().arguments) <= set(ARGUMENTS)


def test_masks_and_a_seed_are_no_vectors_and_ids_are_of_vectors() -> None:
    class Drawn(Loss):
        def forward(self, scores: Tensor, ignore: Tensor, seed: int) -> Tensor:
            return scores.mean(dim=1)

    class Popular(Loss):
        def forward(self, scores: Tensor, candidate_id: Tensor) -> Tensor:
            return scores.mean(dim=1)

    assert not Drawn().reads_representations
    assert Popular().reads_representations


def test_an_argument_that_no_loss_is_given_is_refused_with_the_nearest_name() -> None:
    class Misspelt(Loss):
        def forward(self, scores: Tensor, positives: Tensor) -> Tensor:
            return scores.sum(dim=1)

    with pytest.raises(ValueError, match=r"Misspelt\.forward takes 'positives', .*; did you mean 'positive'\?"):
        WeightedLoss(Misspelt())

    class Strange(Loss):
        def forward(self, hue: Tensor) -> Tensor:
            return hue

    with pytest.raises(ValueError, match=r"Strange\.forward takes 'hue', which no loss is given; known: scores"):
        _ = Strange().arguments

    class Anything(Loss):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return torch.zeros(1)

    with pytest.raises(ValueError, match=r"Anything\.forward takes \*args: name what it reads"):
        _ = Anything().arguments


def test_exactly_one_of_loss_and_losses_is_given() -> None:
    loss, losses = InfoNCE(), {"near": WeightedLoss(InfoNCE(), 0.5)}
    assert one_or_several(loss, None) == {"loss": WeightedLoss(loss)}
    assert one_or_several(None, losses) == losses
    for wrong in ((None, None), (loss, losses)):
        with pytest.raises(ValueError, match="give one of loss and losses"):
            one_or_several(*wrong)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "at least one weight above 0, got none"),
        ({"near": 0.0}, r"at least one weight above 0, got \['near'\]"),
        ({"near/by": 1.0}, "'near/by' is no name for a loss"),
        ({"compatibility": 1.0}, "'compatibility' is no name for a loss"),
    ],
)
def test_losses_that_could_not_be_trained_or_logged_are_refused(losses: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_or_several(None, {name: WeightedLoss(InfoNCE(), weight) for name, weight in losses.items()})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_of_at_least_0(weight: float) -> None:
    with pytest.raises(ValueError, match="weight: expected a number of at least 0"):
        WeightedLoss(InfoNCE(), weight)
