"""Turns the plan of a batch into the tensors of a batch, inside a loader worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from moonlib.batches.augment import augment
from moonlib.batches.planner import BatchPlan
from moonlib.batches.views import drawn
from moonlib.data.content import Content, Modalities, Side, Task, compose
from moonlib.data.dataset import Dataset as ShopDataset
from moonlib.data.ids import Ids
from moonlib.data.images import UnreadableImage
from moonlib.data.quarantine import Quarantine, TooManyUnreadable
from moonlib.data.reader import Sample, SampleReader
from moonlib.encoders.encoder import ContentBatch, Preprocessor
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pairs import Pairs
from moonlib.system.disk import is_panic
from moonlib.system.workers import end_at_a_lost_batch


@dataclass
class PairBatch:
    """Q pairs, and the N items that their queries are contrasted with.

    Attributes:
        query: content of the queries, first dimension Q.
        item: content of the items, first dimension N: the positive of each query first, then what negative samplers
            asked for.
        item_id: int64 [N].
        spu_id: int64 [N].
        category: int64 [N].
        positive_ids: int64 [Q, K], known positives of each query.
        positive_spus: int64 [Q, K], their SPUs; and that of the query, where it is a product that asks for others.
        task: int64 [Q], index of each pair's task.
        weight: float32 [Q], how much each pair counts; as None, all alike.
    """

    query: ContentBatch
    item: ContentBatch
    item_id: Tensor
    spu_id: Tensor
    category: Tensor
    positive_ids: Tensor
    positive_spus: Tensor
    task: Tensor
    weight: Tensor | None = None

    def pin_memory(self) -> PairBatch:
        """Return the batch in page-locked memory; torch's DataLoader calls this where it is asked to pin."""
        for field, value in vars(self).items():
            if value is not None:
                content = isinstance(value, dict)
                pinned = {k: v.pin_memory() for k, v in value.items()} if content else value.pin_memory()
                setattr(self, field, pinned)
        return self


class PairDataset(Dataset[PairBatch]):
    """Loads planned batches: ``dataset[plan]`` is a `PairBatch`.

    A sample whose image cannot be read is recorded in the quarantine and left out: with its pair if it is the query
    or the positive, alone if it is an extra negative.

    Args:
        dataset: a dataset, or its directory.
        preprocessor: the encoder's.
        pairs: the pairs the plans refer to.
        tasks: in the order of the planner's.
        products: item ids, SPUs and categories.
        quarantine: where unreadable samples are named.
        augment: strength of image augmentation, 0 for none.
        augmented_inputs: names of the tensors that are augmented, see `Encoder.augmented_inputs`.
    """

    def __init__(
        self,
        dataset: ShopDataset | Path,
        preprocessor: Preprocessor,
        pairs: Pairs,
        tasks: Sequence[Task],
        products: Catalogue,
        quarantine: Quarantine,
        augment: float = 0.0,
        augmented_inputs: Sequence[str] = ("image", "subject"),
    ) -> None:
        self._products = SampleReader(dataset, "products")
        self._side: Side = pairs.query_side
        self._queries = self._products if self._side == "product" else SampleReader(dataset, "queries")
        self._preprocessor = preprocessor
        self._pairs = pairs
        self._tasks = list(tasks)
        self._catalogue = products
        self._quarantine = quarantine
        self._strength, self._augmented = augment, augmented_inputs
        # A product that asks for others is neither a positive nor a negative of itself.
        self._asks_for_others = pairs.of_others

    def __getitem__(self, plan: BatchPlan) -> PairBatch:
        """Read, compose and preprocess one batch.

        Raises:
            TooManyUnreadable: no pair of the batch can be read, or the quarantine is full.
            BrokenShard: a shard is damaged.
        """
        try:
            return self._load(plan)
        except BaseException as error:
            if is_panic(error):  # torch's loaders hand on any other error, and end without a word for this
                raise RuntimeError(f"step {plan.step}: {error}") from error
            raise

    def _load(self, plan: BatchPlan) -> PairBatch:
        item_id = np.concatenate([plan.item_ids, plan.extra_ids])
        item_task = np.concatenate([plan.task, plan.task[plan.extra_rows]])
        queries, items = self._read(plan.query_ids, item_id)
        queries, items = drawn(queries, plan.query_views), drawn(items, plan.item_views)
        asked = [_content(sample, self._tasks[task].query) for sample, task in zip(queries, plan.task, strict=True)]
        found = [_content(sample, self._tasks[task].item) for sample, task in zip(items, item_task, strict=True)]
        rows, task = plan.rows, plan.task
        try:
            query, item = self._preprocessor(asked, self._side), self._preprocessor(found, "product")
        except UnreadableImage:
            whole, kept = self._readable(plan, asked, found, item_id)
            rows, task, item_id = rows[whole], task[whole], item_id[kept]
            query = self._preprocessor([asked[row] for row in whole], self._side)
            item = self._preprocessor([found[row] for row in kept], "product")
        generator = torch.Generator().manual_seed(plan.seed)
        positives = self._pairs.positives[rows]
        catalogue, item_rows = self._catalogue, self._catalogue.rows(item_id)
        known = positives
        if self._asks_for_others:
            known = np.concatenate([positives, self._pairs.query_id[rows, None]], axis=1)
        return PairBatch(
            query=augmented(query, generator, self._strength, self._augmented),
            item=augmented(item, generator, self._strength, self._augmented),
            item_id=torch.from_numpy(item_id),
            spu_id=torch.from_numpy(catalogue.spu_id[item_rows]),
            category=torch.from_numpy(catalogue.category[item_rows]),
            positive_ids=torch.from_numpy(positives),
            positive_spus=torch.from_numpy(catalogue.spu_id[catalogue.rows(known)]),
            task=torch.from_numpy(task),
            weight=torch.ones(len(rows)) if self._pairs.weight is None else torch.from_numpy(self._pairs.weight[rows]),
        )

    def _read(self, query_ids: Ids, item_ids: Ids) -> tuple[list[Sample], list[Sample]]:
        """Read each sample once, however often and on whichever side the batch uses it."""
        if self._side == "product":
            samples = _read_once(self._products, np.concatenate([query_ids, item_ids]))
            return samples[: len(query_ids)], samples[len(query_ids) :]
        return _read_once(self._queries, query_ids), _read_once(self._products, item_ids)

    def _readable(self, plan: BatchPlan, asked: list[Content], found: list[Content], item_id: Ids) -> tuple[Ids, Ids]:
        """Quarantine what cannot be read; return the rows of the queries and of the items that stay."""
        table = "products" if self._side == "product" else "queries"
        query_ok = np.array([self._check(*args, self._side, table) for args in zip(asked, plan.query_ids, strict=True)])
        item_ok = np.array([self._check(*args, "product", "products") for args in zip(found, item_id, strict=True)])
        size = len(asked)
        item_ok[:size] &= query_ok
        whole = np.flatnonzero(item_ok[:size])
        if not len(whole):
            problem = f"step {plan.step}: none of its {size} pairs can be read"
            raise TooManyUnreadable(f"{problem}; see {self._quarantine.path}")
        return whole, np.flatnonzero(item_ok)

    def _check(self, content: Content, sample_id: int, side: Side, table: str) -> bool:
        try:
            self._preprocessor([content], side)
        except UnreadableImage as error:
            self._quarantine.record(table, int(sample_id), str(error))
            return False
        return True


