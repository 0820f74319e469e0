from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moonlib.sources.marketplace.categories import CATEGORIES
from moonlib.sources.marketplace.latents import BLOCKS, Factors, LatentSpace


@pytest.fixture
def space() -> LatentSpace:
    return LatentSpace(np.random.default_rng(0))


@pytest.fixture
def mug() -> Factors:
    """One product, patterned and with an ornament."""
    one = np.array([1])
    return Factors(
        category=one * 20,
        proportions=np.array([[0.1, -0.5, 0.9, 0.0]]),
        pattern=one,
        pattern_scale=np.array([0.2]),
        pattern_angle=np.array([0.7]),
        ornament=one,
        ornament_at=np.array([[0.3, -0.3]]),
        colour=one,
        style=one,
        brand=one,
        composition=one,
        function=one,
    )


def test_shares_add_up() -> None:
    assert sum(BLOCKS.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("block", "change"),
    [
        ("category", {"category": np.array([3])}),
        ("proportions", {"proportions": np.array([[-0.9, 0.5, -0.9, 0.9]])}),
        ("marks", {"pattern_scale": np.array([-0.9])}),
        ("ornament", {"ornament": np.array([2])}),
        ("colour", {"colour": np.array([9])}),
        ("pattern", {"pattern": np.array([4])}),
        ("style", {"style": np.array([6])}),
        ("brand", {"brand": np.array([7])}),
        ("composition", {"composition": np.array([8])}),
        ("function", {"function": np.array([5])}),
    ],
)
def test_one_changed_factor_costs_at_most_its_share_twice(
    space: LatentSpace, mug: Factors, block: str, change: dict[str, np.ndarray]
) -> None:
    cosine = float((space.embed(mug) @ space.embed(replace(mug, **change)).T)[0, 0])
    assert 1 - 2 * BLOCKS[block] - 1e-6 <= cosine < 1 - 0.1 * BLOCKS[block]


def test_leaves_of_a_kind_are_nearest_then_those_of_a_department(space: LatentSpace, mug: Factors) -> None:
    number = np.arange(len(CATEGORIES))
    latent = space.embed(mug.take(0 * number, category=number))
    cosine = latent @ latent.T
    kind, department = np.array([c.kind for c in CATEGORIES]), np.array([c.department_en for c in CATEGORIES])
    same_kind, same_department = kind[:, None] == kind, department[:, None] == department
    of_kind = cosine[same_kind & (number[:, None] != number)].mean()
    of_department = cosine[same_department & ~same_kind].mean()
    assert of_kind > of_department + 0.05
    assert of_department > cosine[~same_department].mean() + 0.05


def test_what_a_text_does_not_tell_is_not_in_its_latent(space: LatentSpace, mug: Factors) -> None:
    told = {"colour": np.array([True]), "category": np.array([False])}
    text = space.embed(mug, told)
    elsewhere = replace(mug, category=np.array([40]), brand=np.array([9]), proportions=-mug.proportions)
    np.testing.assert_array_equal(text, space.embed(elsewhere, told))
    assert np.linalg.norm(text) == pytest.approx(1)
    assert not np.allclose(text, space.embed(replace(mug, colour=np.array([9])), told))


def test_a_plain_product_has_no_marks(space: LatentSpace, mug: Factors) -> None:
    plain = replace(mug, pattern=np.array([0]))
    turned = replace(plain, pattern_angle=np.array([2.0]), pattern_scale=np.array([-1.0]))
    np.testing.assert_array_equal(space.embed(plain), space.embed(turned))


def test_looks_do_not_know_the_category(space: LatentSpace, mug: Factors) -> None:
    other = replace(mug, category=np.array([40]))
    np.testing.assert_allclose(space.look(space.embed(mug)), space.look(space.embed(other)), atol=1e-6)


def test_what_only_texts_tell_can_be_left_out(space: LatentSpace, mug: Factors) -> None:
    other = replace(mug, brand=np.array([9]), composition=np.array([3]), function=np.array([4]))
    whole = space.embed(mug)
    left = space.without_told(whole)
    np.testing.assert_allclose(left, space.without_told(space.embed(other)), atol=1e-6)
    told = BLOCKS["brand"] + BLOCKS["composition"] + BLOCKS["function"]
    assert np.square(left).sum() == pytest.approx(1 - told, abs=1e-6)
    assert np.square(whole).sum() == pytest.approx(1, abs=1e-6)
