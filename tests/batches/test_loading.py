"""Batches are what their plans say, however many workers load them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from moonlib.batches.loading import PairBatch, PairDataset, give_way
from moonlib.batches.planner import BatchPlanner
from moonlib.data.content import Content, Side, Task
from moonlib.data.dataset import BrokenShard, Dataset
from moonlib.data.images import decode_image
from moonlib.data.quarantine import Quarantine, TooManyUnreadable
from moonlib.data.reader import SampleReader
from moonlib.data.shards import write_dataset
from moonlib.data.splits import Splits
from moonlib.data.tables import Tables, validate
from moonlib.encoders.encoder import ContentBatch
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs, product_pairs, search_pairs, serviceable
from moonlib.testing.data import forget_checksums

DAY = datetime(2025, 1, 1, tzinfo=UTC)
ITEMS = [10 * n - (2**62 if n % 2 else 0) for n in range(12)]
QUERIES = [7, 3, 5, 4]
LED_TO = {7: [0, 1], 3: [2], 5: [0, 3, 4], 4: [5]}


def grey(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level, level)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def read_image(table: str, name: str) -> bytes:
    return grey(int(name))


class Preprocess:
    """Images of 8 x 8 pixels and the letters of the text."""

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        image = torch.zeros(len(contents), 3, 8, 8, dtype=torch.uint8)
        text = torch.zeros(len(contents), 12, dtype=torch.int64)
        for row, content in enumerate(contents):
            if content.image is not None:
                image[row] = decode_image(content.image, size=8)
            letters = (content.text or "").encode()[:12]
            text[row, : len(letters)] = torch.tensor(list(letters), dtype=torch.int64)
        return {"image": image, "text": text, "product": torch.tensor([side == "product"] * len(contents))}


class Views(Preprocess):
    """The upper left quarter of an image of odd shade beside the whole; there is no such quarter in the others."""

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        batch = super().__call__(contents, side)
        subject = torch.zeros_like(batch["image"])
        for row, content in enumerate(contents):
            if content.image is not None and (content.text or "").endswith(("1", "3")):
                subject[row] = decode_image(content.image, (0, 0, 0.5, 0.5), size=8)
        return batch | {"subject": subject}


class Next(NegativeSampler):
    """Asks for the product listed after each positive, and for product 11."""

    def propose(self, pairs: Pairs, step: int, rng: np.random.Generator) -> Any:
        after = [ITEMS[(ITEMS.index(item) + 1) % 12] for item in pairs.item_id.tolist()]
        return np.stack([after, np.full(len(after), ITEMS[11])], axis=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("dataset")
    products = pl.DataFrame(
        {
            "item_id": ITEMS,
            "spu_id": [n // 2 for n in range(12)],
            "title": [f"title {n}" for n in range(12)],
            "category": [f"Home/{'Mugs' if n < 6 else 'Lamps'}" for n in range(12)],
            "listed_at": [DAY] * 12,
            "image": [str(20 * n + 10) for n in range(12)],
        }
    )
    queries = pl.DataFrame(
        {"query_id": QUERIES, "text": [f"query {n}" for n in range(4)], "image": ["5", "85", "165", "245"]}
    )
    events = [(query, ITEMS[n]) for query, items in LED_TO.items() for n in items]
    searches = pl.DataFrame(
        {
            "search_id": [query for query, _ in events],
            "user_id": [1] * len(events),
            "query_id": [query for query, _ in events],
            "item_id": [item for _, item in events],
            "action": ["order"] * len(events),
            "ts": [DAY] * len(events),
        }
    )
    tables = validate(Tables(products, queries, pl.DataFrame({"user_id": [1]}), searches))
    splits = Splits.all_training(products)
    write_dataset(directory, tables, read_image, splits, name="test", version="1", workers=0, samples_per_shard=5)
    return Dataset(directory)


def loading(
    dataset: Dataset, path: Path, task: str = "image -> title", pairs: Pairs | None = None, **options: Any
) -> tuple[PairDataset, BatchPlanner]:
    pairs = pairs or search_pairs(dataset.searches)
    tasks = [Task.parse(word) for word in task.split(",")]
    quarantine = Quarantine(path / "quarantine.jsonl", total=16, floor=options.pop("floor", 10))
    loaded = PairDataset(
        dataset.directory,
        options.pop("preprocess", Preprocess()),
        pairs,
        tasks,
        Catalogue.of(dataset.products),
        quarantine,
        augment=options.pop("augment", 0.0),
    )
    eligible = serviceable(pairs, tasks, dataset.products, dataset.queries)
    weights = {str(task): 1.0 for task in tasks}
    return loaded, BatchPlanner(
        pairs, weights, eligible, options.pop("batch_size", 4), **{"seed": 0, "steps": 6, **options}
    )


def words(rows: Tensor) -> list[str]:
    return [bytes(row[row > 0].tolist()).decode() for row in rows]


def shade(images: Tensor) -> list[int]:
    return [round(float(image.float().mean())) for image in images]


def test_search_pairs_load_what_the_plan_says(dataset: Dataset, tmp_path: Path) -> None:
    loaded, plans = loading(dataset, tmp_path, negatives=[Next()])
    for plan in plans:
        batch = loaded[plan]
        expected = plan.item_ids.tolist() + plan.extra_ids.tolist()
        numbers = [ITEMS.index(item) for item in expected]
        assert batch.item_id.tolist() == expected
        assert batch.spu_id.tolist() == [n // 2 for n in numbers]
        assert batch.category.tolist() == [1 if n < 6 else 0 for n in numbers]
        assert words(batch.item["text"]) == [f"title {n}" for n in numbers]
        assert not batch.item["image"].any() and batch.item["product"].all()
        assert shade(batch.query["image"]) == pytest.approx(
            [5 + 80 * QUERIES.index(query) for query in plan.query_ids.tolist()], abs=2
        )
        assert not batch.query["text"].any() and not batch.query["product"].any()
        for q, query in enumerate(plan.query_ids.tolist()):
            assert set(batch.positive_ids[q].tolist()) == {ITEMS[n] for n in LED_TO[query]}
            spus = [ITEMS.index(item) // 2 for item in batch.positive_ids[q].tolist()]
            assert batch.positive_spus[q].tolist() == spus


def test_each_row_reads_what_its_own_task_reads(dataset: Dataset, tmp_path: Path) -> None:
    loaded, plans = loading(dataset, tmp_path, "image -> title,text -> image", negatives=[Next()])
    seen = set()
    for plan in plans:
        batch = loaded[plan]
        assert batch.task.tolist() == plan.task.tolist()
        assert batch.query["image"].flatten(1).any(1).tolist() == (plan.task == 0).tolist()
        assert batch.query["text"].any(1).tolist() == (plan.task == 1).tolist()
        of_item = np.concatenate([plan.task, plan.task.repeat(2)])
        assert batch.item["text"].any(1).tolist() == (of_item == 0).tolist()
        assert batch.item["image"].flatten(1).any(1).tolist() == (of_item == 1).tolist()
        seen.update(plan.task.tolist())
    assert seen == {0, 1}


def test_products_as_queries_are_read_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = SampleReader.read

    def counted(self: SampleReader, ids: Any) -> Any:
        read.extend(ids.tolist())
        return original(self, ids)

    monkeypatch.setattr(SampleReader, "read", counted)
    loaded, plans = loading(dataset, tmp_path, pairs=product_pairs(dataset.products), batch_size=12, steps=1)
    batch = loaded[next(iter(plans))]
    assert sorted(read) == sorted(ITEMS)
    assert batch.query["product"].all()
    numbers = [ITEMS.index(item) for item in batch.item_id.tolist()]
    assert words(batch.item["text"]) == [f"title {n}" for n in numbers]
    assert shade(batch.query["image"]) == pytest.approx([20 * n + 10 for n in numbers], abs=2)
    assert batch.positive_ids.tolist() == batch.item_id[:, None].tolist()


def tensors(batch: PairBatch) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in vars(batch).items():
        flat.update(
            {f"{name}.{key}": tensor for key, tensor in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def equal(left: PairBatch, right: PairBatch) -> bool:
    a, b = tensors(left), tensors(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_workers_do_not_change_the_batches(dataset: Dataset, tmp_path: Path) -> None:
    loaded, plans = loading(dataset, tmp_path, "image -> title+image,text -> image", augment=1.0, negatives=[Next()])
    alone, one, two = (
        list(DataLoader(loaded, sampler=plans, batch_size=None, num_workers=workers)) for workers in (0, 1, 2)
    )
    assert len(alone) == len(one) == len(two) == 6
    assert all(equal(a, b) and equal(a, c) for a, b, c in zip(alone, one, two, strict=True))


def test_the_dataset_survives_pickling(dataset: Dataset, tmp_path: Path) -> None:
    loaded, plans = loading(dataset, tmp_path, augment=1.0)
    again = pickle.loads(pickle.dumps(loaded))
    assert all(equal(loaded[plan], again[plan]) for plan in plans)


def test_augmentation_is_new_in_each_step_and_leaves_missing_images_alone(dataset: Dataset, tmp_path: Path) -> None:
    plain, plans = loading(dataset, tmp_path, "image -> title,title -> image")
    varied, _ = loading(dataset, tmp_path, "image -> title,title -> image", augment=1.0)
    plan = next(plan for plan in plans if len(set(plan.task.tolist())) == 2)
    later = replace(plan, seed=plan.seed + 1)
    before, first, second = plain[plan], varied[plan], varied[later]
    there = torch.from_numpy(plan.task == 0)
    assert not torch.equal(before.query["image"][there], first.query["image"][there])
    assert not torch.equal(first.query["image"][there], second.query["image"][there])
    assert not first.query["image"][~there].any()
    assert torch.equal(before.query["text"], first.query["text"])


def test_augmentation_varies_a_subject_by_draws_of_its_own(dataset: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"augment": 1.0, "negatives": [Next()]}
    one_view, plans = loading(dataset, tmp_path, "image -> title+image", **options)
    loaded, _ = loading(dataset, tmp_path, "image -> title+image", preprocess=Views(), **options)
    plain, _ = loading(dataset, tmp_path, "image -> title+image", preprocess=Views())
    for plan in plans:
        batch, before = loaded[plan], plain[plan]
        there = before.item["subject"].flatten(1).any(dim=1).bool()
        assert there.any() and not there.all()
        assert not batch.item["subject"][~there].any()
        changed = (batch.item["subject"] != before.item["subject"]).flatten(1).any(dim=1)
        assert changed.tolist() == there.tolist()
        # The pictures are of one shade: equal draws would have given equal views.
        assert not torch.equal(batch.item["subject"][there], batch.item["image"][there])
        # The whole image is varied as it would be without a subject beside it.
        assert torch.equal(batch.query["image"], one_view[plan].query["image"])
    alone, two = (list(DataLoader(loaded, sampler=plans, batch_size=None, num_workers=workers)) for workers in (0, 2))
    assert all(equal(a, b) for a, b in zip(alone, two, strict=True))


def damage(dataset: Dataset, copied: Path, table: str, ids: Sequence[int]) -> Dataset:
    """Copy a dataset and overwrite the middle of some images, of which their checksums know nothing."""
    for file in dataset.directory.rglob("*"):
        if file.is_file():
            target = copied / file.relative_to(dataset.directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    forget_checksums(copied)
    for index in sorted((copied / "shards").glob(f"{table}-*.arrow")):
        key = "item_id" if table == "products" else "query_id"
        for row in pl.read_ipc(index).iter_rows(named=True):
            if row[key] in ids:
                with index.with_suffix(".tar").open("r+b") as shard:
                    shard.seek(row["jpg_offset"])
                    shard.write(bytes(row["jpg_size"]))
    return Dataset(copied)


def test_an_unreadable_query_or_positive_drops_its_pair(dataset: Dataset, tmp_path: Path) -> None:
    broken = damage(damage(dataset, tmp_path / "a", "queries", [3]), tmp_path / "b", "products", [ITEMS[3]])
    loaded, plans = loading(broken, tmp_path, "image -> image", batch_size=7, steps=2)
    for plan in plans:
        batch = loaded[plan]
        whole = (plan.query_ids != 3) & (plan.item_ids != ITEMS[3])
        assert 0 < whole.sum() < len(whole)
        assert batch.item_id.tolist() == plan.item_ids[whole].tolist()
        assert batch.positive_ids[:, 0].tolist() == plan.item_ids[whole].tolist()
        assert len(batch.task) == len(batch.query["image"]) == len(batch.item["image"]) == whole.sum()
        assert shade(batch.query["image"]) == pytest.approx(
            [5 + 80 * QUERIES.index(query) for query in plan.query_ids[whole].tolist()], abs=2
        )
    entries = Quarantine(tmp_path / "quarantine.jsonl", total=1).entries()
    assert set(entries) == {("queries", 3), ("products", ITEMS[3])}
    assert all("not a readable image" in reason for reason in entries.values())


def test_an_unreadable_extra_leaves_the_pairs_whole(dataset: Dataset, tmp_path: Path) -> None:
    broken = damage(dataset, tmp_path / "copy", "products", [ITEMS[11]])
    loaded, plans = loading(broken, tmp_path, "image -> image", negatives=[Next()])
    for plan in plans:
        batch = loaded[plan]
        extras = plan.extra_ids
        assert batch.item_id.tolist() == plan.item_ids.tolist() + extras[extras != ITEMS[11]].tolist()
        assert len(batch.task) == 4
        assert shade(batch.item["image"]) == pytest.approx(
            [20 * ITEMS.index(item) + 10 for item in batch.item_id.tolist()], abs=2
        )


def test_too_many_unreadable_samples_stop_the_run(dataset: Dataset, tmp_path: Path) -> None:
    broken = damage(dataset, tmp_path / "copy", "products", ITEMS[:4])
    loaded, plans = loading(broken, tmp_path, "image -> image", batch_size=7, floor=2)
    with pytest.raises(TooManyUnreadable, match="3 samples cannot be read, more than the 2 tolerated"):
        list(DataLoader(loaded, sampler=plans, batch_size=None, num_workers=1))


def test_a_sample_that_is_not_as_it_was_written_stops_the_run(dataset: Dataset, tmp_path: Path) -> None:
    """An image that can't be decoded was always so and is left out; of a shard that changed, nothing is trusted."""
    shard = tmp_path / "copy/shards/products-000000.tar"
    shutil.copytree(dataset.directory, tmp_path / "copy")
    data = bytearray(shard.read_bytes())
    start = pl.read_ipc(shard.with_suffix(".arrow").read_bytes())["jpg_offset"][0]
    data[start : start + 40] = bytes(40)
    shard.write_bytes(data)
    loaded, plans = loading(Dataset(tmp_path / "copy"), tmp_path, "image -> image", batch_size=7, steps=2)
    with pytest.raises(BrokenShard, match="it is damaged: its CRC-32"):
        list(DataLoader(loaded, sampler=plans, batch_size=None, num_workers=1))
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_a_panic_in_a_loader_process_is_an_error_like_any_other(dataset: Dataset, tmp_path: Path) -> None:
    """What tokenizers and others that are written in Rust raise is no ``Exception``, and would end the process."""
    loaded, plans = loading(dataset, tmp_path, "image -> image")

    def panic(contents: Sequence[Content], side: Side) -> Any:
        raise pl.exceptions.PanicException("index out of bounds")

    loaded._preprocessor = panic  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="step 0: index out of bounds"):
        list(DataLoader(loaded, sampler=plans, batch_size=None, num_workers=1))


