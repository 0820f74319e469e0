from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
from moonlib.center.publishing import publish, rollback
from moonlib.center.record import Record, make_record
from moonlib.center.rows import Dtype, IdType, Rows
from moonlib.center.space import Space, space_name
from moonlib.center.view import View
from moonlib.center.where import BadFilter, Where
from moonlib.center.writing import make_center, writing_to
from moonlib.representations.index import IndexKind
from moonlib.representations.store import Representations, unit

DIM = 8


class Shop:
    """A center of made-up vectors, and beside it the same products in a dict: the slow, obvious oracle."""

    def __init__(self, path: Path, ids: IdType = "int64", dtype: Dtype = "float32", dim: int = DIM) -> None:
        self.path, self.ids, self.dtype, self.dim = path, ids, dtype, dim
        make_center(path)
        directory = path / "spaces" / space_name("0123456789abcdef", dim, dtype)
        columns = {"category": "text", "price": "float", "in_stock": "boolean"}
        self.space = Space(directory, "0123456789abcdef", dim, dtype, columns)  # type: ignore[arg-type]
        directory.mkdir(parents=True)
        make_record(self.space.record)
        self.space.save()
        write_aliases(path, {"live": Alias(Target(self.space.name, 0))})
        self.products: dict[Any, tuple[NDArray[np.float32], dict[str, Any]]] = {}

    def key(self, number: int) -> Any:
        return f"SKU-{number}" if self.ids == "text" else number * 1_000_003 - 7

    def upsert(
        self,
        numbers: Sequence[int],
        vectors: NDArray[np.float32],
        columns: pl.DataFrame | None = None,
        pictured: bool = True,
    ) -> None:
        ids = pl.Series("id", [self.key(number) for number in numbers])
        store = Representations(np.arange(len(ids)), vectors.astype(np.float32)).as_type(self.dtype)
        n = len(ids)
        if columns is None:
            columns = pl.DataFrame(
                {
                    "category": [
                        "Shoes/Boots" if number % 3 else "Shoes" if number % 2 else "Bags" for number in numbers
                    ],
                    "price": [float(number) for number in numbers],
                    "in_stock": [number % 4 == 0 for number in numbers],
                }
            )
        pictures = pl.Series(
            [f"picture {number}".encode() if pictured else None for number in numbers], dtype=pl.Binary
        )
        content = np.random.default_rng(len(self.products)).integers(0, 255, (n, 16), np.uint8)
        self._append(Rows(ids, store.vectors, content, np.arange(n), np.zeros(n, bool), columns, pictures))
        for id, vector, row in zip(ids.to_list(), store.read(slice(None)), columns.to_dicts(), strict=True):
            self.products[id] = vector, row

    def delete(self, numbers: Sequence[int]) -> None:
        ids = pl.Series("id", [self.key(number) for number in numbers])
        columns = pl.DataFrame(schema={"category": pl.String, "price": pl.Float64, "in_stock": pl.Boolean})
        self._append(Rows.tombstones(ids, self.dim, self.dtype, columns, 0))
        for id in ids:
            self.products.pop(id, None)

    def _append(self, rows: Rows) -> None:
        with writing_to(self.path):
            Record(self.space, write=True).append(rows)

    def publish(self, kind: IndexKind = "flat") -> None:
        publish(self.path, Space.open(self.space.directory), kind=kind)

    def nearest(self, query: NDArray[np.float32], k: int, where: Where | None) -> list[tuple[Any, float]]:
        rows = pl.DataFrame([row for _, row in self.products.values()], schema=SCHEMA)
        mask = np.ones(len(rows), np.bool_) if where is None else where.mask(rows)
        direction = unit(query[None])[0]
        found = [
            (id, float(unit(vector[None])[0] @ direction))
            for through, (id, (vector, _)) in zip(mask, self.products.items(), strict=True)
            if through and vector.any()
        ]
        return sorted(found, key=lambda each: -each[1])[:k]

    def agrees(self, view: View, query: NDArray[np.float32], k: int, where: Where | None = None) -> None:
        """The view finds what the oracle finds, in its order but for ties."""
        found, expected = view.search(query[None], k, where), self.nearest(query, k, where)
        ids = found.ids.to_list()
        assert ids[len(expected) :] == [None] * (k - len(expected)) == found.ids.to_list()[len(expected) :]
        np.testing.assert_allclose(found.scores[0, : len(expected)], [score for _, score in expected], atol=2e-5)
        assert (found.scores[0, len(expected) :] == -np.inf).all()
        assert (found.rows[0] >= 0).tolist() == [id is not None for id in ids]
        assert len({*ids[: len(expected)]}) == len(expected)
        for id, score in zip(ids[: len(expected)], found.scores[0].tolist(), strict=False):
            vector, row = self.products[id]
            assert abs(float(unit(vector[None])[0] @ unit(query[None])[0]) - score) < 2e-5
            assert where is None or where.mask(pl.DataFrame([row], schema=SCHEMA))[0]


