from __future__ import annotations

import numpy as np
import pytest

from moonlib.sources.marketplace.fashion import Fashion
from moonlib.sources.marketplace.latents import LatentSpace
from moonlib.sources.marketplace.traffic import CLICK, ORDER, Market, Shelf
from moonlib.sources.marketplace.world import SIZES, World


def test_a_shelf_draws_by_key_and_weight() -> None:
    keys = np.array([5, 2, 5, 2, 9])
    shelf = Shelf(keys, np.array([1.0, 1.0, 3.0, 0.0, 2.0]))
    drawn = shelf.draw(np.array([5, 2, 7, 9]), 20_000, np.random.default_rng(0))
    share = np.bincount(drawn[0], minlength=5) / 20_000
    assert share == pytest.approx([0.25, 0, 0.75, 0, 0], abs=0.015)
    assert set(drawn[1]) == {1}
    assert set(drawn[2]) == {-1}
    assert set(drawn[3]) == {4}


def test_candidates_are_listed_distinct_and_mixed(world: World) -> None:
    space = LatentSpace(world.streams["latents"])
    fashion = Fashion(SIZES["tiny"].categories, world.streams["fashion"])
    market = Market(world.catalogue, world.shoppers, fashion, space)
    market.open(3)
    listed = np.flatnonzero(world.catalogue.day <= 3)
    intended = np.random.default_rng(1).choice(listed, size=500)
    pool = market.candidates(intended, np.random.default_rng(2))
    assert pool.max() <= listed.max()
    for row in pool:
        real = row[row >= 0]
        assert len(np.unique(real)) == len(real) > 5
    category = world.catalogue.factors.category
    alike = (category[pool] == category[intended][:, None])[pool >= 0].mean()
    assert 0.4 < alike < 0.95
    has_it = (world.catalogue.spu[pool] == world.catalogue.spu[intended][:, None]) & (pool >= 0)
    assert 0.8 < has_it.any(axis=1).mean() < 1


def test_orders_are_of_the_product_in_mind_and_near_misses_are_clicked(world: World) -> None:
    t, spu = world.traffic, world.catalogue.spu
    same = spu[t.acted_item] == spu[t.intended[t.acted_search]]
    assert same[t.action == ORDER].mean() > 0.96
    assert 0.1 < same[t.action == CLICK].mean() < 0.8


def test_clicks_follow_their_probability(world: World) -> None:
    t = world.traffic
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        rows = (t.p_click >= low) & (t.p_click < high)
        expected = t.p_click[rows].mean()
        assert abs(t.clicked[rows].mean() - expected) < 4 * np.sqrt(expected / rows.sum())


def test_position_and_hidden_quality_move_clicks(world: World) -> None:
    t = world.traffic
    top = t.position == 0
    assert (t.p_click[top] > t.p_click_no_position[top]).all()
    assert (t.p_click[t.position == 8] < t.p_click_no_position[t.position == 8]).all()
    logit = np.log(t.p_click_no_position / (1 - t.p_click_no_position))
    assert np.corrcoef(logit, world.catalogue.quality[t.item])[0, 1] > 0.2


def test_shuffled_searches_are_not_ranked(world: World) -> None:
    t = world.traffic
    match = np.einsum("id,id->i", t.query[t.search], world.catalogue.latent[t.item])
    shuffled = ~np.isnan(t.propensity)
    assert np.corrcoef(match[~shuffled], t.position[~shuffled])[0, 1] < -0.3
    assert abs(np.corrcoef(match[shuffled], t.position[shuffled])[0, 1]) < 0.05


def test_shoppers_come_back_to_their_taste(world: World) -> None:
    t, c = world.traffic, world.catalogue
    space = LatentSpace(world.streams["latents"])
    looks = space.look(c.latent)
    rows = t.action == CLICK
    user, item = t.user[t.acted_search[rows]], t.acted_item[rows]
    taste = world.shoppers.taste[:, 0]
    own = (taste[user] * looks[item]).sum(axis=1).mean()
    someone_elses = (taste[np.roll(user, 997)] * looks[item]).sum(axis=1).mean()
    assert own > someone_elses + 0.03


def test_a_text_query_knows_less_than_a_photo(world: World) -> None:
    t, c = world.traffic, world.catalogue
    match = (t.query * c.latent[t.intended]).sum(axis=1)
    np.testing.assert_allclose(match[t.photo], 1, atol=1e-5)
    assert match[~t.photo].max() < 0.95
    assert (t.photo | t.text).all()
