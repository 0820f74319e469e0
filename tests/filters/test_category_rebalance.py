from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlib.data.tables import Tables, validate
from moonlib.filters.category_rebalance import CategoryRebalance, quotas_of
from moonlib.testing import check_filter

counts = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=5).filter(
    lambda rows: any(shown for _, shown in rows)
)
ratio = st.sampled_from([1.0, 1.25, 1.5, 3.0])


def by_trying_all(pairs: list[int], shown: list[int], max_ratio: float) -> list[int]:
    """Try every set of categories that might stay whole, in exact arithmetic."""
    bound = [Fraction(max_ratio) * s / sum(shown) for s in shown]
    largest = Fraction(0)
    for whole in itertools.product([False, True], repeat=len(pairs)):
        kept = sum(n for n, w in zip(pairs, whole, strict=True) if w)
        cut = sum(b for b, w in zip(bound, whole, strict=True) if not w)
        if cut < 1:
            total = kept / (1 - cut)
            if sum(min(n, b * total) for n, b in zip(pairs, bound, strict=True)) == total:
                largest = max(largest, total)
    return [min(n, math.ceil(b * largest)) for n, b in zip(pairs, bound, strict=True)]


@given(counts, ratio)
def test_quotas_equal_the_definition(rows: list[tuple[int, int]], max_ratio: float) -> None:
    pairs, shown = map(list, zip(*rows, strict=True))
    assert quotas_of(np.array(pairs), np.array(shown), max_ratio).tolist() == by_trying_all(pairs, shown, max_ratio)


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)), min_size=1, max_size=80).filter(
        lambda rows: any(shown for _, shown in rows)
    ),
    st.floats(1, 10),
)
def test_shares_stay_in_bounds_and_come_no_less_near(rows: list[tuple[int, int]], max_ratio: float) -> None:
    pairs, shown = map(np.array, zip(*rows, strict=True))
    quotas = quotas_of(pairs, shown, max_ratio)
    target, before, after = shown / shown.sum(), pairs / pairs.sum(), quotas / quotas.sum()
    assert np.all((quotas <= pairs) & ((quotas > 0) == (shown > 0)))
    one_pair = 1 / quotas.sum()
    assert np.all(after <= max_ratio * target + one_pair + 1e-9)
    rounding = len(pairs) * one_pair
    assert np.abs(after - target).sum() <= np.abs(before - target).sum() + rounding
    # The category that has the fewest pairs for what is shown of it loses none.
    scarcest = np.argmin(np.divide(pairs, shown, out=np.full(len(pairs), np.inf), where=shown > 0))
    assert quotas[scarcest] == pairs[scarcest]


def test_keeps_the_promises_of_a_filter() -> None:
    check_filter(CategoryRebalance)
    check_filter(lambda: CategoryRebalance(1.0, level=1, seed=3))


CATEGORIES = {1: "home/lamp", 2: "home/lamp", 3: "home/mug", 4: "toys/kite"}


@settings(deadline=None, max_examples=50)
@given(
    events=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(list(CATEGORIES)), st.integers(0, 1)), min_size=1),
    shown=st.lists(st.sampled_from(list(CATEGORIES)), max_size=8).map(lambda items: [*items, *CATEGORIES]),
    max_ratio=ratio,
    level=st.sampled_from([None, 1, 2, 5]),
    seed=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_whole_pairs_are_drawn_by_quota_whatever_the_order_of_the_rows(
    make_tables: Callable[..., Tables],
    events: list[tuple[int, int, int]],
    shown: list[int],
    max_ratio: float,
    level: int | None,
    seed: int,
    order: object,
) -> None:
    tables = make_tables({item: {"category": path} for item, path in CATEGORIES.items()}, events, shown)
    result = CategoryRebalance(max_ratio, level, seed)(tables)

    category = {item: "/".join(path.split("/")[:level]) for item, path in CATEGORIES.items()}
    pairs = {(query, item) for query, item, _ in events}
    have, exposed = Counter(category[item] for _, item in pairs), Counter(category[item] for item in shown)
    names = sorted(have)
    quotas = by_trying_all([have[name] for name in names], [exposed[name] for name in names], max_ratio)
    left = result.tables.searches
    kept = set(left.select("query_id", "item_id").iter_rows())
    assert Counter(category[item] for _, item in kept) == dict(zip(names, quotas, strict=True))
    # The events of a pair stay or go together, and those that stay keep their order.
    assert left["search_id"].to_list() == [n for n, (query, item, _) in enumerate(events) if (query, item) in kept]
    gone = len(events) - left.height
    assert result.removed.get("searches", {}) == (
        {"the category has more than its share of pairs": gone} if gone else {}
    )

    rows = list(range(len(events)))
    order.shuffle(rows)  # type: ignore[attr-defined]
    shuffled = replace(
        tables,
        searches=tables.searches[rows],
        products=tables.products[[3, 1, 0, 2]],
        impressions=tables.impressions.reverse(),
    )
    again = CategoryRebalance(max_ratio, level, seed)(shuffled).tables.searches
    assert again.sort("search_id").equals(left)


