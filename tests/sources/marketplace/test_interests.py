from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.fashion import DAYS, Fashion
from moonlib.sources.marketplace.interests import DISCOUNT, FORGETTING, MEMORY_DAYS, NOVELTY, Interests
from moonlib.sources.marketplace.world import World


def steady(per_day: int = 1) -> tuple[Interests, Fashion]:
    """One shopper who comes every day, in a world without seasons, and remembers nothing yet."""
    fashion = Fashion(len(CATEGORIES), np.random.default_rng(0))
    fashion.season = np.ones_like(fashion.season)
    return Interests(np.ones(1), per_day, fashion, np.random.default_rng(1)), fashion


def test_a_first_visit_opens_an_interest_and_later_ones_less_and_less() -> None:
    interests, _ = steady()
    user = np.zeros(20_000, dtype=np.int64)
    rng = np.random.default_rng(2)
    assert interests.have(user, 0, rng)[2].all()
    opened = np.arange(DAYS) % 3 == 0  # of 30 visits, ten open an interest
    interests.remember(np.arange(DAYS), np.zeros(DAYS, dtype=np.int64), np.arange(DAYS), opened)
    share = interests.have(user, 30, rng)[2].mean()
    assert share == pytest.approx((NOVELTY + DISCOUNT * 10) / (30 + NOVELTY), abs=0.01)
    assert interests.have(user, DAYS - 1, rng)[2].mean() < share


def test_shoppers_return_by_age() -> None:
    interests, _ = steady()
    visit = interests.recall(np.zeros(200_000, dtype=np.int64), 40, 1, np.random.default_rng(3))[:, 0]
    assert visit.max() == 39
    age = np.arange(40, 0, -1.0)
    expected = age**-FORGETTING * np.exp(-age / MEMORY_DAYS)
    drawn = np.bincount(visit, minlength=40) / len(visit)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.004)


def test_an_interest_keeps_its_category_and_its_look(world: World) -> None:
    interests = world.market.interests
    assert (interests.category >= 0).all()
    interest = interests.user * 10**9 + interests.category.astype(np.int64) * 10**6 + interests.ideal
    later = ~interests.opened
    assert np.isin(interest[later], interest[interests.opened]).all()
    first = np.unique(interests.user, return_index=True)[1]
    assert interests.opened[first].all()


def test_visits_open_interests_as_often_as_the_process_says(world: World) -> None:
    interests = world.market.interests
    visits = pl.DataFrame({name: getattr(interests, name) for name in ("user", "day", "opened")})
    days = visits.group_by("user", "day").agg(pl.len().alias("n"), pl.col("opened").sum().alias("known"))
    # Visits of earlier days count.
    before = pl.col("n", "known").cum_sum().over("user", order_by="day") - pl.col("n", "known")
    opens = (NOVELTY + DISCOUNT * pl.col("known")) / (pl.col("n") + NOVELTY)
    chance = visits.join(days.with_columns(before), on=["user", "day"]).select(chance=opens)["chance"]
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert interests.opened.sum() == pytest.approx(chance.sum(), abs=4 * spread)


def test_a_season_draws_shoppers_back() -> None:
    interests, fashion = steady()
    interests.remember(np.arange(DAYS), np.arange(DAYS) % 2, np.zeros(DAYS, dtype=np.int64), np.ones(DAYS, dtype=bool))
    fashion.season[100, 1] = 3.0
    share = interests.shares(np.zeros(1, dtype=np.int64), 100)[0]
    assert share.sum() == pytest.approx(1)
    age = np.arange(1, 101.0)  # of the visits on the days before, which took turns
    pull = age**-FORGETTING * np.exp(-age / MEMORY_DAYS)
    assert share[1] / share[0] == pytest.approx(3 * pull[::2].sum() / pull[1::2].sum())


def test_nobody_returns_to_what_is_to_come(world: World) -> None:
    interests = world.market.interests
    rng = np.random.default_rng(4)
    user = rng.integers(0, len(world.shoppers), size=2_000)
    visit = interests.recall(user, 50, 3, rng)
    known = visit >= 0
    assert (interests.day[visit[known]] < 50).all()
    assert (interests.user[visit] == user[:, None])[known].all()
    without = ~np.isin(user, interests.user[interests.day < 50])
    assert (visit[without] == -1).all() and known[~without].all()
    assert (interests.shares(user, 50)[without] == 0).all()


def test_interests_lie_idle_for_a_day_or_for_months(world: World) -> None:
    interests = world.market.interests
    visits = pl.DataFrame({name: getattr(interests, name) for name in ("user", "category", "ideal", "day")})
    idle = visits.unique().select(pl.col("day").diff().over("user", "category", "ideal", order_by="day"))["day"]
    idle = idle.drop_nulls()
    assert (idle <= 7).mean() > 0.15
    assert (idle > 30).mean() > 0.2
    assert 0.02 < (idle > 90).mean() < 0.3


def test_demand_is_steep_and_swings_over_the_year() -> None:
    fashion = Fashion(len(CATEGORIES), np.random.default_rng(5))
    demand = np.sort(fashion.demand.mean(axis=0))[::-1]
    assert demand[: len(demand) // 10].sum() > 0.25 * demand.sum()
    swing = np.log(fashion.demand).std(axis=0)
    assert 0.03 < np.median(swing) < 0.2
    months = np.abs(np.log(fashion.demand[::30] / fashion.demand[0]))
    assert (months[-1] < 1).all() and months.max() > 0.2
