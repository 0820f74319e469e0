from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.ornaments import ORNAMENTS
from moonlib.sources.marketplace.patterns import PATTERNS
from moonlib.sources.marketplace.render import Look, render_catalogue, render_query
from moonlib.sources.marketplace.words import PATTERNS as PATTERN_WORDS

LOOK = Look(
    category=0,
    proportions=(0.2, -0.3, 0.1, 0.4),
    colour=(0.8, 0.15, 0.15),
    accent=(0.15, 0.2, 0.6),
    pattern=1,
    pattern_scale=0.3,
    pattern_angle=0.4,
    ornament=1,
    ornament_at=(0.1, -0.2),
    gloss=0.5,
)

VIEWS = {
    "front": lambda look, seed, size=96: render_catalogue(look, seed, size, view=0),
    "other": lambda look, seed, size=96: render_catalogue(look, seed, size, view=1),
    "side": lambda look, seed, size=96: render_catalogue(look, seed, size, view=2),
    "near": lambda look, seed, size=96: render_catalogue(look, seed, size, view=3),
    "query": lambda look, seed, size=96: render_query(look, seed, size),
}


def shift(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> NDArray[np.int64]:
    """By how many levels each pixel differs, [S, S]."""
    return np.abs(one.astype(int) - two.astype(int)).max(axis=2)


@pytest.mark.parametrize("view", VIEWS)
def test_a_picture_is_a_function_of_look_and_seed(view: str) -> None:
    picture, box = VIEWS[view](LOOK, 7)
    VIEWS[view](replace(LOOK, category=9), 8)
    again, box_again = VIEWS[view](LOOK, 7)
    other, _ = VIEWS[view](LOOK, 8)
    assert np.array_equal(picture, again)
    assert box == box_again
    assert not np.array_equal(picture, other)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [16, 48, 96, 131])
def test_shape_and_type_follow_size(view: str, size: int) -> None:
    for seed in range(5):
        picture, box = VIEWS[view](LOOK, seed, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        assert 0 <= box[0] < box[2] <= 1
        assert 0 <= box[1] < box[3] <= 1


@pytest.mark.parametrize("view", VIEWS)
def test_a_seed_gives_the_same_scene_at_any_size(view: str) -> None:
    _, small = VIEWS[view](LOOK, 3, 48)
    _, large = VIEWS[view](LOOK, 3, 192)
    np.testing.assert_allclose(small, large, atol=2 / 48)


@pytest.mark.parametrize("view", VIEWS)
def test_the_box_holds_the_product(view: str) -> None:
    """Repainting the product alone changes nothing outside the box but what blur carries over its edge."""
    for category in range(len(CATEGORIES)):
        look = replace(LOOK, category=category, gloss=0.0)
        one, box = VIEWS[view](look, category)
        two, same = VIEWS[view](replace(look, colour=(0.1, 0.7, 0.3), accent=(0.95, 0.9, 0.2)), category)
        assert box == same
        changed = shift(one, two) > 12
        down, across = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        x0, y0, x1, y1 = (round(96 * edge) for edge in box)
        name = CATEGORIES[category].name_en
        assert x0 - 3 <= across[0] and across[-1] < x1 + 3, name
        assert y0 - 3 <= down[0] and down[-1] < y1 + 3, name
        if view != "query":  # where no fingers hide an edge and no light washes it out, the box is tight
            assert across[0] <= x0 + 3 and across[-1] >= x1 - 4, name
            assert down[0] <= y0 + 3 and down[-1] >= y1 - 4, name


def test_products_fill_a_fair_part_of_every_photo() -> None:
    for category in range(len(CATEGORIES)):
        for seed in range(3):
            _, (x0, y0, x1, y1) = render_query(replace(LOOK, category=category), seed)
            assert 0.35 <= max(x1 - x0, y1 - y0) <= 1.0, CATEGORIES[category].name_en


def test_categories_have_shapes_of_their_own() -> None:
    """No silhouette is empty, and no two of them nearly coincide."""

    def silhouette(category: int) -> NDArray[np.bool_]:
        look = replace(LOOK, category=category, proportions=(0.0, 0.0, 0.0, 0.0), pattern=0, ornament=0, gloss=0.0)
        red, _ = render_catalogue(replace(look, colour=(0.9, 0.1, 0.1), accent=(0.9, 0.1, 0.1)), seed=0)
        blue, _ = render_catalogue(replace(look, colour=(0.1, 0.1, 0.9), accent=(0.1, 0.1, 0.9)), seed=0)
        return shift(red, blue) > 30

    shapes = np.stack([silhouette(category) for category in range(len(CATEGORIES))])
    areas = shapes.mean(axis=(1, 2))
    assert areas.min() > 0.02
    assert areas.max() < 0.9
    flat = shapes.reshape(len(shapes), -1).astype(np.float64)
    common = flat @ flat.T
    overlap = common / (flat.sum(1)[:, None] + flat.sum(1)[None, :] - common)
    np.fill_diagonal(overlap, 0.0)
    one, two = np.unravel_index(overlap.argmax(), overlap.shape)
    assert overlap.max() < 0.93, (CATEGORIES[one].name_en, CATEGORIES[two].name_en)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "change",
    [
        {"category": 6},
        {"proportions": (-0.8, -0.3, 0.1, 0.4)},
        {"proportions": (0.2, 0.8, 0.1, 0.4)},
        {"proportions": (0.2, -0.3, 0.1, -0.7)},
        {"colour": (0.2, 0.6, 0.25)},
        {"accent": (0.95, 0.85, 0.2)},
        {"pattern": 3},
        {"pattern_scale": -0.8},
        {"pattern_angle": 1.6},
        {"ornament": 0},
        {"ornament": 2},
        {"ornament_at": (-0.9, 0.9)},
        {"gloss": 0.0},
    ],
    ids=str,
)
def test_every_factor_can_be_seen(view: str, change: dict[str, Any]) -> None:
    look = replace(LOOK, **change)
    for seed in range(3):
        one, _ = VIEWS[view](LOOK, seed)
        two, _ = VIEWS[view](look, seed)
        assert (shift(one, two) > 20).sum() >= 20


