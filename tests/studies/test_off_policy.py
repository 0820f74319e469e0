"""Estimates from a log against what is known: by hand, by enumeration, and by drawing the log again and again."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.studies.off_policy import (
    effective_sample_size,
    importance_weights,
    ips,
    policy_value,
    randomised,
    reordered,
    snips,
)


def test_a_log_with_a_known_value() -> None:
    # The log took the first of two actions with chance 0.8; the policy takes the second, whose click rate is 0.6.
    taken = np.repeat([0, 1], [80, 20])
    clicked = np.r_[np.repeat([1, 0], [8, 72]), np.repeat([1, 0], [12, 8])]
    propensity = np.where(taken == 0, 0.8, 0.2)
    value = policy_value(clicked, taken == 1, propensity, users=np.arange(100))
    assert value.ips.estimate == pytest.approx(0.6) == value.snips.estimate
    assert value.ips.low < 0.6 < value.ips.high and value.snips.low < 0.6 < value.snips.high
    assert (value.effective_samples, value.decisions, value.clipped) == (pytest.approx(20), 100, 0)
    # The log's own policy has the log's click rate, with a weight of 1 throughout.
    own = policy_value(clicked, propensity, propensity, users=np.arange(100))
    assert own.ips.estimate == own.snips.estimate == pytest.approx(0.2)
    assert own.effective_samples == 100


def test_snips_by_hand_and_where_nothing_matches() -> None:
    rewards, weights, users = [1, 0, 1, 0], [3, 1, 0, 2], [1, 1, 2, 3]
    assert ips(rewards, weights, users).estimate == pytest.approx(3 / 4)
    assert snips(rewards, weights, users).estimate == pytest.approx(3 / 6)
    assert effective_sample_size(weights) == pytest.approx(36 / 14)
    nothing = snips(rewards, [0, 0, 0, 0], users)
    assert np.isnan(nothing.estimate) and np.isnan(nothing.low)
    assert effective_sample_size([0, 0]) == 0


def test_clipping_cuts_weights_and_is_told() -> None:
    value = policy_value([1, 1, 0, 0], [1, 0.5, 0, 1], [0.1, 0.5, 0.5, 0.5], users=[1, 2, 3, 4], clip=4)
    assert value.clipped == 0.25
    assert value.ips.estimate == pytest.approx((4 + 1) / 4)


def test_what_is_no_probability_is_told() -> None:
    with pytest.raises(ValueError, match=r"row 1: propensity 0\.0 is not a probability above 0"):
        importance_weights([1, 1], [0.5, 0.0])
    with pytest.raises(ValueError, match=r"row 0: chance 1\.5 is not a probability"):
        importance_weights([1.5], [0.5])
    with pytest.raises(ValueError, match="propensity nan"):
        importance_weights([1.0], [np.nan])
    with pytest.raises(ValueError, match="clip 0"):
        importance_weights([1.0], [0.5], clip=0)
    with pytest.raises(ValueError, match=r"\[2\] and \[1\]"):
        importance_weights([1.0, 0.0], [0.5])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_over_all_orders_each_place_is_filled_once(scores: list[int]) -> None:
    """Summed over all orders that chance may show, every item stands in the policy's place as often as one order."""
    n = len(scores)
    orders = list(itertools.permutations(range(n)))
    log = pl.DataFrame({"search_id": np.repeat(np.arange(len(orders)), n), "place": np.concatenate(orders)})
    chance = reordered(log, np.tile(np.array(scores, dtype=float), len(orders))).reshape(len(orders), n)
    # An item's chance of each place, over the orders that put it there, adds up to the number of other items' orders.
    np.testing.assert_allclose(chance.sum(axis=0), len(orders) / n)
    np.testing.assert_allclose(chance.sum(), len(orders))
    best = np.argmax(scores)
    first = chance[[order[best] == 0 for order in orders], best]
    np.testing.assert_allclose(first, 1 / scores.count(max(scores)))


def log_of(orders: np.ndarray, propensity: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """A log of searches that show items 0 to n - 1 in the given places, int64 [searches, n]."""
    searches, n = orders.shape
    wish = np.linspace(-2, 0, n)
    p_click = 1 / (1 + np.exp(-(wish - 0.7 * orders)))
    return pl.DataFrame(
        {
            "search_id": np.repeat(np.arange(searches), n) - 2**62,
            "user_id": np.repeat(np.arange(searches), n),
            "item_id": np.tile(np.arange(n), searches),
            "position": (orders * 2 + 1).ravel(),  # shops count as they like
            "clicked": (rng.random(orders.shape) < p_click).ravel(),
            "propensity": propensity.ravel(),
        }
    )


def true_value(place: np.ndarray, places: int) -> float:
    p_click = 1 / (1 + np.exp(-(np.linspace(-2, 0, len(place)) - 0.7 * place)))
    return float(p_click[place < places].sum() / places)


@pytest.mark.parametrize("places", [1, 4])
def test_unbiased_where_chance_ordered_some_of_more_candidates(places: int) -> None:
    """Of 20 candidates 4 are shown, so that the log says 1/20, and what counts is 1/4."""
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(150):
        orders = rng.permuted(np.tile(np.arange(4), (60, 1)), axis=1)
        log = randomised(log_of(orders, np.full(orders.shape, 1 / 20), rng))
        assert (log["chance"] == 0.25).all()
        weights = importance_weights(reordered(log, log["item_id"]), log["chance"])
        rows = (log["place"] < places).to_numpy()
        estimates.append((weights[rows] * log["clicked"].to_numpy()[rows]).mean())
    expected = true_value(np.array([3, 2, 1, 0]), places)
    assert abs(np.mean(estimates) - expected) < 4 * np.std(estimates) / np.sqrt(150)
    assert abs(expected - true_value(np.array([0, 1, 2, 3]), places)) > 0.03  # the worst order is worth something else


def test_unbiased_where_the_log_preferred_one_order() -> None:
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(150):
        first = rng.random(60) < 0.8
        orders = np.where(first[:, None], [0, 1], [1, 0])
        log = randomised(log_of(orders, np.tile(np.where(first, 0.8, 0.2)[:, None], (1, 2)), rng))
        assert set(log["chance"]) == {0.8, 0.2}
        weights = importance_weights(reordered(log, log["item_id"]), log["chance"])
        estimates.append((weights * log["clicked"].to_numpy()).mean())
    assert abs(np.mean(estimates) - true_value(np.array([1, 0]), 2)) < 4 * np.std(estimates) / np.sqrt(150)


def test_only_searches_whose_every_item_has_a_propensity_count() -> None:
    log = pl.DataFrame(
        {
            "search_id": [1, 1, 2, 2, 3],
            "position": [4, 2, 0, 1, 0],
            "propensity": [0.5, 0.5, 0.5, None, None],
        },
        schema_overrides={"position": pl.Int32},
    )
    found = randomised(log)
    assert found["search_id"].to_list() == [1, 1]
    assert found["place"].to_list() == [1, 0]
    assert randomised(log.filter(search_id=3)).is_empty()