SCHEMA = {"category": pl.String, "price": pl.Float64, "in_stock": pl.Boolean}


def draw(seed: int, n: int, dim: int = DIM) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


FILTERS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "category": st.sampled_from(["Shoes", "Shoes > Boots", ["Bags", "Shoes/Boots"], "Hats"]),
        "price": st.dictionaries(st.sampled_from(["gte", "lt"]), st.integers(0, 12), min_size=1),
        "in_stock": st.booleans(),
    },
).map(Where)
NUMBERS = st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("upsert"), NUMBERS),
    st.tuples(st.just("upsert nothing"), NUMBERS),
    st.tuples(st.just("delete"), NUMBERS),
    st.tuples(st.just("publish"), st.sampled_from(["flat", "hnsw", "ivf"])),
    st.tuples(st.just("rollback"), st.none()),
    st.tuples(st.just("search"), FILTERS),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    steps=st.lists(STEPS, min_size=3, max_size=14),
    kind=st.sampled_from(["int64", "text"]),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
    seed=st.integers(0, 99),
    recent=st.sampled_from([1, 4, 256]),
)
def test_a_view_answers_as_a_dict_of_products_would(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, Any]],
    kind: IdType,
    dtype: Dtype,
    seed: int,
    recent: int,
) -> None:
    with mock.patch("moonlib.center.delta._RECENT", recent):
        _answers_as_a_dict(tmp_path_factory, steps, kind, dtype, seed)


def _answers_as_a_dict(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]], kind: IdType, dtype: Dtype, seed: int
) -> None:
    shop = Shop(tmp_path_factory.mktemp("center"), kind, dtype)
    view = View.open(shop.path)
    for turn, (step, what) in enumerate([*steps, ("search", None)]):
        if step == "upsert":
            shop.upsert(what, draw(100 * seed + turn, len(what)))
        elif step == "upsert nothing":
            shop.upsert(what, np.zeros((len(what), DIM), np.float32))
        elif step == "delete":
            shop.delete(what)
        elif step == "publish":
            if shop.products and all(vector.any() for vector, _ in shop.products.values()):
                shop.publish(what)
        elif step == "rollback":
            if read_aliases(shop.path)["live"].previous is not None:
                rollback(shop.path)
        else:
            view = view.refreshed()
            assert view.refreshed() is view
            for each in (view, View.open(shop.path)):
                assert len(each) == len(shop.products) == len(each.ids) == len(each.received_at)
                assert each.ids.to_list() == sorted(shop.products)
                for k in (1, 4, 20):
                    shop.agrees(each, draw(seed + 1, 1)[0], k, what)
                asked = [shop.key(number) for number in range(14)]
                vectors, rows = each.lookup(asked), each.rows(asked)
                assert each.has(asked).tolist() == [id in shop.products for id in asked]
                for id, vector, row in zip(asked, vectors, rows.to_dicts(), strict=True):
                    there = shop.products.get(id, (np.zeros(DIM), dict.fromkeys(SCHEMA)))
                    np.testing.assert_array_equal(vector, there[0])
                    assert row == {"item_id": id, **there[1]}


