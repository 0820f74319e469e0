from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moonlib.data.ids import Ids
from moonlib.sources.marketplace.fashion import DAYS
from moonlib.sources.marketplace.market import CLICK, ORDER, SHOWN, Shelf
from moonlib.sources.marketplace.world import World


def test_a_shelf_draws_by_key_and_weight() -> None:
    keys = np.array([5, 2, 5, 2, 9])
    shelf = Shelf(keys, np.array([1.0, 1.0, 3.0, 0.0, 2.0]))
    drawn = shelf.draw(np.array([5, 2, 7, 9]), 20_000, np.random.default_rng(0))
    share = np.bincount(drawn[0], minlength=5) / 20_000
    assert share == pytest.approx([0.25, 0, 0.75, 0, 0], abs=0.015)
    assert set(drawn[1]) == {1}
    assert set(drawn[2]) == {-1}
    assert set(drawn[3]) == {4}


def test_what_happens_is_the_same_in_files(world: World, tmp_path: Path) -> None:
    mapped = World.simulate("tiny", 0, folder=tmp_path)
    assert mapped.texts == world.texts
    for name, held in vars(world.traffic).items():
        found = getattr(mapped.traffic, name)
        if name == "told":
            assert {block: flags.tobytes() for block, flags in found.items()} == {
                block: flags.tobytes() for block, flags in held.items()
            }
        else:
            assert isinstance(found, np.memmap) and found.dtype == held.dtype
            np.testing.assert_array_equal(found, held)


def test_candidates_are_listed_distinct_and_mixed(world: World) -> None:
    market = world.market
    market.open(DAYS - 30)
    listed = np.flatnonzero(world.catalogue.day <= DAYS - 30)
    intended = np.random.default_rng(1).choice(listed, size=500)
    pool = market.candidates(intended, np.random.default_rng(2))
    assert pool.max() <= listed.max()
    for row in pool:
        real = row[row >= 0]
        assert len(np.unique(real)) == len(real) > 0
    assert ((pool >= 0).sum(axis=1) >= SHOWN).mean() > 0.75  # most pages are full, even where three hundred are sold
    category = world.catalogue.factors.category
    alike = (category[pool] == category[intended][:, None])[pool >= 0].mean()
    assert 0.4 < alike < 0.95
    has_it = (world.catalogue.spu[pool] == world.catalogue.spu[intended][:, None]) & (pool >= 0)
    assert 0.8 < has_it.any(axis=1).mean() < 1


def test_orders_are_of_the_product_in_mind_and_near_misses_are_clicked(world: World) -> None:
    t, spu = world.traffic, world.catalogue.spu
    asked = t.intended[t.acted_search] >= 0
    same = spu[t.acted_item] == spu[t.intended[t.acted_search]]
    assert same[asked & (t.action == ORDER)].mean() > 0.94
    assert 0.1 < same[asked & (t.action == CLICK)].mean() < 0.8


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
    asked = np.flatnonzero(t.intended[t.search] >= 0)
    match = np.einsum("id,id->i", queries(world, t.search[asked]), world.catalogue.latent[t.item[asked]])
    shuffled, position = ~np.isnan(t.propensity[asked]), t.position[asked]
    assert np.corrcoef(match[~shuffled], position[~shuffled])[0, 1] < -0.3
    assert abs(np.corrcoef(match[shuffled], position[shuffled])[0, 1]) < 4 / np.sqrt(shuffled.sum())


def queries(world: World, searches: Ids) -> NDArray[np.float32]:
    """Latents of what the queries of searches tell."""
    t = world.traffic
    told = {block: flags[searches] for block, flags in t.told.items()}
    return world.market.told(t.intended[searches], t.photo[searches], told)


def test_shoppers_come_back_to_their_taste(world: World) -> None:
    t = world.traffic
    looks = world.market.looks
    rows = t.action == CLICK
    user, item = t.user[t.acted_search[rows]], t.acted_item[rows]
    taste = world.shoppers.first_taste
    own = (taste[user] * looks[item]).sum(axis=1).mean()
    someone_elses = (taste[np.roll(user, 997)] * looks[item]).sum(axis=1).mean()
    assert own > someone_elses + 0.03


def test_a_text_query_knows_less_than_a_photo(world: World) -> None:
    t, c = world.traffic, world.catalogue
    asked = np.flatnonzero(t.photo | t.text)
    match = (queries(world, asked) * c.latent[t.intended[asked]]).sum(axis=1)
    photo = t.photo[asked]
    np.testing.assert_allclose(match[photo], 1, atol=1e-5)
    assert match[~photo].max() < 0.95


def test_nobody_asks_for_a_feed(world: World) -> None:
    t = world.traffic
    feed = t.intended < 0
    np.testing.assert_array_equal(feed, ~(t.photo | t.text))
    assert 0.25 < feed[t.search].mean() < 0.42
    assert np.isnan(t.relevance[feed[t.search]]).all()
    assert 0.03 < t.clicked[feed[t.search]].mean() < 0.3


def test_a_feed_shows_what_its_shopper_comes_for(world: World) -> None:
    """And of that, what is of their categories is clicked more."""
    t, c, interests = world.traffic, world.catalogue, world.market.interests
    own, others, clicked = [], [], []
    for day in range(DAYS - 6, DAYS):
        feed = (t.intended[t.search] < 0) & (world.day[t.search] == day)
        user, category = t.user[t.search[feed]], c.factors.category[t.item[feed]]
        rows = np.arange(len(user))
        own.append(interests.shares(user, day)[rows, category])
        others.append(interests.shares(np.roll(user, len(user) // 2), day)[rows, category])
        clicked.append(t.clicked[feed])
    share, clicks = np.concatenate(own), np.concatenate(clicked)
    assert share.mean() > 1.04 * np.concatenate(others).mean()
    assert share[clicks].mean() > 1.05 * share[~clicks].mean()
