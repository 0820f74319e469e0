"""Of a product with several pictures a visit sees one, and which one follows from seed, epoch and product alone."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import DataLoader

from moonlib.batches.loading import PairBatch, PairDataset
from moonlib.batches.planner import BatchPlanner
from moonlib.batches.views import ITEM, QUERY, _mixed, drawn, view_draws
from moonlib.data.content import Task
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import Sample, SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import product_pairs, serviceable
from tests.batches.test_loading import Next, Preprocess, read_image

ITEMS = list(range(1, 13))
SHADES = {item: [str(20 * item + 3 * view) for view in range(1 + item % 4)] for item in ITEMS}
"""Products 4, 8 and 12 have one picture, the others up to four, each grey and of a shade of its own."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("dataset")
    products = pl.DataFrame(
        {
            "item_id": ITEMS,
            "spu_id": ITEMS,
            "title": [f"title {n}" for n in ITEMS],
            "category": ["c"] * 12,
            "listed_at": [datetime(2025, 1, 1, tzinfo=UTC)] * 12,
            "images": [SHADES[item] for item in ITEMS],
        }
    )
    tables = validate(Tables(products))
    write_dataset(directory, tables, read_image, Splits.all_training(products), name="t", version="1", workers=0)
    return Dataset(directory)


def loading(dataset: Dataset, path: Path, **options: object) -> tuple[PairDataset, BatchPlanner]:
    pairs, tasks = product_pairs(dataset.products), [Task.parse("image -> image")]
    batches = PairDataset(
        dataset.directory, Preprocess(), pairs, tasks, Catalogue.of(dataset.products), Quarantine(path / "q", total=12)
    )
    eligible = serviceable(pairs, tasks, dataset.products, dataset.queries)
    settings = {"seed": 5, "steps": 24} | options
    return batches, BatchPlanner(pairs, {"image -> image": 1.0}, eligible, 5, **settings)  # type: ignore[arg-type]


def shades(batch: PairBatch) -> tuple[list[int], list[int]]:
    """Shades of the pictures of queries and of items; JPEG changes them by less than 2."""
    return tuple(batch_side["image"][:, 0, 4, 4].tolist() for batch_side in (batch.query, batch.item))  # type: ignore[return-value]


def view_of(item: int, shade: int) -> int:
    near = [abs(int(name) - shade) for name in SHADES[item]]
    assert min(near) < 2, (item, shade)
    return near.index(min(near))


def test_draws_are_uniform_over_pictures_and_independent_of_each_other() -> None:
    ids, epochs = np.repeat(np.arange(-50, 50), 300), np.tile(np.arange(300), 100)
    query, item = view_draws(7, epochs, ids, QUERY), view_draws(7, epochs, ids, ITEM)
    for count in (2, 3, 5):
        for draws in (query, item):
            share = np.bincount((draws % count).astype(int)) / len(ids)
            assert np.abs(share - 1 / count).max() < 0.01
        # Over epochs a product is seen in all its pictures, and query and item meet in all combinations.
        assert (np.array([len(set((query[ids == i] % count).tolist())) for i in range(-50, 50)]) == count).all()
        both = np.bincount((query % count * count + item % count).astype(int)) / len(ids)
        assert np.abs(both - 1 / count**2).max() < 0.01
    assert (view_draws(8, epochs, ids, QUERY) != query).all()


def test_a_draw_is_a_function_of_its_own_arguments_alone() -> None:
    ids, epochs = np.array([3, -9, 2**62]), np.array([0, 4, 2])
    together = view_draws(1, epochs, ids, ITEM)
    apart = [view_draws(1, epochs[i : i + 1], ids[i : i + 1], ITEM)[0] for i in range(3)]
    assert together.tolist() == apart
    # Fixed for good: a run that is resumed by a later version goes on with the same pictures.
    assert (together % 1000).tolist() == [774, 493, 947]
    assert _mixed(np.zeros(1, np.uint64)).tolist() == [0xE220A8397B1DCDAF]  # the published first number of seed 0