@pytest.fixture(scope="module", params=["hnsw", "ivf", "flat"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, View]]:
    """A published center of 4,000 products, 400 of which were replaced since, 100 deleted and 200 are new."""
    shop = Shop(tmp_path_factory.mktemp("large"), dim=16)
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((40, 16))[rng.integers(0, 40, 4200)] + 0.7 * rng.standard_normal((4200, 16))
    columns = pl.DataFrame(
        {
            "category": [f"{'ab'[i % 2]}/{i % 100}" for i in range(4200)],
            "price": rng.uniform(0, 100, 4200),
            "in_stock": [i % 3 > 0 for i in range(4200)],
        }
    )
    shop.upsert(range(4000), vectors[:4000].astype(np.float32), columns[:4000])
    shop.publish(request.param)
    shop.upsert(range(4000, 4200), vectors[4000:].astype(np.float32), columns[4000:])
    shop.upsert(range(0, 4000, 10), rng.standard_normal((400, 16)).astype(np.float32), columns[0:4000:10])
    shop.delete(range(5, 4000, 40))
    yield shop, View.open(shop.path)


@pytest.mark.parametrize(
    "where",
    [
        None,
        {"category": "a/8"},  # 1 %
        {"price": {"lt": 1}},
        {"price": {"lt": 30}},
        {"in_stock": True},
        {"in_stock": True, "category": "b"},
        {"price": {"gt": 2}},
    ],
    ids=str,
)
def test_recall_at_10_under_filters_is_at_least_95_percent(large: tuple[Shop, View], where: Any) -> None:
    shop, view = large
    chosen = None if where is None else Where(where)
    queries = np.concatenate([draw(5, 30, 16), view.lookup(view.ids[::200].to_list())])
    found, exact = view.search(queries, 10, chosen), view.search(queries, 10, chosen, exact=True)
    assert (found.scores >= exact.scores[:, -1:] - 1e-6).mean() >= 0.95
    assert found.ids.null_count() == 0
    assert set(found.ids) <= set(shop.products)
    for query, scores in zip(queries[:3], exact.scores, strict=False):  # the exact search finds what the oracle finds
        np.testing.assert_allclose(scores, [score for _, score in shop.nearest(query, 10, chosen)], atol=1e-5)


def test_a_filter_for_what_lies_far_from_the_query_fills_k(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "center")
    rng = np.random.default_rng(0)
    near, far = np.eye(DIM)[0], -np.eye(DIM)[0]
    n = 12_000
    vectors = np.where(np.arange(n)[:, None] % 2, far, near) + 0.05 * rng.standard_normal((n, DIM))
    columns = pl.DataFrame(
        {"category": ["far" if i % 2 else "near" for i in range(n)], "price": [0.0] * n, "in_stock": [True] * n}
    )
    shop.upsert(range(n), vectors.astype(np.float32), columns)
    shop.publish("hnsw")
    view, where = View.open(shop.path), Where({"category": "far"})
    query = near[None].astype(np.float32)
    found, exact = view.search(query, 10, where), view.search(query, 10, where, exact=True)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)
    assert found.ids.to_list() == exact.ids.to_list()


