"""Contrastive training of an encoder: the Lightning edge of `moonlib.stages.contrast`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from moonlib.artifacts.layout import QUARANTINE
from moonlib.batches.loading import PairBatch, PairDataset, give_way
from moonlib.batches.planner import BatchPlanner, Recent
from moonlib.data.content import Modalities, Side, Task
from moonlib.data.ids import Ids
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.reads import Reads
from moonlib.embedding.embed import Contents, embed, encode
from moonlib.encoders.weights import load_weights
from moonlib.losses.loss import Loss, LossData
from moonlib.losses.weighted import WeightedLoss, one_or_several
from moonlib.negatives.negative_sampler import PLANNED_AHEAD, NegativeSampler, TrainingData
from moonlib.optimizers.adamw import AdamWFactory
from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    chosen,
    matrices,
    trained_parameters,
)
from moonlib.pairs.catalogue import Catalogue
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs, serviceable
from moonlib.representations.store import Representations
from moonlib.stages.comparable import OldVectors, read_alike
from moonlib.stages.contrast import Compatibility, contrastive_losses
from moonlib.stages.grad_cache import refuse_batch_statistics
from moonlib.stages.published import PublishedWeights, Share, StartWeights
from moonlib.stages.stage import Need, Stage, StageContext
from moonlib.stages.training import save_encoder, sharded, train
from moonlib.stages.validation import Validation
from moonlib.stages.validation_recall import VALIDATION_READS, ValidationRecall, asked_on_validation_days, hold_out
from moonlib.system.workers import end_at_a_lost_batch

log = logging.getLogger(__name__)

EMBEDDED_AT_ONCE = 256
"""Rows that are encoded at once where all of the training data is."""


@dataclass
class PairData:
    """How pairs are turned into batches.

    Args:
        tasks: weight of each ``query -> item`` modality type, for instance ``{image -> title+image: 1.0}``.
        batch_size: pairs in a batch, over all devices.
        augment: strength of the image augmentation in training, 0 for none.
        workers: loader processes; has no effect on the batches.
        recent: share of the pairs of the last days in each epoch, beside older ones; null for all pairs alike.
    """

    tasks: dict[str, float]
    batch_size: int = 256
    augment: float = 0.0
    workers: int = 2
    recent: Recent | None = None


class Contrastive(Stage):
    """Contrastive training of the encoder on pairs of a query and an item.

    Args:
        loss: the loss; null beside ``losses``.
        negatives: samplers, applied in order.
        pairs: which pairs are trained on.
        learning_rate: peak of the schedule (linear warm-up, cosine decay to 0 at ``trainer.max_steps``).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps over which the learning rate rises.
        matryoshka: numbers of leading dimensions that are to be representations in their own right, each with the
            weight of its loss; null for all dimensions alone.
        hardness: how much more a query counts whose hardest negative comes close to its positive; 0 for all alike.
        grad_cache: rows that are encoded at once, for batches larger than memory; null for the whole batch.
        optimizer: takes the place of AdamW with its three arguments above; null for that.
        freeze_towers_until: heads first: steps of the optimizer during which published weights stay as they are. A
            step then costs about a third, because nothing is propagated back through the towers.
        freeze_batch_norm: let batch normalisation of published weights use its published statistics, and keep them.
            Batches of a small catalogue say little, and the towers' vectors depend on them.
        average_with_start: share of the start in the average of start and end that the stage leaves (WiSE-FT, arXiv
            2109.01903), of published weights, or of all where stages before have trained them; ``auto`` chooses it on
            validation; null for no average.
        compatible_with: an earlier run whose vectors are to stay comparable: its directory, or its URL. New queries
            are also contrasted with the old vectors of the products, and new vectors of products are pulled to their
            old ones; what the earlier run did not know is left as it is. null for none.
        compatibility: weight of that, beside the loss; above 0, and for ``compatible_with`` alone.
        losses: several losses in place of one, by a name of your choice, each with its weight, see
            `moonlib.config.losses`; each is logged as ``loss/NAME``, without its weight. What is minimised is their
            weighted sum, not divided by the weights. null for one.
    """

    data_type: ClassVar[type] = PairData
    provides: ClassVar[Literal["weights", "representations"] | None] = "weights"
    warm_starts: ClassVar[bool] = True
    validates: ClassVar[bool] = True

    def __init__(
        self,
        loss: Loss | None,
        negatives: list[NegativeSampler],
        pairs: PairSource,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        matryoshka: dict[int, float] | None = None,
        hardness: float = 0.0,
        grad_cache: int | None = None,
        optimizer: OptimizerFactory | None = None,
        freeze_towers_until: int = 0,
        freeze_batch_norm: bool = False,
        average_with_start: float | Literal["auto"] | None = None,
        compatible_with: str | None = None,
        compatibility: float = 1.0,
        losses: dict[str, WeightedLoss] | None = None,
    ) -> None:
        super().__init__()
        if compatible_with is None and compatibility != 1:
            raise ValueError(f"compatibility: {compatibility} weighs what compatible_with asks for: name a run there")
        if compatible_with is not None and not 0 < compatibility < math.inf:
            raise ValueError(
                f"compatibility: expected a weight above 0 beside compatible_with: {compatible_with}, got "
                f"{compatibility}; leave both out for vectors that need not stay comparable"
            )
        if freeze_towers_until < 0:
            raise ValueError(f"freeze_towers_until: expected a number of steps, at least 0, got {freeze_towers_until}")
        if isinstance(average_with_start, float | int) and not 0 <= average_with_start <= 1:
            raise ValueError(f"average_with_start: expected a share from 0 to 1, or auto, got {average_with_start}")
        if grad_cache is not None and grad_cache < 1:
            raise ValueError(f"grad_cache must be at least 1, got {grad_cache}")
        if matryoshka is not None and not (all(w >= 0 for w in matryoshka.values()) and any(matryoshka.values())):
            raise ValueError(f"matryoshka needs weights >= 0, not all 0, got {matryoshka}")
        self.weighted = one_or_several(loss, losses)
        self.loss = loss
        self.losses = torch.nn.ModuleList([] if losses is None else [each.loss for each in self.weighted.values()])
        self.teachers = tuple(dict.fromkeys(each.loss.teacher for each in self.weighted.values() if each.loss.teacher))
        self.negatives = torch.nn.ModuleList(negatives)
        self.pairs = pairs
        self.optimizer = chosen(
            optimizer,
            lambda: AdamWFactory(learning_rate, weight_decay, warmup),
            Contrastive,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup=warmup,
        )
        self.matryoshka = matryoshka
        self.hardness = hardness
        self.grad_cache = grad_cache
        self.freeze_towers_until, self.freeze_batch_norm = freeze_towers_until, freeze_batch_norm
        self.average_with_start: Share = average_with_start
        self.compatible_with, self.compatibility = compatible_with, compatibility

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "pairs" in vars(cls):  # what chose the pairs before 0.5; it would never be called
            raise TypeError(
                f"{cls.__name__} has a method pairs(context): since moonlib 0.5 pairs come from "
                "a moonlib.pairs.PairSource; pass one to the constructor, or return one from pair_source(data)"
            )
        if "both_directions" in vars(cls):  # the same: it would never be asked for
            raise TypeError(f"{cls.__name__}.both_directions: since moonlib 0.5 it is an attribute of the PairSource")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"encoder", "weights"})

    @property
    def samplers(self) -> list[NegativeSampler]:
        """The negative samplers, in order."""
        return cast("list[NegativeSampler]", list(self.negatives))

    def pair_source(self, data: Any) -> PairSource:
        """The source of pairs for a data section; `pairs`, unless a derived stage lets the section change it."""
        return self.pairs

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """The products of training, the queries of its pairs, what the tasks show of them, and what components read."""
        tasks = [Task.parse(task) for task in data.tasks]
        shown = [side for task in tasks for side in (task.query, task.item)]
        # Whether a pair can serve a task is told from titles, texts and names of images.
        content = (
            Reads.of(products=["title", "image"], queries=["text", "image"])
            | Reads.content("products", shown)
            | Reads.content("queries", shown)
        )
        found = content | Reads.of(products=["spu_id", "listed_at"], moments=["train_until"])
        found = found.before("train_until") | self.pair_source(data).reads()
        for sampler in self.samplers:
            found |= sampler.reads()
        for each in self.weighted.values():
            found |= each.loss.reads().before("train_until")
        if validated:
            found |= (content | VALIDATION_READS).before("valid_until")
        return found

    def run(self, context: StageContext) -> dict[str, float]:
        self.prepare(context)
        validation = self.validation(context)
        train(self, context, validation)
        if not context.trainer.is_global_zero:
            return {}
        self.average(validation)
        save_encoder(self.encoder, context)
        return {} if validation is None else validation.report()

    def prepare(self, context: StageContext) -> None:
        """Load the weights, choose the pairs and tell the samplers of them: all that comes before the trainer.

        Raises:
            ValueError: an argument does not fit the encoder, the loader or the data.
        """
        if context.trainer.max_steps is None or context.trainer.max_steps < 1:
            raise ValueError(f"{type(self).__name__.lower()} counts in steps: set trainer.max_steps in its recipe")
        assert context.encoder is not None
        self.encoder, self.context = context.encoder, context
        self.check_arguments(context)
        if context.weights is not None:
            load_weights(self.encoder, context.weights)
        for each in self.weighted.values():
            each.loss.start_from(self.encoder.logit_scale())
        self.published = PublishedWeights(self.encoder, self.freeze_towers_until, self.freeze_batch_norm)
        self.start = None
        if self.average_with_start is not None:
            self.start = StartWeights(self.encoder, trained=context.weights is not None)
        if self.freeze_towers_until and isinstance(context.trainer.strategy, DDPStrategy):
            context.trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        self.pairs = self.pair_source(context.data)
        pairs, searches = self.pairs.pairs(
            PairContext(context.dataset, context.directory, context.trainer.is_global_zero, self.represent)
        )
        if context.validate is not None:
            if not pairs.of_others:
                self.asked = asked_on_validation_days(context.dataset, pairs.query_side)
            if pairs.of_others or not len(self.asked.query_id):
                pairs, self.asked = hold_out(pairs, context.seed)
        reads = self.reads(context.data, context.validate is not None)
        category = ["category"] if reads.includes("products", "category") else []
        products = context.dataset.table("products", ["item_id", "spu_id", "listed_at", *category])
        # A product that a pair names is known, whatever a wrong clock says of the day it was listed.
        named = pl.Series(pairs.positives.ravel()).unique()
        known = (pl.col("listed_at") < context.dataset.splits.train_until) | pl.col("item_id").is_in(named.implode())
        self.catalogue = Catalogue.of(products)
        self.compatible = self.comparison(context)
        listed = self.catalogue.of_items(products.filter(known)["item_id"])
        self.training_data = TrainingData(pairs, listed, searches, self.encoder.dim)
        for sampler in self.samplers:
            sampler.setup(self.training_data)
        self.set_up_losses(context, listed)
        self.decayed = matrices(self)
        # What is equal on every process need not be sent around before every step: the buffers of samplers, and those
        # of losses that are no part of the state, which follow from the data.
        state = self.state_dict().keys()
        self._ddp_params_and_buffers_to_ignore = [
            name
            for name, _ in self.named_buffers()
            if name.startswith("negatives.") or (name.startswith(("loss.", "losses.")) and name not in state)
        ]

    def check_arguments(self, context: StageContext) -> None:
        """Refuse arguments that don't fit the encoder or the loader, before anything is done.

        Raises:
            ValueError: naming the argument.
        """
        dim = self.encoder.dim
        if wrong := [d for d in self.matryoshka or {} if not 1 <= d <= dim]:
            raise ValueError(f"matryoshka: {wrong[0]} dimensions of an encoder of {dim}; expected 1 to {dim}")
        for name, each in self.weighted.items():
            if each.dims is not None:
                try:
                    each.part(self.encoder.heads(), dim)
                except ValueError as error:
                    raise ValueError(f"losses.{name}.{error}") from error
        if context.data.augment > 0 and not self.encoder.augmented_inputs():
            log.warning("data.augment has no effect: %s has no images to augment", type(self.encoder).__name__)
        if self.grad_cache is not None:
            refuse_batch_statistics(self.encoder)
        if self.average_with_start == "auto" and context.validate is None:
            raise ValueError("average_with_start: auto chooses on validation: set validate.every of this stage too")
        if (self.freeze_towers_until or self.average_with_start is not None) and sharded(context.trainer):
            raise ValueError(
                "freeze_towers_until and average_with_start need all weights in every process, and this strategy "
                "shards them: leave them out"
            )
        most = (PLANNED_AHEAD - 2) // 2
        if context.data.workers > most and any(sampler.refresh_every for sampler in self.samplers):
            raise ValueError(f"data.workers: at most {most} with negatives that are mined, got {context.data.workers}")

    def set_up_losses(self, context: StageContext, listed: Catalogue) -> None:
        """Tell the losses of the data, and give each the vectors of its teacher.

        Raises:
            ValueError: a teacher was not opened, or an argument of a loss does not fit the data.
        """
        item_ids = pl.Series(listed.item_id).implode()
        for name, each in self.weighted.items():
            teacher = each.loss.teacher
            if teacher is not None and teacher not in context.teachers:
                raise ValueError(f"teacher: {teacher} was not opened: run the stage by a recipe")
            vectors = None if teacher is None else context.teachers[teacher]
            part = each.part(self.encoder.heads(), self.encoder.dim)
            read = each.loss.reads().table("products")
            products = None
            if read is not None:
                columns = None if read.columns is None else sorted(read.columns)
                products = context.dataset.table("products", columns).filter(pl.col("item_id").is_in(item_ids))
                products = products.sort("item_id")
            data = LossData(listed, context.dataset.ids, part.stop - part.start, context.directory, vectors, products)
            try:
                each.loss.setup(data)
            except ValueError as error:
                raise ValueError(f"{'loss' if self.loss is each.loss else f'losses.{name}'}: {error}") from error

    def comparison(self, context: StageContext) -> Compatibility | None:
        """Open the earlier run's vectors; None without ``compatible_with``.

        Raises:
            ValueError: they can't be compared with what this stage makes.
        """
        if context.comparable is None:
            if self.compatible_with is not None:
                raise ValueError(f"compatible_with: {self.compatible_with} was not opened: run the stage by a recipe")
            return None
        run, tasks = context.comparable, list(context.data.tasks)
        vectors = OldVectors(run, self.catalogue.item_id, context.dataset.ids, self.encoder.dim)
        alike = read_alike(run, tasks)
        count = f"{vectors.known:,} of {len(self.catalogue.item_id):,} products"
        log.info(f"compatible_with: {count} have a vector in {run.place}")
        if not alike.any():
            log.warning(
                f"compatible_with: the vectors of {run.place} read {run.product} of a product, and none of the tasks "
                f"({', '.join(tasks)}) does: queries are drawn to them, and the products' own vectors are left free"
            )
        return Compatibility(vectors, self.compatibility, alike)

    def train_dataloader(self) -> DataLoader[PairBatch]:
        dataset, data, pairs = self.context.dataset, self.context.data, self.training_data.pairs
        if self.context.position.epoch == self.context.position.batch == 0:
            self.refresh([sampler for sampler in self.samplers if sampler.refresh_every], 0)
        tasks = [Task.parse(task) for task in data.tasks]
        rich = any("rich" in (task.query.text, task.item.text) for task in tasks)
        planner = BatchPlanner(
            pairs,
            data.tasks,
            serviceable(
                pairs,
                tasks,
                dataset.table("products", ("item_id", "title", "image", *(("category", "attributes") if rich else ()))),
                dataset.table("queries", ("query_id", "text", "image")),
            ),
            data.batch_size,
            self.samplers,
            recent=data.recent,
            seed=self.context.seed,
            steps=self.trainer.max_steps * self.trainer.accumulate_grad_batches,
            start_step=self.context.position.batch,
            epoch=self.context.position.epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        batches = PairDataset(
            dataset,
            self.encoder.preprocessor,
            pairs,
            tasks,
            self.catalogue,
            self.quarantine(),
            data.augment,
            self.encoder.augmented_inputs(),
        )
        return DataLoader(
            batches,
            sampler=planner,
            batch_size=None,
            num_workers=data.workers,
            generator=torch.Generator().manual_seed(self.context.seed),
            worker_init_fn=give_way if self.trainer.strategy.root_device.type == "cpu" else end_at_a_lost_batch,
        )

    def quarantine(self) -> Quarantine:
        """Where unreadable samples are named."""
        dataset = self.context.dataset
        return Quarantine(self.context.directory / QUARANTINE, total=dataset.counts["products"], ids=dataset.ids)

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        # At the start of a batch and not at the end of the one before: a checkpoint is written in between.
        valid_from = batch_idx + PLANNED_AHEAD
        last = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        due = [s for s in self.samplers if s.refresh_every and valid_from % s.refresh_every == 0]
        if due and valid_from < last:
            self.refresh(due, valid_from)
        self.published.prepare(self.trainer.global_step)  # after a refresh, which sets modes

    def refresh(self, samplers: Sequence[NegativeSampler], step: int) -> None:
        """Let samplers look at what the encoder makes of the data by now, to be made use of from a batch on."""
        if not samplers:
            return
        if self.trainer.is_global_zero:
            data = self.training_data
            name = f"refresh.{step}"
            products, queries = self.represent(data.pairs, data.catalogue.item_id, name)
            for sampler in samplers:
                sampler.refresh(products, queries, step)
            for side in ("products", "queries"):
                Representations.remove(self.context.directory, f"{name}.{side}")
        if self.trainer.world_size > 1:
            for sampler in samplers:
                for buffer in sampler.buffers():
                    dist.broadcast(buffer, 0)

    def represent(self, pairs: Pairs, item_ids: Ids, name: str) -> tuple[Representations, Representations]:
        """Represent products and the pairs' queries with the encoder as it is now.

        Each side is read as the stage's tasks read it, all of them together.

        Args:
            pairs: whose queries.
            item_ids: int64 [n], which products.
            name: begins the names of the files in the stage's directory; an interrupted call of this name resumes.

        Returns:
            The products by item_id, the queries by query_id, float32 [rows, dim], mapped from files.
        """
        context = self.context
        tasks = [Task.parse(task) for task, weight in context.data.tasks.items() if weight]
        products = SampleReader(context.dataset, "products")
        asked = products if pairs.query_side == "product" else SampleReader(context.dataset, "queries")
        sides: list[tuple[str, SampleReader, Side, Ids, Modalities]] = [
            ("products", products, "product", item_ids, Modalities.union([task.item for task in tasks])),
            ("queries", asked, pairs.query_side, np.unique(pairs.query_id), Modalities.union([t.query for t in tasks])),
        ]
        found = []
        for kind, reader, side, ids, modalities in sides:
            contents = Contents(reader, side, ids, modalities, self.quarantine(), EMBEDDED_AT_ONCE, context.dataset.ids)
            with context.progress.task(kind, len(ids)) as task:
                stored = embed(
                    self.encoder,
                    contents,
                    context.directory,
                    f"{name}.{kind}",
                    device=context.trainer.strategy.root_device,
                    workers=context.data.workers,
                    progress=task.at,
                )
            found.append(stored)
        return found[0], found[1]

    def validation(self, context: StageContext) -> Validation | None:
        """Make what measures recall while this stage trains; None without the key ``validate``."""
        if context.validate is None:
            return None
        recall = ValidationRecall(context.dataset, self.asked, context.data.tasks, context.validate, context.seed)

        def vectors(side: Side, ids: Ids, modalities: Modalities) -> NDArray[np.float32]:
            reader = SampleReader(context.dataset, "products" if side == "product" else "queries")
            contents = Contents(reader, side, ids, modalities, self.quarantine(), EMBEDDED_AT_ONCE, context.dataset.ids)
            device = context.trainer.strategy.root_device
            return np.concatenate(list(encode(self.encoder, contents, device=device, workers=context.data.workers)))

        return Validation(context, self.encoder, lambda: recall.measure(vectors), recall.higher_is_better)

    def average(self, validation: Validation | None) -> None:
        """Average the weights with their start, where that is asked for; in the first process."""
        if self.start is None:
            return
        if self.average_with_start == "auto":
            assert validation is not None
            share, _ = self.start.choose(validation.value, validation.higher_is_better)
        else:
            assert isinstance(self.average_with_start, float | int)
            share = self.average_with_start
            self.start.average({name: each.clone() for name, each in self.encoder.state_dict().items()}, share)
        if validation is not None:
            validation.averaged(share)

    def training_step(self, batch: PairBatch, step: int) -> Tensor:
        seeds = np.random.SeedSequence([self.context.seed, self.trainer.current_epoch, step])
        loss, parts = contrastive_losses(
            self.encoder,
            batch,
            self.weighted,
            self.samplers,
            both_directions=self.pairs.both_directions,
            dims=self.matryoshka,
            hardness=self.hardness,
            grad_cache=self.grad_cache,
            compatibility=self.compatible,
            heads=self.encoder.heads(),
            seed=int(seeds.generate_state(1)[0]),
        )
        self.log("loss", loss, prog_bar=True)
        if len(self.losses):
            self.log_dict({f"loss/{name}": each for name, each in parts.items()})
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimizer(trained_parameters(self, self.encoder, self.decayed), OptimizerContext.of(self))