def test_a_batch_without_readable_pairs_says_so(dataset: Dataset, tmp_path: Path) -> None:
    broken = damage(dataset, tmp_path / "copy", "products", ITEMS)
    loaded, plans = loading(broken, tmp_path, "image -> image", floor=100)
    with pytest.raises(ValueError, match=r"step 0: none of its 4 pairs can be read; see .*quarantine\.jsonl"):
        loaded[next(iter(plans))]


def test_a_batch_moves_between_devices_as_lightning_moves_it(dataset: Dataset, tmp_path: Path) -> None:
    from lightning.fabric.utilities import move_data_to_device

    loaded, plans = loading(dataset, tmp_path)
    batch = loaded[next(iter(plans))]
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, PairBatch)
    assert {tensor.device.type for tensor in tensors(moved).values()} == {"meta"}


class Priorities:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> int:
        return os.nice(0)


def test_a_loader_process_gives_way_and_its_parent_does_not() -> None:
    before = os.nice(0)
    loader: DataLoader[int] = DataLoader(Priorities(), batch_size=None, num_workers=1, worker_init_fn=give_way)  # type: ignore[arg-type]
    assert list(loader) == [19]
    assert os.nice(0) == before < 19


def test_catalogue(dataset: Dataset) -> None:
    catalogue = Catalogue.of(dataset.products)
    rows = catalogue.rows(np.array([[ITEMS[3], ITEMS[8]], [ITEMS[0], ITEMS[3]]]))
    assert catalogue.spu_id[rows].tolist() == [[1, 4], [0, 1]]
    assert catalogue.category[rows].tolist() == [[1, 0], [1, 1]]
    with pytest.raises(KeyError, match="item 1 is not in the products table"):
        catalogue.rows(np.array([ITEMS[0], 1]))