def test_another_seed_draws_other_pairs(make_tables: Callable[..., Tables]) -> None:
    products = {1: {"category": "lamp"}, 2: {"category": "mug"}}
    tables = make_tables(products, [(q, 1, 0) for q in range(100)] + [(0, 2, 0)] * 5, shown=[1, 1, 1, 2])
    draws = [CategoryRebalance(1.0, seed=seed)(tables).tables.searches for seed in (0, 0, 1)]
    assert draws[0].equals(draws[1]) and not draws[0].equals(draws[2])
    assert [draw["item_id"].to_list() for draw in draws] == [[1, 1, 1, 2, 2, 2, 2, 2]] * 3


@pytest.mark.parametrize(
    ("level", "lamps", "mugs"),
    [(1, 10, 6), (2, 10, 5), (3, 4, 2), (None, 4, 2)],
    ids=["all of one kind", "lamps and mugs", "a path that ends above", "leaves"],
)
def test_categories_are_those_of_the_level(
    make_tables: Callable[..., Tables], level: int | None, lamps: int, mugs: int
) -> None:
    paths = {1: "home/lamp/desk", 2: "home/lamp/floor", 3: "home/mug"}
    events = [(query, item, 0) for item, pairs in ((1, 8), (2, 2), (3, 6)) for query in range(pairs)]
    tables = make_tables({item: {"category": path} for item, path in paths.items()}, events, shown=paths)
    left = Counter(CategoryRebalance(1.0, level)(tables).tables.searches["item_id"])
    assert (left[1] + left[2], left[3]) == (lamps, mugs)


def test_what_was_never_shown_goes_and_is_counted_apart(make_tables: Callable[..., Tables]) -> None:
    products = {1: {"category": "lamp"}, 2: {"category": "mug"}, 3: {"category": "kite"}}
    # Kites are shown most and never searched for: they limit nothing.
    tables = make_tables(products, [(1, 1, 0), (2, 2, 0), (3, 1, 0)], shown=[1, 3, 3, 3, 3, 3])
    result = CategoryRebalance()(tables)
    assert result.removed == {"searches": {"the category was never shown": 1}}
    assert result.tables.searches["item_id"].to_list() == [1, 1]


def test_without_impressions_of_the_categories_it_says_what_to_do(make_tables: Callable[..., Tables]) -> None:
    products = {1: {"category": "lamp"}, 2: {"category": "mug"}}
    with pytest.raises(ValueError, match="there are none: add the table impressions"):
        CategoryRebalance()(make_tables(products, [(1, 1, 0)]))
    with pytest.raises(ValueError, match="none is of a category that searches led to"):
        CategoryRebalance()(make_tables(products, [(1, 1, 0)], shown=[2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_ratio": 0.9}, "max_ratio must be a number of at least 1"),
        ({"max_ratio": math.nan}, "max_ratio must be a number of at least 1"),
        ({"max_ratio": math.inf}, "max_ratio must be a number of at least 1"),
        ({"level": 0}, "level must be"),
        ({"seed": -1}, "seed must not"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CategoryRebalance(**arguments)


def shares(tables: Tables, events: pl.DataFrame) -> dict[str, float]:
    categories = dict(tables.products.select("item_id", "category").iter_rows())
    names = Counter(categories[item] for item in events["item_id"])
    return {name: count / len(events) for name, count in names.items()}


def total_variation(p: dict[str, float], q: dict[str, float]) -> float:
    return sum(abs(p.get(name, 0) - q.get(name, 0)) for name in p.keys() | q.keys()) / 2


@pytest.mark.parametrize(("max_ratio", "share_of_the_distance"), [(1.0, 0.03), (1.05, 0.6), (1.1, 0.9)])
def test_the_marketplaces_pairs_come_nearer_to_what_it_shows(
    training: Tables, max_ratio: float, share_of_the_distance: float
) -> None:
    result = CategoryRebalance(max_ratio)(training)
    validate(result.tables)
    shown = shares(training, training.impressions)
    before, after = (
        t.searches.select("query_id", "item_id").drop_nulls("query_id").unique() for t in (training, result.tables)
    )
    assert total_variation(shares(training, before), shown) > 0.05
    distances = [total_variation(shares(training, pairs), shown) for pairs in (after, before)]
    assert distances[0] <= share_of_the_distance * distances[1]
    assert len(after) > 0.5 * len(before)
    for name, share in shares(training, after).items():
        assert share <= max_ratio * shown[name] + 1 / len(after)
