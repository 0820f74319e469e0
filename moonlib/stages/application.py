"""Application: a click-through-rate model that reads the frozen representations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from moonlib.adapters.adapter import Adapter
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import CARRIED_OVER, PREDICTIONS, WEIGHTS
from moonlib.clicks.features import FeatureKind, Features
from moonlib.clicks.impressions import (
    CLICK_READS,
    BatchRows,
    ImpressionBatch,
    ImpressionReader,
    Impressions,
    Lookups,
    Vocabularies,
)
from moonlib.clicks.saved_vocabularies import Description, SavedVocabularies, save_vocabularies
from moonlib.data.dataset import Dataset
from moonlib.data.reads import Reads
from moonlib.data.segments import SEGMENT_READS, segment_columns
from moonlib.data.splits import DAY, Split, Splits
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.metrics.auc import AUC
from moonlib.metrics.counts import note_rows
from moonlib.metrics.ctr import ctr_metrics, own_metrics
from moonlib.metrics.log_loss import LogLoss
from moonlib.metrics.metric import Meaning, meaning_of, name_of, with_metrics
from moonlib.metrics.undefined import leave_out
from moonlib.optimizers.adam import AdamFactory, LazyAdamFactory
from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    chosen,
    matrices,
    trained_parameters,
)
from moonlib.predictors.predictor import Predictor
from moonlib.representations.residual_kmeans import read_codebooks
from moonlib.representations.store import Representations
from moonlib.stages.click_model import ID_STD, ClickModel
from moonlib.stages.click_predictions import by_segment, predicted_clicks, true_probability
from moonlib.stages.click_warm_start import ClickWarmStart, modules_of
from moonlib.stages.clipping import clip_gradients
from moonlib.stages.oracle_adapters import oracle_candidates
from moonlib.stages.represent import EVALUATED, read_representations
from moonlib.stages.stage import Need, Reference, Stage, StageContext
from moonlib.stages.training import row_loader, train
from moonlib.stages.tune import Tune, require_tunable
from moonlib.stages.validation import Validation

FITTED = 100_000
"""Products that an adapter is fitted to, a random part of a larger catalogue."""


@dataclass
class ImpressionData:
    """How impressions are turned into batches.

    Args:
        batch_size: impressions in a batch, over all devices.
        history: how many of a shopper's latest items are read, L.
        query_history: how many of a shopper's latest queries are read.
        similarity_topk: of the L items, keep this many, those most like the target, before the adapter sees any; null
            for all. L may then be 100,000.
        segments: columns of users and products, ``table.column``, whose every value is reported for itself, as
            ``auc@column=value``, beside new and tail products.
        workers: loader processes; has no effect on the batches.
        day: train on the 24 hours from this moment (ISO 8601) and test on the 24 hours after them, in place of the
            dataset's train, validation and test days; what is known is known as of the end of the first. `moonlib fit
            --days` sets it.

    Raises:
        ValueError: if ``day`` is no moment.
    """

    batch_size: int = 1024
    history: int = 20
    query_history: int = 10
    similarity_topk: int | None = None
    segments: list[str] = field(default_factory=list)
    workers: int = 0
    day: str | None = None

    def __post_init__(self) -> None:
        if self.day is not None:
            Splits.of_day(self.day)


class Application(Stage):
    """Trains a CTR model on the training days and reads the test days once.

    Everything but the representation and its adapter is equal across a run and its references: id-only, the same
    vectors shuffled among the products, the true latents of a simulated dataset through the best of some adapters, and
    its true click probability.

    An adapter that is pretrained adds its epochs to the trainer's and comes first.

    With the key ``from`` of the stage the model starts from an earlier one: embeddings are carried over by id, new ids
    begin as they would from scratch, and numbers keep the scale that the weights were trained with. An adapter is then
    neither fitted nor pretrained again, and the optimizer begins anew.

    Args:
        adapter: turns representations and behaviours into features.
        predictor: maps features to a logit.
        representation: ``learned`` by the stages before, the same ``shuffled`` among the ids, the true latents of a
            simulated dataset (``oracle``), or no model at all but the true click probability (``truth``).
        id_dim: width of the id embeddings.
        learning_rate: of Adam.
        id_epochs: after this many epochs the id embeddings begin anew. A click model overfits in its second epoch,
            because it learns to trust embeddings that have memorised the training clicks; with 1, ids are trained
            for one epoch and everything else for all. Null for never. Those carried over from an earlier model begin
            as they were carried over.
        features: more columns of users, products, queries and impressions as features, ``table.column: kind``, see
            `moonlib.clicks.features.FeatureKind`.
        min_count: users, items and values of features seen less often in training share the row of the unknown.
        buckets: hash users, items and values of features into so many rows each, in place of exact vocabularies.
        sparse: sparse gradients of embedding tables, with lazy Adam: a step costs what the batch costs and not what
            the catalogue costs.
        metrics: measured besides AUC, GAUC, log loss, NE, PCOC and ECE, see `moonlib.metrics.metric`; one of the name
            of these takes its place.
        optimizer: takes the place of Adam with its ``learning_rate``; null for that.
        forget_after: ids, and values of features, that were not seen in this many days before the end of training lose
            their rows; should they come back, they begin anew. Null for never.
        tune: the click model tunes the representations, see `moonlib.stages.tune.LowRankResidual`, those of targets,
            histories and queries alike; ``similarity_topk`` compares them as they were. Null for as they are.
        oracle_adapters: adapters through which, besides the stage's own, the oracle reads the true latents of a
            simulated dataset; the one that is best on validation days is the upper bound that stands beside the run,
            so that an adapter does not look good by spoiling it. Null for ``concat`` of ``cube``, ``simtier`` and
            ``interaction``; ``[]`` for the stage's own alone. Each costs a training of the click model.

    Raises:
        ValueError: if ``id_epochs``, ``min_count``, ``buckets`` or ``forget_after`` is below 1, a metric can't be
            computed here, ``optimizer`` takes no sparse gradients where ``sparse`` makes them, ``forget_after`` is
            given with ``buckets``, whose rows are of no id, or ``tune`` with an adapter that reads no content or is
            pretrained, or one of ``oracle_adapters`` reads no content.

    Source: Zhang et al., "Towards understanding the overfitting phenomenon of deep click-through rate prediction
    models" (arXiv 2209.06053), for the one epoch; Liu et al., "Multi-epoch learning for deep click-through rate
    prediction models" (arXiv 2305.19531), for embeddings that begin anew.
    """

    data_type: ClassVar[type] = ImpressionData
    validates: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = True
    reads_center: ClassVar[bool] = True

    def __init__(
        self,
        adapter: Adapter,
        predictor: Predictor,
        representation: Literal["learned", "shuffled", "oracle", "truth"] = "learned",
        id_dim: int = 16,
        learning_rate: float = 3e-3,
        id_epochs: int | None = None,
        features: dict[str, FeatureKind] | None = None,
        min_count: int = 1,
        buckets: int | None = None,
        sparse: bool = False,
        metrics: list[Metric] = [],  # noqa: B006  (a recipe's default is read, never written)
        optimizer: OptimizerFactory | None = None,
        forget_after: int | None = None,
        tune: Tune | None = None,
        oracle_adapters: list[Adapter] | None = None,
    ) -> None:
        super().__init__()
        least = {"id_epochs": id_epochs, "min_count": min_count, "buckets": buckets, "forget_after": forget_after}
        for name, value in least.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if forget_after is not None and buckets is not None:
            raise ValueError("forget_after: hashed ids share rows, so none can leave; leave it or buckets out")
        if tune is not None:
            for each in (adapter, *(oracle_adapters or [])):
                require_tunable(each)
        for each in oracle_adapters or []:
            if not each.reads_content:
                raise ValueError(f"oracle_adapters: {type(each).__name__} reads no representations; leave it out")
        self.adapter = adapter
        self.predictor = predictor
        self.tune = tune
        self.representation = representation
        self.id_dim = id_dim
        default = LazyAdamFactory if sparse else AdamFactory
        self.decayed: frozenset[str] | None = None
        self.optimizer = chosen(optimizer, lambda: default(learning_rate), Application, learning_rate=learning_rate)
        if sparse and not self.optimizer.takes_sparse:
            raise ValueError(
                f"sparse: {type(optimizer).__name__} takes no sparse gradients; use lazy_adam, or set sparse: false"
            )
        self.id_epochs = id_epochs
        self.features = features or {}
        self.min_count, self.buckets = min_count, buckets
        self.sparse = sparse
        self.forget_after = forget_after
        self.pretraining_epochs = adapter.pretraining_epochs
        self.reads_queries = adapter.reads_queries
        self.warm_start: ClickWarmStart | None = None
        self.metrics = with_metrics(own_metrics(), metrics, "ctr")
        self.validation: Validation | None = None

    def meanings(self) -> dict[str, Meaning]:
        return {f"ctr/{name_of(metric)}": meaning_of(metric) for metric in self.metrics}

    @property
    def needs(self) -> frozenset[Need]:
        learned = self.representation in ("learned", "shuffled") and self.adapter.reads_content
        if not learned:
            return frozenset()
        return frozenset({"representations", "codes"} if self.adapter.reads_codes else {"representations"})

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """Ids, what was done, the side information of products, and the columns that the recipe names."""
        return (
            CLICK_READS
            | SEGMENT_READS
            | Reads.named([*data.segments, *self.features])
            | Reads.of(truth=self.representation in ("oracle", "truth"))
        )

    def references(self, dataset: Dataset) -> list[Reference]:
        references = [
            Reference("baseline", "id only", {"adapter": "id_only", "tune": None, "oracle_adapters": None}),
            Reference("baseline/shuffled", "shuffled", {"representation": "shuffled", "oracle_adapters": None}),
        ]
        if dataset.truth is not None:
            oracle = {"representation": "oracle", "oracle_adapters": None}
            references.append(Reference("oracle", "oracle", oracle, oracle_candidates, chosen_by="ctr/auc"))
            truth = {"representation": "truth", "adapter": "id_only", "tune": None, "oracle_adapters": None}
            references.append(Reference("ceiling", "ceiling", truth))
        return references

    def run(self, context: StageContext) -> dict[str, float]:
        dataset, day = context.dataset, context.data.day
        rows: dict[Split, pl.DataFrame]
        if day is None:
            splits: tuple[Split, ...] = ("train", *EVALUATED)
            rows = {name: dataset.splits.check(dataset.impressions, name, "impressions") for name in splits}
        else:
            dataset = dataset.with_splits(Splits.of_day(day))
            context = replace(context, dataset=dataset)
            # The day after may have nothing to measure: its metrics are then not defined.
            rows = {
                "train": dataset.splits.check(dataset.impressions, "train", "impressions"),
                "test": dataset.splits.select(dataset.impressions, "test"),
            }
        evaluated = [name for name in EVALUATED if name in rows]
        declared = segment_columns(dataset, context.data.segments)
        if self.representation == "truth":
            predicted = {name: true_probability(dataset, rows[name]) for name in evaluated}
        else:
            predicted = self.fit_and_predict(context, rows)
        if not context.trainer.is_global_zero:
            return {}
        predictions = predicted_clicks(dataset, rows, predicted)
        for frame in declared.values():
            predictions = predictions.join(frame, on=frame.columns[0], how="left", maintain_order="left")
        kept = dataset.ids.decoded(predictions, "search_id", "user_id", "item_id")
        kept.write_parquet(context.directory / PREDICTIONS)
        metrics, rows_of = by_segment(predictions, evaluated, declared, self.metrics)
        note_rows(context.directory, rows_of)
        if self.validation is not None:
            metrics |= self.validation.report()
        return leave_out(metrics, context.directory)

    def fit_and_predict(
        self, context: StageContext, rows: dict[Split, pl.DataFrame]
    ) -> dict[Split, NDArray[np.float64]]:
        """Train on the training days; return the probabilities of the validation and test impressions.

        Of several processes the first predicts.
        """
        products, queries = self.read_representations(context)
        earlier = SavedVocabularies(context.warm_start, context.dataset) if context.warm_start else None
        read = self.make_model(context, rows["train"], products, queries, earlier)
        impressions = {name: read(table) for name, table in rows.items()}
        if self.warm_start is not None:
            self.warm_start.load(self.model)
            if context.trainer.is_global_zero:
                write_json(context.directory / CARRIED_OVER, self.warm_start.counts)
            self.pretraining_epochs = 0
        elif products:
            listed = context.dataset.splits.known(context.dataset.table("products", ("item_id", "listed_at")))
            fitted = listed["item_id"].to_numpy()
            if len(fitted) > FITTED:
                fitted = np.random.default_rng(context.seed).choice(fitted, FITTED, replace=False)
            self.adapter.fit(torch.from_numpy(products.gather(fitted)))
        self.train_impressions, self.context = impressions["train"], context
        self.add_epochs(context.trainer, self.pretraining_epochs)
        self.decayed = matrices(self)
        self.validation = self.make_validation(context, rows, read)
        train(self, context, self.validation)
        if not context.trainer.is_global_zero:
            return {}
        save_weights(self.model, context.directory / WEIGHTS)
        save_vocabularies(context.directory, context.dataset, self.description, self.entries)
        return {name: self.predict(impressions[name]) for name in EVALUATED if name in impressions}

    def make_validation(
        self, context: StageContext, splits: Mapping[Split, pl.DataFrame], read: Callable[[pl.DataFrame], Impressions]
    ) -> Validation | None:
        """Make what measures AUC and log loss while this stage trains; None without the key ``validate``.

        Args:
            context: what the stage was given.
            splits: the impressions of each split.
            read: reads a table of impressions as the model does.
        """
        if context.validate is None:
            return None
        if "valid" not in splits:
            raise ValueError("data.day: a day has no validation days to measure the training on; leave `validate` out")
        rows = splits["valid"]
        if len(rows) > context.validate.rows:
            drawn = np.random.default_rng([context.seed, 1]).choice(len(rows), context.validate.rows, replace=False)
            rows = rows[np.sort(drawn)]
        impressions, metrics = read(rows), [AUC(), LogLoss()]

        def measure() -> dict[str, float]:
            return ctr_metrics(rows.with_columns(probability=pl.Series(self.predict(impressions))), metrics)

        names = {name_of(metric): bool(metric.higher_is_better) for metric in metrics}
        return Validation(context, self.model, measure, names)

    def score(
        self, context: StageContext, impressions: pl.DataFrame, asked: Representations | None = None
    ) -> NDArray[np.float64]:
        """Predict clicks with the weights of a finished application; nothing is trained or written.

        Impressions need not be the dataset's: a history holds what the user had done, according to its searches, before
        the moment of each. Queries that the dataset has not seen come with it, see `Dataset.with_queries`.

        Args:
            context: what the stage was run with, `StageContext.directory` being the finished one; see `Run.reopen`.
            impressions: n rows with the columns of the impressions table; ``clicked`` is not looked at.
            asked: representations of those queries, of the kind that this application reads; None for none.

        Returns:
            float64 [n], in the order of the rows.

        Raises:
            ValueError: it is the true click probability, which is no model, or the weights do not fit.
        """
        if self.representation == "truth":
            raise ValueError(f"{context.directory} holds the true click probability, and no model that could score")
        products, queries = self.read_representations(context)
        if queries is not None and asked is not None:
            asked = asked.shuffled(context.seed) if self.representation == "shuffled" else asked
            ids = np.concatenate([queries.ids, asked.ids])
            queries = Representations(ids, np.concatenate([store.read(slice(None)) for store in (queries, asked)]))
        with torch.random.fork_rng(devices=[]):  # which a loader draws from
            return self.predict(self.load(context, products, queries)(impressions))

    def load(
        self, context: StageContext, products: Representations | None, queries: Representations | None
    ) -> ImpressionReader:
        """Make the `model` of a finished application, with its weights.

        Args:
            context: what the stage was run with, `StageContext.directory` being the finished one; see `Run.reopen`.
            products: representations of products, None for none.
            queries: representations of queries, None for none.

        Returns:
            What reads a table of impressions as the model does.

        Raises:
            ValueError: the weights do not fit.
        """
        self.context = context
        train = context.dataset.splits.check(context.dataset.impressions, "train", "impressions")
        with torch.random.fork_rng(devices=[]):  # which first weights draw from
            # With its own vocabularies for earlier ones, the model knows what it knew, whatever it had started from.
            known = SavedVocabularies.are_in(context.directory)
            earlier = SavedVocabularies(context.directory, context.dataset) if known else None
            read = self.make_model(context, train, products, queries, earlier)
            load_weights(self.model, context.directory / WEIGHTS)
        return read

    def make_model(
        self,
        context: StageContext,
        train: pl.DataFrame,
        products: Representations | None,
        queries: Representations | None,
        earlier: SavedVocabularies | None = None,
    ) -> ImpressionReader:
        """Fit vocabularies and features to the training impressions and make the untrained `model`.

        Args:
            context: what the stage was given.
            train: the training impressions.
            products: representations of products, None for none.
            queries: representations of queries, None for none.
            earlier: vocabularies of the model to start from, None for none.

        Returns:
            What reads a table of impressions as the model does.
        """
        until = context.dataset.splits.train_until
        since = None if self.forget_after is None else until - self.forget_after * DAY
        knowledge = (self.min_count, self.buckets, earlier, since)
        vocabularies = Vocabularies.of(context.dataset, train, *knowledge)
        features = Features.fit(context.dataset, train, self.features, *knowledge) if self.features else None
        price = earlier.description.price if earlier else None
        lookups = Lookups.of(context.dataset, vocabularies, products, queries, price)
        if context.codes is not None and self.adapter.reads_codes:
            self.adapter.take_codebooks(read_codebooks(context.codes))
        sizes = vocabularies.sizes
        if not self.adapter.reads_query_ids:
            del sizes["query"]
        self.model = ClickModel(
            self.adapter,
            self.predictor,
            sizes,
            self.id_dim,
            products.dim if products else 0,
            features.sizes if features else None,
            self.sparse,
            self.tune,
        )
        entries = {**vocabularies.entries, **(features.entries if features else {})}
        self.entries = {name: frame for name, frame in entries.items() if name != "query" or name in sizes}
        declared = [column.saved for column in features.columns] if features else []
        self.description = Description(
            trained_until=until,
            rows=sizes,
            hashed=[name for name in (*sizes, *(each.name for each in declared if each.rows)) if name not in entries],
            price=lookups.products.price_scale,
            features=declared,
            modules=modules_of(self.model),
        )
        if earlier is not None:
            self.warm_start = ClickWarmStart(earlier, vocabularies, features)
        return ImpressionReader(
            lookups,
            history=context.data.history,
            query_history=context.data.query_history,
            similarity_topk=context.data.similarity_topk,
            features=features,
        )

    def add_epochs(self, trainer: Trainer, epochs: int) -> None:
        """Make room for an adapter's pretraining, in which and after which some weights have no gradient."""
        if not epochs:
            return
        if self.sparse and trainer.world_size > 1:
            raise ValueError(
                "sparse: an adapter that is pretrained leaves embedding tables without a gradient at first, which "
                "torch's DDP cannot do for sparse ones; set sparse: false, or train on one device"
            )
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            trainer.fit_loop.max_epochs = trainer.max_epochs + epochs
        if isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def read_representations(self, context: StageContext) -> tuple[Representations | None, Representations | None]:
        """The representations of products and of queries that this run reads."""
        if not self.adapter.reads_content:
            return None, None
        assert self.representation != "truth"
        return read_representations(context, self.representation)

    def train_dataloader(self) -> DataLoader[ImpressionBatch]:
        return row_loader(self.train_impressions, self.context)

    def training_step(self, batch: ImpressionBatch, step: int) -> Tensor:
        pretraining = self.current_epoch < self.pretraining_epochs
        logits = self.model.pretraining_logits(batch) if pretraining else self.model(batch)
        loss = F.binary_cross_entropy_with_logits(logits, batch.clicked)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_start(self) -> None:
        """Let the ids begin anew where it is time, and the optimizer forget what it knew of them."""
        epoch = self.current_epoch - self.pretraining_epochs
        continued = self.current_epoch == self.context.position.epoch and self.context.position.batch > 0
        if self.id_epochs is None or epoch <= 0 or epoch % self.id_epochs or continued:
            return
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        rng = np.random.default_rng([self.context.seed, epoch])  # the same in every process
        for table in self.model.id_tables().values():
            fresh = rng.standard_normal(table.weight.shape, dtype=np.float32) * ID_STD
            table.weight.data.copy_(torch.from_numpy(fresh))
            optimizer.state.pop(table.weight, None)
        if self.warm_start is not None:
            self.warm_start.load_ids(self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimizer(trained_parameters(self, decayed=self.decayed), OptimizerContext.of(self))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is told to, sparse gradients too."""
        if not self.sparse:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            by_value = gradient_clip_algorithm == "value"
            clip_gradients(self.parameters(), gradient_clip_val, "value" if by_value else "norm")

    @torch.inference_mode()
    def predict(self, impressions: Impressions) -> NDArray[np.float64]:
        """Probability of a click of every impression, float64 [n], in order."""
        device = self.context.trainer.strategy.root_device
        self.model.to(device).eval()
        loader = DataLoader(
            impressions, sampler=BatchRows(len(impressions), 4 * self.context.data.batch_size, None), batch_size=None
        )
        batches = self.context.progress.through(
            loader, "impressions", len(impressions), lambda batch: len(batch.target)
        )
        logits = [self.model(move_data_to_device(batch, device)).double().cpu() for batch in batches]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *logits]).sigmoid().numpy()
