from __future__ import annotations

import numpy as np
import pytest

from moonlib.sources.marketplace.fashion import DAYS, draw
from moonlib.sources.marketplace.words import COLOURS
from moonlib.sources.marketplace.world import World


def test_draw_follows_the_weights() -> None:
    weights = np.tile([1.0, 0.0, 3.0], (40_000, 1))
    share = np.bincount(draw(weights, np.random.default_rng(0)), minlength=3) / 40_000
    assert share == pytest.approx([0.25, 0, 0.75], abs=0.01)


def test_variants_of_a_product_differ_in_colour_or_size_only(world: World) -> None:
    c = world.catalogue
    for spu in range(20):
        rows = np.flatnonzero(c.spu == spu)
        for name in ("category", "proportions", "pattern", "ornament", "style", "brand", "composition", "function"):
            values = getattr(c.factors, name)[rows]
            assert (values == values[0]).all(), name
    sold = np.unique(np.c_[c.spu, c.factors.colour], axis=0)[:, 0]
    assert np.bincount(sold).max() > 1


def test_a_relisting_repeats_an_earlier_listing(world: World) -> None:
    c = world.catalogue
    again = np.flatnonzero(c.original >= 0)
    original = c.original[again]
    assert (c.original[original] == -1).all()
    assert (c.spu[again] == c.spu[original]).all()
    assert (c.factors.colour[again] == c.factors.colour[original]).all()
    assert (c.day[again] >= c.day[original]).all()
    assert (c.merchant[again] != c.merchant[original]).all()
    assert 0.15 < len(again) / len(c) < 0.35


def test_products_come_out_before_and_during_the_simulation(world: World) -> None:
    day = world.catalogue.day
    assert (np.diff(day) >= 0).all()
    assert day.min() < 0 <= day.max() < DAYS
    assert 0.2 < (day < 0).mean() < 0.6
    assert 0.08 < (day >= DAYS - 4).mean() < 0.2


def test_many_products_share_a_colour(world: World) -> None:
    used = np.bincount(world.catalogue.factors.colour, minlength=len(COLOURS)) / len(world.catalogue)
    assert used.max() > 2 / len(COLOURS) * 0.6
    assert (used > 0).sum() > len(COLOURS) / 2
