from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from moonlib.clicks.features import Features
from moonlib.clicks.impressions import BatchRows, ImpressionBatch, Impressions, ItemFeatures, Lookups, Vocabularies
from moonlib.clicks.vocabulary import Vocabulary
from moonlib.data.dataset import Dataset
from moonlib.representations.store import Representations


@pytest.fixture(scope="module")
def stores(tiny: Dataset) -> tuple[Representations, Representations]:
    rng = np.random.default_rng(0)
    items, queries = tiny.products["item_id"].to_numpy(), tiny.queries["query_id"].to_numpy()
    # One product in three has no representation.
    items = items[np.arange(len(items)) % 3 > 0]
    return tuple(  # type: ignore[return-value]
        Representations(ids, rng.standard_normal((len(ids), 4), dtype=np.float32)) for ids in (items, queries)
    )


@pytest.fixture(scope="module")
def impressions(tiny: Dataset, stores: tuple[Representations, Representations]) -> Impressions:
    rows = tiny.splits.select(tiny.impressions, "test")
    vocabularies = Vocabularies.of(tiny, tiny.splits.select(tiny.impressions, "train"))
    return Impressions(rows, Lookups.of(tiny, vocabularies, *stores), history=6, query_history=3)


def test_histories_and_vectors_by_a_loop(
    tiny: Dataset, impressions: Impressions, stores: tuple[Representations, Representations]
) -> None:
    products, _ = stores
    vector = {int(i): v for i, v in zip(products.ids, products.vectors, strict=True)}
    rows = tiny.splits.select(tiny.impressions, "test")[:200]
    batch = impressions[np.arange(200)]
    searches = tiny.searches.sort("ts").select("search_id", "user_id", "item_id", "ts").rows()
    rows_of = impressions.items.rows
    assert rows_of[-1] == 0
    longest = 0
    for b, row in enumerate(rows.iter_rows(named=True)):
        seen: dict[tuple[int, int], None] = {}
        for search, user, item, ts in searches:
            if user == row["user_id"] and ts < row["ts"] and search != row["search_id"]:
                seen.setdefault((search, item))
        expected = [item for _, item in reversed(seen)][:6]
        assert batch.history_mask[b].sum() == len(expected)
        longest = max(longest, len(expected))
        known = [item in vector for item in expected]
        assert batch.history_known[b, : len(expected)].tolist() == known
        for place, item in enumerate(expected):
            np.testing.assert_array_equal(batch.history_vectors[b, place], vector.get(item, np.zeros(4)))
        assert batch.target_known[b] == (row["item_id"] in vector)
        assert batch.clicked[b] == row["clicked"]
    assert longest > 2
    assert not batch.history_vectors[~batch.history_known].any()


def test_products_first_listed_after_training_share_the_unknown_row(tiny: Dataset, impressions: Impressions) -> None:
    rows = tiny.splits.select(tiny.impressions, "test")
    listed = dict(tiny.products.select("item_id", "listed_at").iter_rows())
    new = np.array([listed[item] >= tiny.splits.train_until for item in rows["item_id"]])
    batch = impressions[np.arange(len(rows))]
    assert new.any()
    assert not batch.target[torch.from_numpy(new)].any()
    assert batch.target[torch.from_numpy(~new)].any()


def test_without_representations_vectors_have_no_width(tiny: Dataset) -> None:
    rows = tiny.splits.select(tiny.impressions, "test")
    vocabularies = Vocabularies.of(tiny, rows)
    lookups = Lookups.of(tiny, vocabularies, products=None, queries=None)
    batch = Impressions(rows, lookups, history=2, query_history=2)[np.arange(5)]
    assert isinstance(batch, ImpressionBatch)
    assert batch.history_vectors.shape == (5, 2, 0)
    assert not batch.target_known.any()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_each_batch_and_an_epoch_reads_every_row_once(world_size: int) -> None:
    one = list(BatchRows(103, 10, seed=5))
    ranks = [list(BatchRows(103, 10, 5, rank, world_size)) for rank in range(world_size)]
    for step, batch in enumerate(one):
        assert sorted(np.concatenate([rank[step] for rank in ranks])) == sorted(batch)
    assert sorted(np.concatenate(one)) == list(range(103))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    rows = BatchRows(50, 50, seed=5)
    first = next(iter(rows))
    np.testing.assert_array_equal(first, next(iter(BatchRows(50, 50, seed=5))))
    rows.set_epoch(1)
    assert (next(iter(rows)) != first).any()


