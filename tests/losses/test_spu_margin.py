from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moonlib.data.ids import ShopIds
from moonlib.losses import LossData, SpuMargin
from moonlib.losses.spu_margin import bucket, with_margin
from moonlib.pairs.catalogue import Catalogue
from moonlib.testing import check_loss

SPUS = np.array([3, 9, 2**40, 11, 7])


def ready(dim: int = 4, **arguments: Any) -> SpuMargin:
    """A loss over five SPUs, of which each has two products."""
    loss = SpuMargin(**arguments)
    products = np.arange(10)
    torch.manual_seed(3)
    loss.setup(LossData(Catalogue(products, np.repeat(SPUS, 2), products * 0), ShopIds(), dim, Path()))
    return loss.double()


def batch(seed: int, rows: int, dim: int = 4) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(2 * rows, dim, generator=rng, dtype=torch.float64), dim=1)
    spus = torch.from_numpy(SPUS)[torch.randint(5, (rows,), generator=rng)]
    return {"queries": vectors[:rows], "items": vectors[rows:], "spu_id": spus, "seed": seed % 1000}


def one_at_a_time(loss: SpuMargin, given_: dict[str, Any]) -> list[float]:
    """The definition, class by class, with angles."""
    order = sorted(SPUS.tolist())
    drawn = loss.draw(given_["seed"]).tolist()
    costs = []
    for row, spu in enumerate(given_["spu_id"].tolist()):
        own = int(bucket(torch.tensor(spu), loss.buckets)) if loss.hashed else order.index(spu)
        total = 0.0
        for vector in (given_["queries"][row], given_["items"][row]):
            angles = [math.acos(max(-1.0, min(1.0, float(vector @ c / c.norm())))) for c in loss.centres.detach()]
            a, m = angles[own], loss.margin
            wanted = math.cos(a + m) if a + m < math.pi else math.cos(a) - m * math.sin(m)
            others = [math.exp(loss.scale * math.cos(angles[j])) for j in drawn if j != own]
            total -= math.log(math.exp(loss.scale * wanted) / (math.exp(loss.scale * wanted) + sum(others)))
        costs.append(total / 2)
    return costs


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3, 1.5]),
    st.sampled_from([{}, {"sampled": 2}, {"sampled": 1}, {"buckets": 3}, {"buckets": 3, "sampled": 2}]),
)
def test_equals_the_definition(seed: int, rows: int, margin: float, options: dict[str, int]) -> None:
    loss, given_ = ready(margin=margin, scale=8.0, **options), batch(seed, rows)
    assert loss(**given_).tolist() == pytest.approx(one_at_a_time(loss, given_), rel=1e-7, abs=1e-9)


def test_without_a_margin_and_with_all_classes_it_is_cross_entropy() -> None:
    loss, given_ = ready(margin=0.0), batch(1, 6)
    centres = torch.nn.functional.normalize(loss.centres, dim=1)
    target = torch.tensor([sorted(SPUS.tolist()).index(spu) for spu in given_["spu_id"].tolist()])
    expected = [
        torch.nn.functional.cross_entropy(16 * given_[side] @ centres.T, target, reduction="none")
        for side in ("queries", "items")
    ]
    torch.testing.assert_close(loss(**given_), sum(expected) / 2)


def test_the_margin_makes_the_same_vectors_cost_more_and_falls_everywhere() -> None:
    given_ = batch(2, 5)
    assert (ready(margin=0.5)(**given_) > ready(margin=0.0)(**given_)).all()
    cosines = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    for margin in (0.1, 0.5, 1.5):
        # An own cosine that is higher never costs more: beyond pi, the cosine of the sum would.
        assert (with_margin(cosines, margin).diff() > 0).all()


def test_draws_follow_the_seed_and_are_distinct() -> None:
    loss = ready(sampled=3)
    draws = [loss.draw(seed).tolist() for seed in range(20)]
    assert all(len(set(drawn)) == 3 for drawn in draws) and len({tuple(drawn) for drawn in draws}) > 5
    assert loss.draw(4).tolist() == draws[4]
    assert ready(sampled=99).draw(1).tolist() == [0, 1, 2, 3, 4]


def test_only_centres_that_are_drawn_or_own_have_a_gradient() -> None:
    loss, given_ = ready(sampled=1), batch(5, 1)
    loss(**given_).sum().backward()
    own = sorted(SPUS.tolist()).index(given_["spu_id"].item())
    touched = loss.centres.grad.any(dim=1).nonzero().squeeze(1).tolist()  # type: ignore[union-attr]
    assert set(touched) <= {own, int(loss.draw(given_["seed"]))} and own in touched


def test_more_spus_than_buckets_share_centres() -> None:
    assert len(ready().centres) == 5 and not ready().hashed
    hashed = ready(buckets=4)
    assert len(hashed.centres) == 4 and hashed.hashed
    found = bucket(torch.arange(100_000), 64)
    counts = torch.bincount(found, minlength=64)
    assert counts.min() > 1300 and counts.max() < 1800  # 1562 each, if evenly


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"margin": -0.1}, "margin must be"),
        ({"margin": 1.6}, "margin must be"),
        ({"scale": 0}, "scale must be above 0"),
        ({"sampled": 0}, "sampled must be at least 1"),
        ({"buckets": 0}, "buckets must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpuMargin(**wrong)


@pytest.mark.parametrize("make", [SpuMargin, partial(SpuMargin, sampled=4), partial(SpuMargin, buckets=5)])
def test_it_keeps_the_promises_of_a_loss(make: Any) -> None:
    check_loss(make)


def test_gradients_match_finite_differences() -> None:
    loss, given_ = ready(), batch(8, 3)
    inputs: list[Tensor] = [given_[name].requires_grad_() for name in ("queries", "items")]
    assert torch.autograd.gradcheck(lambda q, i: loss(q, i, given_["spu_id"], 0), inputs)
