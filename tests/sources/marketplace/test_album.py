from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from moonlib.sources.marketplace.album import Shots, dress, fill_album
from moonlib.sources.marketplace.render import render_catalogue, render_query
from moonlib.sources.marketplace.words import COLOURS
from moonlib.sources.marketplace.world import World


def some_shots(world: World, number: int) -> Shots:
    shots = world.shots()
    rows = np.linspace(0, len(shots.listing) - 1, number).astype(np.int64)
    return Shots(shots.looks, shots.listing[rows], shots.seed[rows], shots.view[rows], shots.quality[rows], 32)


def test_an_album_does_not_depend_on_its_workers(world: World, tmp_path: Path) -> None:
    shots = some_shots(world, 300)
    alone, boxes = fill_album(shots, tmp_path / "one", "1", workers=1)
    together, boxes_together = fill_album(shots, tmp_path / "two", "1", workers=2)
    np.testing.assert_array_equal(boxes, boxes_together)
    sent = pickle.loads(pickle.dumps(together))
    for number in (0, 1, 255, 256, 299):
        assert alone("products", f"p{number}") == sent("queries", f"q{number}") == shots.take(number)[0]


@pytest.mark.parametrize("other", ["version", "seed", "looks", "size"])
def test_pictures_of_others_are_not_taken_up(world: World, tmp_path: Path, other: str) -> None:
    shots = some_shots(world, 300)
    before, _ = fill_album(shots, tmp_path, "1", workers=1)
    again = replace(shots)
    if other == "seed":
        again = replace(shots, seed=shots.seed + 1)
    elif other == "looks":
        again = replace(shots, looks=replace(shots.looks, gloss=1 - shots.looks.gloss))
    elif other == "size":
        again = replace(shots, size=48)
    mark = tmp_path / "000000.jpegs"
    written = mark.stat().st_mtime_ns
    fill_album(shots, tmp_path, "1", workers=1)
    assert mark.stat().st_mtime_ns == written
    after, _ = fill_album(again, tmp_path, "2" if other == "version" else "1", workers=1)
    assert mark.stat().st_mtime_ns > written
    assert after.identity("p7") != before.identity("p7")
    assert after("products", "p7") == again.take(7)[0]


def test_a_shot_is_what_the_renderer_draws(world: World) -> None:
    shots = some_shots(world, 40)
    for number in (0, 39):
        look, seed, view = shots.looks[int(shots.listing[number])], int(shots.seed[number]), int(shots.view[number])
        drawn, box = render_query(look, seed, 32) if view < 0 else render_catalogue(look, seed, 32, view)
        jpeg, its_box = shots.take(number)
        assert its_box == box
        assert np.abs(simplejpeg.decode_jpeg(jpeg).astype(int) - drawn.astype(int)).mean() < 20


def test_pictures_of_listings_recorded_photos_and_further_views(world: World) -> None:
    shots = world.shots()
    listings, photos = len(world.catalogue), len(world.photographed)
    main, queries, more = slice(listings), slice(listings, listings + photos), slice(listings + photos, None)
    np.testing.assert_array_equal(shots.listing[main], np.arange(listings))
    np.testing.assert_array_equal(shots.listing[queries], world.traffic.intended[world.photographed])
    assert (shots.seed >= 0).all() and len(np.unique(shots.seed)) == len(shots.seed)
    assert set(shots.view[main]) == {0, 1} and set(shots.view[queries]) == {-1}
    assert (shots.view[main][world.catalogue.original < 0] == 0).all()
    assert set(shots.quality[queries]) == set(range(70, 86))
    views = np.c_[np.r_[shots.listing[main], shots.listing[more]], np.r_[shots.view[main], shots.view[more]]]
    assert len(np.unique(views, axis=0)) == len(views)
    pictures = np.bincount(views[:, 0])
    assert set(pictures) == {1, 2, 3, 4} and 1.7 < pictures.mean() < 2.3


def test_products_of_a_colour_look_alike_and_accents_stand_out(world: World) -> None:
    looks = dress(world.catalogue, np.random.default_rng(0))
    named = np.array([colour.rgb for colour in COLOURS])[world.catalogue.factors.colour]
    assert np.abs(looks.colour - named).max() < 0.15
    assert (np.abs(looks.accent - looks.colour).max(axis=1) > 0.15).all()
    for part in (looks.colour, looks.accent, looks.gloss):
        assert part.min() >= 0 and part.max() <= 1