def test_a_product_without_price_or_merchant_has_the_mean_price_and_the_unknown_merchant(tiny: Dataset) -> None:
    vocabularies = Vocabularies.of(tiny, tiny.splits.select(tiny.impressions, "train"))
    place = pl.int_range(pl.len())
    products = tiny.products.sort("item_id").with_columns(
        price=pl.when(place == 0).then(float("nan")).when(place == 1).then(None).otherwise(pl.col("price")),
        merchant_id=pl.when(place == 0).then(None).when(place == 1).then(0).otherwise(pl.col("merchant_id")),
    )
    known = Vocabularies(
        vocabularies.user,
        vocabularies.item,
        vocabularies.query,
        vocabularies.category,
        Vocabulary(products["merchant_id"].drop_nulls().to_numpy()),
    )
    items = ItemFeatures(products, known, tiny.splits.train_until)
    assert np.isfinite(items.price).all()
    assert items.price[0] == items.price[1] != items.price[2]
    assert items.merchant[0] == 0 and (items.merchant[1:] > 0).all()


def test_histories_of_a_search_unit_are_those_most_like_the_target(
    tiny: Dataset, stores: tuple[Representations, Representations], impressions: Impressions
) -> None:
    rows = tiny.splits.select(tiny.impressions, "test")
    vocabularies = Vocabularies.of(tiny, tiny.splits.select(tiny.impressions, "train"))
    lookups = Lookups.of(tiny, vocabularies, *stores)
    whole = Impressions(rows, lookups, history=40, query_history=3)
    found = Impressions(rows, lookups, history=40, query_history=3, similarity_topk=5)
    asked = np.arange(300)
    all_of, kept = whole[asked], found[asked]
    assert kept.history.shape == (300, 5)
    chosen = 0
    for b in range(300):
        cosine = torch.cosine_similarity(all_of.target_vector[b], all_of.history_vectors[b], dim=1)
        known = all_of.history_known[b] & all_of.target_known[b]
        rank = torch.where(known, cosine, -2 - torch.arange(40) / 40).masked_fill(~all_of.history_mask[b], -torch.inf)
        best = rank.sort(descending=True, stable=True)
        expected = sorted(best.indices[:5][best.values[:5] > -torch.inf].tolist())
        assert kept.history_mask[b].sum() == len(expected)
        # The same product acted upon twice has the same cosine twice, and either may be kept.
        found_rows, wanted_rows = kept.history[b][kept.history_mask[b]], all_of.history[b][expected]
        assert found_rows.sort().values.tolist() == wanted_rows.sort().values.tolist()
        for place, row in enumerate(found_rows):
            same = all_of.history_vectors[b][all_of.history[b] == row]
            assert (same == kept.history_vectors[b, place]).all(dim=1).any()
        chosen += len(expected) == 5 and expected != [0, 1, 2, 3, 4]
    assert chosen > 10


def test_queries_of_one_text_are_one_and_what_was_asked_once_is_unknown(tiny: Dataset) -> None:
    rows = tiny.splits.select(tiny.impressions, "train")
    vocabularies = Vocabularies.of(tiny, rows)
    lookups = Lookups.of(tiny, vocabularies, products=None, queries=None)
    batch = Impressions(rows, lookups, history=2, query_history=4)[np.arange(len(rows))]
    text = rows.join(tiny.queries, on="query_id", how="left", maintain_order="left").select("text", "image")
    row_of: dict[str, set[int]] = {}
    for (words, image), row in zip(text.iter_rows(), batch.query.tolist(), strict=True):
        if image is None:
            row_of.setdefault(words, set()).add(row)
        else:
            assert row == 0
    assert all(len(rows) == 1 for rows in row_of.values())
    known = [row for rows in row_of.values() for row in rows if row]
    assert known and len(known) == len(set(known))
    assert (batch.query_history[batch.query_history_mask] >= 0).all()
    assert not batch.query_history[~batch.query_history_mask].any()


def test_a_batch_moves_with_all_that_it_holds(tiny: Dataset) -> None:
    rows = tiny.splits.select(tiny.impressions, "train")
    features = Features.fit(tiny, rows, {"products.price": "numeric", "products.region": "categorical"}, 1, None)
    vocabularies = Vocabularies.of(tiny, rows)
    lookups = Lookups.of(tiny, vocabularies, products=None, queries=None)
    batch = Impressions(rows, lookups, history=3, query_history=2, features=features)[np.arange(4)]
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert moved.features is not None and batch.features is not None
    for there, here in ((moved, batch), (moved.features, batch.features)):
        for name, part in vars(here).items():
            if isinstance(part, torch.Tensor):
                assert getattr(there, name).is_meta and getattr(there, name).shape == part.shape