def test_every_proportion_deforms_every_silhouette() -> None:
    for category in range(len(CATEGORIES)):
        for which in range(4):
            pictures = []
            for value in (-1.0, 1.0):
                proportions = [0.0, 0.0, 0.0, 0.0]
                proportions[which] = value
                look = replace(LOOK, category=category, proportions=tuple(proportions), pattern=0, ornament=0)
                pictures.append(render_catalogue(look, seed=1)[0])
            assert (shift(*pictures) > 20).sum() >= 20, (CATEGORIES[category].name_en, which)


def test_patterns_and_ornaments_differ_from_one_another() -> None:
    patterns = [render_catalogue(replace(LOOK, pattern=kind), 0)[0] for kind in range(len(PATTERNS))]
    ornaments = [render_catalogue(replace(LOOK, ornament=kind), 0)[0] for kind in range(len(ORNAMENTS))]
    for pictures in (patterns, ornaments):
        for number, one in enumerate(pictures):
            for two in pictures[:number]:
                assert (shift(one, two) > 20).sum() >= 40


def test_a_pattern_shows_even_where_the_accent_is_the_colour() -> None:
    look = replace(LOOK, accent=LOOK.colour, ornament=0)
    striped, _ = render_catalogue(look, 0)
    plain, _ = render_catalogue(replace(look, pattern=0), 0)
    assert (shift(striped, plain) > 20).sum() >= 100


def test_the_views_differ() -> None:
    pictures = [render_catalogue(LOOK, 5, view=view)[0] for view in range(4)]
    for one, two in combinations(pictures, 2):
        assert (shift(one, two) > 20).mean() > 0.1


def test_a_near_view_fills_the_picture_and_a_side_view_is_narrow() -> None:
    def side(view: int) -> NDArray[np.float64]:
        boxes = np.array([render_catalogue(LOOK, seed, view=view)[1] for seed in range(20)])
        return boxes[:, 2:] - boxes[:, :2]

    assert side(3).max(axis=1).min() > 0.9 > side(0).max(axis=1).max()
    assert (side(2)[:, 0] / side(2)[:, 1]).mean() < 0.9 * (side(0)[:, 0] / side(0)[:, 1]).mean()


def test_merchants_show_products_on_white_more_often_than_shoppers() -> None:
    def white_corners(pictures: list[NDArray[np.uint8]]) -> float:
        return float(np.mean([picture[[2, 2, -3, -3], [2, -3, 2, -3]].min() > 195 for picture in pictures]))

    catalogue = [render_catalogue(LOOK, seed)[0] for seed in range(60)]
    queries = [render_query(LOOK, seed)[0] for seed in range(60)]
    assert white_corners(catalogue) > 0.4 > white_corners(queries)


def test_names_agree_with_the_vocabulary() -> None:
    assert tuple(word.en for word in PATTERN_WORDS) == PATTERNS
    assert len(CATEGORIES) == 134
    assert len({category.department_en for category in CATEGORIES}) == 11
    assert len({category.path for category in CATEGORIES}) == 134
    assert len({category.name_zh for category in CATEGORIES}) == 134