def test_a_product_with_one_picture_stays_as_it_is() -> None:
    single = Sample(1, {"box": [0, 0, 1, 1]}, b"a")
    several = Sample(2, {"box": [0, 0, 1, 1]}, b"a", (b"b", b"c"))
    found = drawn([single, several], np.array([5, 4], np.uint64))
    assert found[0] is single
    assert (found[1].image, found[1].more, found[1].row["box"]) == (b"b", (), None)
    assert [sample.image for sample in drawn([single, several], None)] == [b"a", b"a"]


def test_batches_hold_the_picture_that_was_drawn(dataset: Dataset, tmp_path: Path) -> None:
    batches, planner = loading(dataset, tmp_path, negatives=())
    seen: dict[int, Counter[int]] = {item: Counter() for item in ITEMS}
    for plan in planner:
        query, item = shades(batches[plan])
        assert plan.query_views is not None and plan.item_views is not None
        for side, ids, draws in ((query, plan.query_ids, plan.query_views), (item, plan.item_ids, plan.item_views)):
            for shade, id, draw in zip(side, ids.tolist(), draws.tolist(), strict=True):
                assert view_of(id, shade) == draw % len(SHADES[id])
                seen[id][draw % len(SHADES[id])] += 1
    assert {item: len(views) for item, views in seen.items()} == {item: len(SHADES[item]) for item in ITEMS}


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_equal_for_any_number_of_workers(dataset: Dataset, tmp_path: Path, workers: int) -> None:
    batches, planner = loading(dataset, tmp_path)
    expected = [batches[plan] for plan in planner]
    loaded = list(DataLoader(batches, sampler=planner, batch_size=None, num_workers=workers))
    assert len(loaded) == len(expected) == 24
    for batch, other in zip(loaded, expected, strict=True):
        assert torch.equal(batch.query["image"], other.query["image"])
        assert torch.equal(batch.item["image"], other.item["image"])


def test_a_resumed_run_and_the_ranks_of_a_distributed_one_see_the_same_pictures(
    dataset: Dataset, tmp_path: Path
) -> None:
    _, planner = loading(dataset, tmp_path)
    plans = list(planner)
    _, resumed = loading(dataset, tmp_path, start_step=9)
    for plan, again in zip(plans[9:], resumed, strict=True):
        assert np.array_equal(plan.query_views, again.query_views) and np.array_equal(plan.item_views, again.item_views)  # type: ignore[arg-type]
    ranks = [list(loading(dataset, tmp_path, rank=rank, world_size=2)[1]) for rank in range(2)]
    for plan, first, second in zip(plans, *ranks, strict=True):
        for rank, part in enumerate((first, second)):
            assert part.query_ids.tolist() == plan.query_ids[rank::2].tolist()
            assert np.array_equal(part.query_views, plan.query_views[rank::2])  # type: ignore[index]


def test_a_product_is_seen_in_one_picture_as_an_item_of_an_epoch(dataset: Dataset, tmp_path: Path) -> None:
    """So the loader reads it once, and a negative is the picture that is the positive of another query."""
    _, planner = loading(dataset, tmp_path, negatives=[EachNext()])
    for plan in (plan for plan in planner if (plan.step + 1) * 5 % 12 >= 5):  # batches within one epoch
        assert plan.item_views is not None
        views: dict[int, set[int]] = {}
        items = np.concatenate([plan.item_ids, plan.extra_ids]).tolist()
        assert len(items) > 5
        for id, draw in zip(items, plan.item_views.tolist(), strict=True):
            views.setdefault(id, set()).add(draw)
        assert all(len(draws) == 1 for draws in views.values())


class EachNext(Next):
    def propose(self, pairs, step, rng):  # type: ignore[no-untyped-def]
        return pairs.item_id[:, None] % 12 + 1


def test_the_reader_knows_how_many_pictures_there_are(dataset: Dataset) -> None:
    reader = SampleReader(dataset.directory, "products")
    assert dict(zip(reader.ids.tolist(), reader.pictures.tolist(), strict=True)) == {
        item: len(names) for item, names in SHADES.items()
    }
