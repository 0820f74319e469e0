"""Application: a click-through-rate model that reads the frozen representations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
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
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.adapters.id_features import id_features
from moonlib.artifacts.layout import PREDICTIONS, WEIGHTS
from moonlib.clicks.features import FeatureKind, Features, FeatureSizes
from moonlib.clicks.impressions import CLICK_READS, BatchRows, ImpressionBatch, Impressions, Lookups, Vocabularies
from moonlib.data.dataset import Dataset
from moonlib.data.reads import Reads
from moonlib.data.segments import (
    SEGMENT_READS,
    SEGMENTS,
    product_segments,
    segment_columns,
    segment_label,
)
from moonlib.data.splits import Split
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.metrics.auc import AUC
from moonlib.metrics.counts import note_rows, rows_key
from moonlib.metrics.ctr import ctr_metrics, own_metrics
from moonlib.metrics.key import MetricKey
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
from moonlib.predictors.feature_encoder import FeatureEncoder
from moonlib.predictors.predictor import Predictor
from moonlib.representations.store import Representations
from moonlib.stages.clipping import clip_gradients
from moonlib.stages.represent import EVALUATED, read_representations
from moonlib.stages.stage import Need, Reference, Stage, StageContext
from moonlib.stages.training import row_loader, train
from moonlib.stages.validation import Validation

ID_STD = 0.01
"""Spread of an id's embedding before it is trained."""

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
    """

    batch_size: int = 1024
    history: int = 20
    query_history: int = 10
    similarity_topk: int | None = None
    segments: list[str] = field(default_factory=list)
    workers: int = 0


class ClickModel(nn.Module):
    """Ids, side information and the adapter's features of an impression → the logit of a click.

    Args:
        adapter: reads target, behaviours and query.
        predictor: maps all features to a logit.
        sizes: rows of the embedding tables, of ``user``, ``item``, ``category``, ``merchant`` and, where the adapter
            reads them, ``query``.
        id_dim: width E of every embedding.
        dim: width D of the representations, 0 without any.
        features: sizes of the declared features, None without any.
        sparse: give embedding tables sparse gradients.
    """

    def __init__(
        self,
        adapter: Adapter,
        predictor: Predictor,
        sizes: Mapping[str, int],
        id_dim: int,
        dim: int,
        features: FeatureSizes | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.user, self.item, self.category, self.merchant = (
            nn.Embedding(sizes[name], id_dim, sparse=sparse) for name in ("user", "item", "category", "merchant")
        )
        self.query = nn.Embedding(sizes["query"], id_dim, sparse=sparse) if "query" in sizes else None
        for table in self.id_tables():
            # Small and not zero: an id says little until it is trained, and products of embeddings still learn.
            nn.init.normal_(table.weight, std=ID_STD)
        adapter.setup(id_dim, dim)
        self.features = FeatureEncoder(features, id_dim, sparse) if features else None
        declared = self.features.out_features if self.features else 0
        width = 6 * id_dim + 1 + declared + adapter.out_features
        # What joins the predictor at matching points is no input of it; a predictor that cannot be joined takes it so.
        self.matching = adapter.matching if predictor.joins else ()
        setup: Callable[..., None] = predictor.setup
        if self.matching:
            setup(width - sum(self.matching), self.matching)
        else:
            setup(width)
        self.adapter = adapter
        self.predictor = predictor

    def id_tables(self) -> list[nn.Embedding]:
        """The embedding tables of ids."""
        tables = [self.user, self.item, self.category, self.merchant]
        return tables if self.query is None else [*tables, self.query]

    def behaviours(self, batch: ImpressionBatch) -> BehaviourBatch:
        """Embed the ids of a batch."""
        query_id, query_ids = (
            batch.price.new_zeros(*rows.shape, 0) if self.query is None else self.query(rows.clamp(min=0))
            for rows in (batch.query, batch.query_history)
        )
        query_id = query_id.masked_fill((batch.query < 0).unsqueeze(1), 0)
        return BehaviourBatch(
            target_id=self.item(batch.target),
            target=batch.target_vector,
            target_known=batch.target_known,
            item_ids=self.item(batch.history),
            item_mask=batch.history_mask,
            items=batch.history_vectors,
            item_known=batch.history_known,
            queries=batch.query_history_vectors,
            query_known=batch.query_history_known,
            query=batch.query_vector,
            has_query=batch.has_query,
            query_id=query_id,
            query_ids=query_ids,
            query_mask=batch.query_history_mask,
        )

    def pretraining_logits(self, batch: ImpressionBatch) -> Tensor:
        """The logits of an adapter that is pretrained, float [B]."""
        return self.adapter.pretraining_logits(self.behaviours(batch))

    def forward(self, batch: ImpressionBatch) -> Tensor:
        """Return the logits, float [B]."""
        behaviours = self.behaviours(batch)
        ids = id_features(behaviours.target_id, behaviours.item_ids, behaviours.item_mask)
        side = [self.user(batch.user), self.category(batch.category), self.merchant(batch.merchant)]
        declared = [self.features(batch.features)] if self.features else []
        features = torch.cat([*side, batch.price.unsqueeze(1), *declared, ids, self.adapter(behaviours)], dim=1)
        if not self.matching:
            return self.predictor(features)
        inputs, *matched = features.split([features.shape[1] - sum(self.matching), *self.matching], dim=1)
        return self.predictor(inputs, matched)


class Application(Stage):
    """Trains a CTR model on the training days and reads the test days once.

    Everything but the representation and its adapter is equal across a run and its references: id-only, the same
    vectors shuffled among the products, the true latents of a simulated dataset, and its true click probability.

    An adapter that is pretrained adds its epochs to the trainer's and comes first.

    Args:
        adapter: turns representations and behaviours into features.
        predictor: maps features to a logit.
        representation: ``learned`` by the stages before, the same ``shuffled`` among the ids, the true latents of a
            simulated dataset (``oracle``), or no model at all but the true click probability (``truth``).
        id_dim: width of the id embeddings.
        learning_rate: of Adam.
        id_epochs: after this many epochs the id embeddings begin anew. A click model overfits in its second epoch,
            because it learns to trust embeddings that have memorised the training clicks; with 1, ids are trained
            for one epoch and everything else for all. Null for never.
        features: more columns of users, products, queries and impressions as features, ``table.column: kind``, see
            `moonlib.clicks.features.FeatureKind`.
        min_count: users, items and values of features seen less often in training share the row of the unknown.
        buckets: hash users, items and values of features into so many rows each, in place of exact vocabularies.
        sparse: sparse gradients of embedding tables, with lazy Adam: a step costs what the batch costs and not what
            the catalogue costs.
        metrics: measured besides AUC, GAUC, log loss, NE, PCOC and ECE, see `moonlib.metrics.metric`; one of the name
            of these takes its place.
        optimizer: takes the place of Adam with its ``learning_rate``; null for that.

    Raises:
        ValueError: if ``id_epochs``, ``min_count`` or ``buckets`` is below 1, a metric can't be computed here, or
            ``optimizer`` takes no sparse gradients where ``sparse`` makes them.

    Source: Zhang et al., "Towards understanding the overfitting phenomenon of deep click-through rate prediction
    models" (arXiv 2209.06053), for the one epoch; Liu et al., "Multi-epoch learning for deep click-through rate
    prediction models" (arXiv 2305.19531), for embeddings that begin anew.
    """

    data_type: ClassVar[type] = ImpressionData
    validates: ClassVar[bool] = True

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
    ) -> None:
        super().__init__()
        for name, value in (("id_epochs", id_epochs), ("min_count", min_count), ("buckets", buckets)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.adapter = adapter
        self.predictor = predictor
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
        self.metrics = with_metrics(own_metrics(), metrics, "ctr")
        self.validation: Validation | None = None

    def meanings(self) -> dict[str, Meaning]:
        return {f"ctr/{name_of(metric)}": meaning_of(metric) for metric in self.metrics}

    @property
    def needs(self) -> frozenset[Need]:
        learned = self.representation in ("learned", "shuffled") and self.adapter.reads_content
        return frozenset({"representations"}) if learned else frozenset()

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
            Reference("baseline", "id only", {"adapter": "id_only"}),
            Reference("baseline/shuffled", "shuffled", {"representation": "shuffled"}),
        ]
        if dataset.truth is not None:
            references.append(Reference("oracle", "oracle", {"representation": "oracle"}))
            references.append(Reference("ceiling", "ceiling", {"representation": "truth", "adapter": "id_only"}))
        return references

    def run(self, context: StageContext) -> dict[str, float]:
        dataset = context.dataset
        splits: tuple[Split, ...] = ("train", *EVALUATED)
        rows = {name: dataset.splits.check(dataset.impressions, name, "impressions") for name in splits}
        declared = segment_columns(dataset, context.data.segments)
        if self.representation == "truth":
            predicted = {name: true_probability(dataset, rows[name]) for name in EVALUATED}
        else:
            predicted = self.fit_and_predict(context, rows)
        if not context.trainer.is_global_zero:
            return {}
        predictions = pl.concat(
            [
                rows[name]
                .select("search_id", "user_id", "item_id", "clicked")
                .with_columns(pl.lit(name).alias("split"), pl.Series("probability", probability))
                .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
                for name, probability in predicted.items()
            ]
        )
        for frame in declared.values():
            predictions = predictions.join(frame, on=frame.columns[0], how="left", maintain_order="left")
        kept = dataset.ids.decoded(predictions, "search_id", "user_id", "item_id")
        kept.write_parquet(context.directory / PREDICTIONS)
        metrics: dict[str, float] = {}
        rows_of: dict[str, int] = {}
        for name in EVALUATED:
            split = predictions.filter(pl.col("split") == name)
            parts = {"": split} | {segment: split.filter(segment) for segment in SEGMENTS}
            for column in declared:
                for part in split.partition_by(column, maintain_order=True):
                    value = part[column][0]
                    text = str(value).lower() if isinstance(value, bool) else value
                    parts[segment_label(f"{column}={text}")] = part
            for segment, part in parts.items():
                for metric, value in ctr_metrics(part, self.metrics).items():
                    key = MetricKey("test" if name == "test" else "valid", "", "ctr", metric, segment)
                    metrics[str(key)], rows_of[rows_key(key)] = value, len(part)
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
        read = self.make_model(context, rows["train"], products, queries)
        impressions = {name: read(table) for name, table in rows.items()}
        if products:
            listed = context.dataset.splits.known(context.dataset.table("products", ("item_id", "listed_at")))
            fitted = listed["item_id"].to_numpy()
            if len(fitted) > FITTED:
                fitted = np.random.default_rng(context.seed).choice(fitted, FITTED, replace=False)
            self.adapter.fit(torch.from_numpy(products.gather(fitted)))
        self.train_impressions, self.context = impressions["train"], context
        self.add_epochs(context.trainer, self.adapter.pretraining_epochs)
        self.decayed = matrices(self)
        self.validation = self.make_validation(context, rows["valid"], read)
        train(self, context, self.validation)
        if not context.trainer.is_global_zero:
            return {}
        save_weights(self.model, context.directory / WEIGHTS)
        return {name: self.predict(impressions[name]) for name in EVALUATED}

    def make_validation(
        self, context: StageContext, rows: pl.DataFrame, read: Callable[[pl.DataFrame], Impressions]
    ) -> Validation | None:
        """Make what measures AUC and log loss while this stage trains; None without the key ``validate``.

        Args:
            context: what the stage was given.
            rows: impressions of the validation days.
            read: reads a table of impressions as the model does.
        """
        if context.validate is None:
            return None
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
        self.context = context
        products, queries = self.read_representations(context)
        if queries is not None and asked is not None:
            asked = asked.shuffled(context.seed) if self.representation == "shuffled" else asked
            ids = np.concatenate([queries.ids, asked.ids])
            queries = Representations(ids, np.concatenate([store.read(slice(None)) for store in (queries, asked)]))
        train = context.dataset.splits.check(context.dataset.impressions, "train", "impressions")
        with torch.random.fork_rng(devices=[]):  # which first weights and a loader draw from
            read = self.make_model(context, train, products, queries)
            load_weights(self.model, context.directory / WEIGHTS)
            return self.predict(read(impressions))

    def make_model(
        self,
        context: StageContext,
        train: pl.DataFrame,
        products: Representations | None,
        queries: Representations | None,
    ) -> Callable[[pl.DataFrame], Impressions]:
        """Fit vocabularies and features to the training impressions and make the untrained `model`.

        Args:
            context: what the stage was given.
            train: the training impressions.
            products: representations of products, None for none.
            queries: representations of queries, None for none.

        Returns:
            What reads a table of impressions as the model does.
        """
        vocabularies = Vocabularies.of(context.dataset, train, self.min_count, self.buckets)
        features = (
            Features.fit(context.dataset, train, self.features, self.min_count, self.buckets) if self.features else None
        )
        lookups = Lookups.of(context.dataset, vocabularies, products, queries)
        sizes = {
            "user": len(vocabularies.user),
            "item": len(vocabularies.item),
            "category": len(vocabularies.category) + 1,
            "merchant": len(vocabularies.merchant),
        }
        if self.adapter.reads_query_ids:
            sizes["query"] = len(vocabularies.query)
        self.model = ClickModel(
            self.adapter,
            self.predictor,
            sizes,
            self.id_dim,
            products.dim if products else 0,
            features.sizes if features else None,
            self.sparse,
        )
        return partial(
            Impressions,
            lookups=lookups,
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
        pretraining = self.current_epoch < self.adapter.pretraining_epochs
        logits = self.model.pretraining_logits(batch) if pretraining else self.model(batch)
        loss = F.binary_cross_entropy_with_logits(logits, batch.clicked)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_start(self) -> None:
        """Let the ids begin anew where it is time, and the optimizer forget what it knew of them."""
        epoch = self.current_epoch - self.adapter.pretraining_epochs
        continued = self.current_epoch == self.context.position.epoch and self.context.position.batch > 0
        if self.id_epochs is None or epoch <= 0 or epoch % self.id_epochs or continued:
            return
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        rng = np.random.default_rng([self.context.seed, epoch])  # the same in every process
        for table in self.model.id_tables():
            fresh = rng.standard_normal(table.weight.shape, dtype=np.float32) * ID_STD
            table.weight.data.copy_(torch.from_numpy(fresh))
            optimizer.state.pop(table.weight, None)

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
        return torch.cat(logits).sigmoid().numpy()


def true_probability(dataset: Dataset, impressions: pl.DataFrame) -> NDArray[np.float64]:
    """The simulation's own probability of each click, position included: no model can know more.

    Args:
        dataset: a simulated dataset.
        impressions: n rows of its impressions.

    Returns:
        float64 [n].
    """
    assert dataset.truth is not None
    truth = pl.read_ipc(dataset.truth / "impressions.arrow")
    keys = ["search_id", "item_id"]
    joined = impressions.select(keys).join(truth, on=keys, how="left", maintain_order="left")
    return joined["p_click"].to_numpy().astype(np.float64)