def give_way(worker: int) -> None:
    """Lower the priority of a loader process that shares the processor with the training that it loads for.

    torch's threads wait for each other many times in a step, so one that is put aside for a loader holds up all. When
    the training waits for a batch, the loaders have the processor to themselves.

    Args:
        worker: number of the process, which has no effect; as DataLoader's ``worker_init_fn`` wants it.
    """
    os.nice(19)
    end_at_a_lost_batch(worker)


def _content(sample: Sample, modalities: Modalities) -> Content:
    return compose(sample.row, sample.image, modalities)


def _read_once(reader: SampleReader, ids: Ids) -> list[Sample]:
    distinct, place = np.unique(ids, return_inverse=True)
    samples = reader.read(distinct)
    return [samples[i] for i in place]


def augmented(
    content: ContentBatch,
    generator: torch.Generator,
    strength: float,
    names: Sequence[str] = ("image", "subject"),
) -> ContentBatch:
    """Vary the images of a batch, each by draws of its own.

    Where an encoder says how much of each image is there (``image_size``, see `MLLMProcessor`), the rest stays empty.

    Args:
        content: as the encoder's preprocessor made it.
        generator: the only source of randomness.
        strength: see `augment`; 0 for none.
        names: of the tensors that are images, in the order of their draws; see `Encoder.augmented_inputs`.
    """
    views = [name for name in names if name in content and strength > 0]
    sizes = content.get("image_size")
    return content | {name: _varied(content[name], generator, strength, sizes) for name in views}


def _varied(image: Tensor, generator: torch.Generator, strength: float, sizes: Tensor | None = None) -> Tensor:
    there = image.flatten(1).any(dim=1).bool()  # of uint8, any() is uint8; a missing image stays the zeros it is
    full = sizes is None or bool((sizes[there] == torch.tensor(image.shape[2:])).all())
    if there.all() and full:
        return augment(image, generator, strength)
    image = image.clone()
    if sizes is None or full:
        image[there] = augment(image[there], generator, strength)
        return image
    for height, width in sizes[there].unique(dim=0).tolist():
        rows = there & (sizes == torch.tensor([height, width])).all(dim=1)
        image[rows, :, :height, :width] = augment(image[rows, :, :height, :width], generator, strength)
    return image
