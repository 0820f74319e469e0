from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moonlib.data.tables import Tables, validate
from moonlib.filters import similarity_dedup
from moonlib.filters.filter import Encoded
from moonlib.filters.similarity_dedup import SimilarityDedup, pair_cosines
from moonlib.representations.store import Representations
from moonlib.testing import check_filter

LOWEST, HIGHEST = -(2**63), 2**63 - 1
SPU_OF = {LOWEST: 1, 2: 1, HIGHEST: 2, 4: 3}

# Of whole length, so that cosines are fractions; `None` stands for no representation, zeros for nothing to represent.
VECTORS = [(1, 0), (0, 1), (2, 0), (3, 4), (4, 3), (-1, 0), (0, -5), (0, 0), None]
vector = st.sampled_from(VECTORS)
rows = st.lists(st.tuples(st.integers(-2, 3), st.sampled_from(list(SPU_OF)), st.integers(0, 1)), max_size=16)


def stored(vectors: dict[int, tuple[int, int] | None]) -> Representations:
    known = {key: v for key, v in vectors.items() if v is not None}
    return Representations(
        np.array(list(known), dtype=np.int64), np.array(list(known.values()), dtype=np.float32).reshape(-1, 2)
    )


def cosine(a: tuple[int, int] | None, b: tuple[int, int] | None) -> Fraction | None:
    if a is None or b is None or not any(a) or not any(b):
        return None
    return Fraction(a[0] * b[0] + a[1] * b[1], math.isqrt(a[0] ** 2 + a[1] ** 2) * math.isqrt(b[0] ** 2 + b[1] ** 2))


def test_keeps_the_promises_of_a_filter() -> None:
    check_filter(SimilarityDedup)
    check_filter(lambda: SimilarityDedup(share=0.5, per="spu"))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=rows,
    products=st.fixed_dictionaries(dict.fromkeys(SPU_OF, vector)),
    queries=st.fixed_dictionaries(dict.fromkeys(range(-2, 4), vector)),
    keep=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    per=st.sampled_from(["item", "spu"]),
)
def test_equals_the_definition(
    make_tables: Callable[..., Tables],
    monkeypatch: pytest.MonkeyPatch,
    events: list[tuple[int, int, int]],
    products: dict[int, tuple[int, int] | None],
    queries: dict[int, tuple[int, int] | None],
    keep: int,
    share: float,
    per: Literal["item", "spu"],
) -> None:
    monkeypatch.setattr(similarity_dedup, "PAIRS_AT_ONCE", 3)
    tables = make_tables({item: {"spu_id": spu} for item, spu in SPU_OF.items()}, events)
    groups: dict[int, list[tuple[Fraction, int, int]]] = defaultdict(list)
    stay = set()
    for query, item in {(query, item) for query, item, _ in events}:
        similarity = cosine(queries[query], products[item])
        if similarity is None:
            stay.add((query, item))
        else:
            groups[item if per == "item" else SPU_OF[item]].append((similarity, query, item))
    for group in groups.values():
        kept = max(keep, math.ceil(share * len(group)))
        stay |= {(query, item) for _, query, item in sorted(group)[:kept]}

    result = SimilarityDedup(keep, share, per)(tables, Encoded(stored(products), stored(queries)))

    expected = [n for n, (query, item, _) in enumerate(events) if (query, item) in stay]
    assert result.tables.searches["search_id"].to_list() == expected
    gone = len(events) - len(expected)
    assert result.removed == ({"searches": {f"the {per} has less similar queries": gone}} if gone else {})


def test_nothing_is_known_so_nothing_goes(make_tables: Callable[..., Tables]) -> None:
    tables = make_tables({1: {}, 2: {}}, [(1, 1, 0), (2, 1, 0), (3, 2, 0)])
    nothing = Representations(np.array([], dtype=np.int64), np.zeros((0, 2), dtype=np.float32))
    assert not SimilarityDedup()(tables, Encoded(nothing, nothing)).removed


def latents(frame: pl.DataFrame, key: str) -> Representations:
    return Representations(frame[key].to_numpy(), frame["latent"].explode().to_numpy().reshape(len(frame), -1))


def test_of_the_marketplaces_true_latents_the_least_similar_query_of_each_item_stays(
    training: Tables, truth: Callable[[str], pl.DataFrame], tmp_path: Path
) -> None:
    latents(truth("products"), "item_id").save(tmp_path, "products")
    latents(truth("queries"), "query_id").save(tmp_path, "queries")
    encoded = Encoded(Representations.open(tmp_path, "products"), Representations.open(tmp_path, "queries"))
    result = SimilarityDedup()(training, encoded)
    validate(result.tables)

    item_latent = dict(truth("products").select("item_id", "latent").iter_rows())
    query_latent = dict(truth("queries").select("query_id", "latent").iter_rows())
    ranked: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for query, item in sorted(set(training.searches.select("query_id", "item_id").drop_nulls("query_id").iter_rows())):
        a, b = np.array(query_latent[query]), np.array(item_latent[item])
        # Photos and texts that tell the same have the same latent; a ninth digit would break their tie by rounding.
        similarity = round(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), 6) if a.any() else math.inf
        ranked[item].append((similarity, query))
    left = dict(result.tables.searches.select("item_id", "query_id").drop_nulls("query_id").unique().iter_rows())
    assert left == {item: min(pairs)[1] for item, pairs in ranked.items()}
    assert np.mean([len(pairs) for pairs in ranked.values()]) > 5


def test_cosines_are_bounded_and_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 33), dtype=np.float32)
    ids = np.arange(50)
    same = Encoded(Representations(ids, vectors), Representations(ids, 7 * vectors))
    assert pair_cosines(same, ids, ids) == pytest.approx(np.ones(50)) and pair_cosines(same, ids, ids).max() <= 1
    whole = pair_cosines(same, ids, ids[::-1])
    monkeypatch.setattr(similarity_dedup, "PAIRS_AT_ONCE", 8)
    assert np.array_equal(pair_cosines(same, ids, ids[::-1]), whole)


@pytest.mark.parametrize(("arguments", "message"), [({"keep": 0}, "keep must be"), ({"share": 1.5}, "share must be")])
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimilarityDedup(**arguments)


def test_needs_representations(make_tables: Callable[..., Tables]) -> None:
    with pytest.raises(ValueError, match="needs their representations"):
        SimilarityDedup()(make_tables({1: {}}, [(1, 1, 0)]))
