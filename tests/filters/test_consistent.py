from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import isqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moonlib.data.tables import ACTIONS, Action, Tables, validate
from moonlib.filters import consistent
from moonlib.filters.consistent import Consistent
from moonlib.filters.filter import Encoded
from moonlib.representations.store import Representations
from moonlib.testing import check_filter

# Of whole length, so that cosines are fractions; `None` stands for no representation, zeros for nothing to represent.
VECTORS = [(1, 0), (0, 1), (2, 0), (3, 4), (4, 3), (-1, 0), (0, -5), (0, 0), None]
ITEMS = [-(2**63), 2, 5, 2**63 - 1]
vector = st.sampled_from(VECTORS)
Vector = tuple[int, int] | None


def stored(vectors: dict[int, Vector]) -> Representations:
    known = {key: v for key, v in vectors.items() if v is not None}
    return Representations(
        np.array(list(known), dtype=np.int64), np.array(list(known.values()), dtype=np.float32).reshape(-1, 2)
    )


def cosine(a: tuple[int, int], b: tuple[int, int]) -> Fraction:
    return Fraction(a[0] * b[0] + a[1] * b[1], isqrt(a[0] ** 2 + a[1] ** 2) * isqrt(b[0] ** 2 + b[1] ** 2))


def with_actions(tables: Tables, actions: list[Action], no_query: list[bool] | None = None) -> Tables:
    searches = tables.searches.with_columns(action=pl.Series(actions, dtype=pl.String))
    if no_query is not None:
        hidden = pl.Series(no_query, dtype=pl.Boolean)
        searches = searches.with_columns(query_id=pl.when(hidden).then(None).otherwise("query_id"))
    return replace(tables, searches=searches)


def test_keeps_the_promises_of_a_filter() -> None:
    check_filter(Consistent)
    check_filter(lambda: Consistent(top=2, trusted=[]))


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.tuples(st.integers(-2, 3), st.sampled_from(ITEMS), st.sampled_from(ACTIONS), st.booleans()), max_size=16
    ),
    products=st.fixed_dictionaries(dict.fromkeys(ITEMS, vector)),
    queries=st.fixed_dictionaries(dict.fromkeys(range(-2, 4), vector)),
    top=st.integers(1, 4),
    trusted=st.sampled_from([[], ["order"], ["cart", "order"]]),
)
def test_equals_the_definition(
    make_tables: Callable[..., Tables],
    monkeypatch: pytest.MonkeyPatch,
    events: list[tuple[int, int, Action, bool]],
    products: dict[int, Vector],
    queries: dict[int, Vector],
    top: int,
    trusted: list[Action],
) -> None:
    monkeypatch.setattr(consistent, "QUERIES_AT_ONCE", 2)
    tables = with_actions(
        make_tables({item: {} for item in ITEMS}, [(query, item, 0) for query, item, *_ in events]),
        [action for *_, action, _ in events],
        [blank for *_, blank in events],
    )
    trusts = {(query, item) for query, item, action, blank in events if action in trusted and not blank}
    expected, removed = [], Counter[str]()
    for number, (query, item, _, blank) in enumerate(events):
        asked = queries[query]
        others = {key: v for key, v in products.items() if v is not None and any(v)}
        found: list[int] = []
        if asked is not None and any(asked):
            found = sorted(others, key=lambda key, asked=asked: (-cosine(asked, others[key]), key))[:top]  # type: ignore[misc]
        if blank or (query, item) in trusts:
            expected.append(number)
        elif query in {of for of, _ in trusts}:
            removed[f"the query led to another product's {' or '.join(trusted)}"] += 1
        elif item in found:
            expected.append(number)
        else:
            removed[f"not among the query's {top} nearest products"] += 1

    result = Consistent(top, trusted)(tables, Encoded(stored(products), stored(queries)))

    assert result.tables.searches["search_id"].to_list() == expected
    assert result.removed == ({"searches": dict(removed)} if removed else {})


def test_of_the_marketplaces_clicks_those_found_again_are_of_the_product_in_mind(
    training: Tables, truth: Callable[[str], pl.DataFrame]
) -> None:
    def noisy(frame: pl.DataFrame, key: str, seed: int) -> Representations:
        latents = frame["latent"].explode().to_numpy().reshape(len(frame), -1)
        noise = np.random.default_rng(seed).normal(scale=0.5 * latents.std(), size=latents.shape)
        return Representations(frame[key].to_numpy(), (latents + noise).astype(np.float32))

    encoded = Encoded(noisy(truth("products"), "item_id", 0), noisy(truth("queries"), "query_id", 1))
    result = Consistent(top=3)(training, encoded)
    validate(result.tables)

    wanted = truth("queries").select("query_id", wanted="spu_id")
    ordered = training.searches.filter(pl.col("action") == "order").select("query_id")

    def right(searches: pl.DataFrame) -> float:
        doubtful = searches.drop_nulls("query_id").join(ordered, on="query_id", how="anti")
        pairs = doubtful.join(wanted, on="query_id").join(training.products.select("item_id", "spu_id"), on="item_id")
        assert len(pairs) > 20
        return float((pairs["spu_id"] == pairs["wanted"]).to_numpy().mean())

    assert right(result.tables.searches) > right(training.searches) + 0.2


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="top must be at least 1"):
        Consistent(top=0)
    with pytest.raises(ValueError, match="'buy' is none of click, cart, order"):
        Consistent(trusted=["buy"])  # type: ignore[list-item]


def test_needs_representations(make_tables: Callable[..., Tables]) -> None:
    with pytest.raises(ValueError, match="representations"):
        Consistent()(make_tables({1: {}}, [(1, 1, 0)]))
