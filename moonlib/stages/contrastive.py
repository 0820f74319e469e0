"""Contrastive training of an encoder: the step as a function of tensors, and its Lightning edge."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import moonlib.compat  # noqa: F401
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from moonlib.data.batches import BatchPlanner
from moonlib.data.content import Task
from moonlib.data.dataset import Dataset
from moonlib.data.loading import Catalogue, PairBatch, PairDataset
from moonlib.data.pairs import Pairs, serviceable
from moonlib.data.quarantine import Quarantine
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.losses.loss import Loss
from moonlib.negatives.masks import positive_and_ignore
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler
from moonlib.stages.stage import Need, Stage, StageContext
from moonlib.stages.training import train


def contrastive_loss(
    encoder: Encoder, batch: PairBatch, loss: Loss, negatives: Sequence[NegativeSampler], *, both_directions: bool
) -> Tensor:
    """Contrast every query of a batch with its items and with whatever the samplers add.

    Args:
        encoder: encodes queries and items alike.
        batch: Q queries and N >= Q items, the first Q being the queries' own.
        loss: maps cosines and masks to one value per query.
        negatives: extend the pool of candidates in turn.
        both_directions: also contrast each of the Q items with the Q queries, at equal weight.

    Returns:
        The mean loss, a scalar.
    """
    queries = F.normalize(encoder(batch.query).float(), dim=-1)
    pool = Candidates(encoder(batch.item), batch.item_id, batch.spu_id, batch.category)
    for sampler in negatives:
        pool = sampler.extend(pool)
    scores = queries @ F.normalize(pool.representations.float(), dim=-1).T
    positive, ignore = positive_and_ignore(batch.positive_ids, batch.positive_spus, pool.item_id, pool.spu_id)
    mean = loss(scores, positive, ignore).mean()
    if not both_directions:
        return mean
    own = len(queries)
    return (mean + loss(scores[:, :own].T, positive[:, :own].T, ignore[:, :own].T).mean()) / 2


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at a step: a linear rise over ``warmup`` steps, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


@dataclass
class PairData:
    """How pairs are turned into batches.

    Args:
        tasks: weight of each ``query -> item`` modality type, for instance ``{image -> title+image: 1.0}``.
        batch_size: pairs in a batch, over all devices.
        augment: strength of the image augmentation in training, 0 for none.
        workers: loader processes; has no effect on the batches.
    """

    tasks: dict[str, float]
    batch_size: int = 256
    augment: float = 0.0
    workers: int = 2


class Contrastive(Stage):
    """Trains the encoder on pairs; what a pair is, the two stages that derive from this one say.

    Args:
        loss: loss on the scores.
        negatives: samplers, applied in order.
        learning_rate: peak of the schedule (linear warm-up, cosine decay to 0 at ``trainer.max_steps``).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps over which the learning rate rises.
    """

    data_type: ClassVar[type] = PairData
    provides: ClassVar[Literal["weights", "representations"] | None] = "weights"
    both_directions: ClassVar[bool]

    def __init__(
        self,
        loss: Loss,
        negatives: list[NegativeSampler],
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.negatives = torch.nn.ModuleList(negatives)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"encoder", "weights"})

    @property
    def samplers(self) -> list[NegativeSampler]:
        """The negative samplers, in order."""
        return cast("list[NegativeSampler]", list(self.negatives))

    @abstractmethod
    def pairs(self, dataset: Dataset, data: PairData) -> Pairs:
        """The pairs to train on; nothing after the end of training may be among them."""

    def run(self, context: StageContext) -> dict[str, float]:
        if context.trainer.max_steps is None or context.trainer.max_steps < 1:
            raise ValueError(f"{type(self).__name__.lower()} counts in steps: set trainer.max_steps in its recipe")
        assert context.encoder is not None
        self.encoder = context.encoder
        if context.weights is not None:
            load_weights(self.encoder, context.weights)
        self.context = context
        train(self, context)
        if context.trainer.is_global_zero:
            save_weights(self.encoder, context.directory / "weights.safetensors")
        return {}

    def train_dataloader(self) -> DataLoader[PairBatch]:
        dataset, data = self.context.dataset, self.context.data
        pairs = self.pairs(dataset, data)
        tasks = [Task.parse(task) for task in data.tasks]
        planner = BatchPlanner(
            pairs,
            data.tasks,
            serviceable(
                pairs,
                tasks,
                dataset.table("products", ("item_id", "title", "image")),
                dataset.table("queries", ("query_id", "text", "image")),
            ),
            data.batch_size,
            self.samplers,
            seed=self.context.seed,
            steps=self.trainer.max_steps * self.trainer.accumulate_grad_batches,
            start_step=self.context.position.batch,
            epoch=self.context.position.epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        batches = PairDataset(
            dataset.directory,
            self.encoder.preprocessor,
            pairs,
            tasks,
            Catalogue.of(dataset.table("products", ("item_id", "spu_id", "category"))),
            Quarantine(self.context.directory / "quarantine.jsonl", total=dataset.counts["products"]),
            data.augment,
        )
        generator = torch.Generator().manual_seed(self.context.seed)
        return DataLoader(batches, sampler=planner, batch_size=None, num_workers=data.workers, generator=generator)

    def training_step(self, batch: PairBatch, step: int) -> Tensor:
        loss = contrastive_loss(self.encoder, batch, self.loss, self.samplers, both_directions=self.both_directions)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
        )
        total = self.trainer.max_steps
        warmup = max(1, round(self.warmup * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