def test_k_answers_are_found_where_there_are_so_many(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.upsert(range(1500), np.repeat(draw(30, 750), 2, axis=0))
    shop.publish("hnsw")
    view = View.open(tmp_path)
    for k in (1000, 1500):
        found = view.search(draw(31, 5), k)
        assert (found.rows >= 0).all()
        assert all(len(np.unique(rows)) == k for rows in found.rows)
    found = view.search(draw(31, 5), 10_000)
    assert found.scores.shape == (5, 10_000)
    assert (found.rows >= 0).sum(axis=1).tolist() == [1500] * 5
    assert found.ids.null_count() == 5 * 8500


def test_many_threads_get_the_answers_of_one(large: tuple[Shop, View]) -> None:
    _, view = large
    queries = draw(8, 24, 16)
    filters = [None, Where({"category": "a/8"}), Where({"in_stock": True}), Where({"price": {"lt": 30}})]
    alone = [[view.search(query[None], 5, where).ids.to_list() for query in queries] for where in filters]
    fresh, failed = View.open(view.center), []
    before = faiss.omp_get_max_threads()

    def read(thread: int) -> None:
        try:
            threads = faiss.omp_get_max_threads()
            for turn in range(2):
                for number, where in enumerate(filters[thread % 4 :] + filters[: thread % 4]):
                    expected = alone[(number + thread) % 4]
                    for query, ids in zip(queries, expected, strict=True):
                        assert fresh.search(query[None], 5, where).ids.to_list() == ids, (turn, where)
            assert faiss.omp_get_max_threads() == threads
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert faiss.omp_get_max_threads() == before


def test_a_view_stays_as_it_was_while_newer_ones_are_made(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "center", dtype="int8")
    shop.upsert(range(6), draw(1, 6))
    old = View.open(shop.path)
    ids, found = old.ids.to_list(), old.search(draw(2, 1), 10)
    pictures = [old.picture(id) for id in ids]
    before = found.ids.to_list(), found.scores.tolist(), old.lookup(ids).tolist(), old.rows(ids).rows()
    for turn in range(9):
        shop.upsert([turn % 6, 100 + turn], draw(50 + turn, 2))
        shop.delete([(turn + 1) % 6])
        if turn % 4 == 3:
            shop.publish("hnsw")
        newest = old.refreshed()
    again = old.search(draw(2, 1), 10)
    assert (again.ids.to_list(), again.scores.tolist(), old.lookup(ids).tolist(), old.rows(ids).rows()) == before
    assert [old.picture(id) for id in ids] == pictures == [f"picture {number}".encode() for number in range(6)]
    assert newest.snapshot > old.snapshot == 0 and newest.sequence > old.sequence
    shop.agrees(newest, draw(2, 1)[0], 10)
    assert newest.picture(shop.key(108)) == b"picture 108" and newest.picture(shop.key(999)) is None


def test_which_products_have_a_picture_and_which_columns_a_value(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "center", dtype="int8")
    schema = {"category": pl.String, "price": pl.Float64, "in_stock": pl.Boolean}
    row = pl.DataFrame({"category": ["Bags"], "price": [None], "in_stock": [None]}, schema=schema)
    shop.upsert(range(3), draw(1, 3), pl.concat([row] * 3))
    shop.upsert([1, 7], draw(2, 2), pl.concat([row] * 2), pictured=False)

    def view() -> View:
        found = View.open(shop.path)
        near = found.search(draw(3, 1), len(found))
        pictures = [found.picture(id) is not None for id in near.ids]
        assert found.pictured(near.rows[0]).tolist() == pictures
        assert sum(pictures) == len(found) - 2
        return found

    assert view().filled == ["category"]
    shop.publish("flat")
    assert view().filled == ["category"]
    shop.upsert([8], draw(4, 1), row.with_columns(price=pl.lit(3.0)))
    assert view().filled == ["category", "price"]


def test_bad_questions_are_refused_with_what_is_wrong(large: tuple[Shop, View]) -> None:
    _, view = large
    with pytest.raises(ValueError, match=r"vectors are \[1, 3\]; those of .*-16-float32 are \[q, 16\]"):
        view.search(np.ones((1, 3)), 3)
    for bad in (0.0, np.nan, np.inf):
        queries = draw(1, 3, 16)
        queries[1] = bad
        with pytest.raises(ValueError, match="vector 1 is all zeros, or has values that are not finite"):
            view.search(queries, 3)
    with pytest.raises(ValueError, match="k 0: ask for at least 1"):
        view.search(draw(1, 1, 16), 0)
    with pytest.raises(BadFilter, match="unknown column 'colour'; columns to filter by: category, price, in_stock"):
        view.search(draw(1, 1, 16), 3, Where({"colour": "red"}))
    with pytest.raises(ValueError, match=r"those of .* are int64"):
        view.lookup(["SKU-1"])
