"""Relevance: how well a product answers a query, learned from graded labels over the frozen representations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchmetrics import Metric

from moonlib.artifacts.layout import PREDICTIONS, WEIGHTS
from moonlib.clicks.impressions import BatchRows
from moonlib.data.dataset import Dataset
from moonlib.data.reads import ALL_MOMENTS, Reads
from moonlib.data.segments import (
    ASKED,
    CONTENT_READS,
    SEGMENT_READS,
    SEGMENTS,
    product_segments,
    query_contents,
)
from moonlib.data.splits import Split
from moonlib.encoders.weights import save_weights
from moonlib.metrics.auc import AUC
from moonlib.metrics.counts import note_rows, rows_key
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning, arguments_of, meaning_of, measured, name_of, with_metrics
from moonlib.metrics.ndcg import NDCG, Gain, gains
from moonlib.metrics.undefined import leave_out
from moonlib.optimizers.adam import AdamFactory
from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    chosen,
    matrices,
    trained_parameters,
)
from moonlib.predictors.mlp import MLP
from moonlib.predictors.predictor import Predictor
from moonlib.representations.store import Representations
from moonlib.stages.represent import EVALUATED, read_representations
from moonlib.stages.stage import Need, Reference, Stage, StageContext
from moonlib.stages.training import row_loader, train
from moonlib.stages.validation import Validation
from moonlib.system.disk import writing

log = logging.getLogger(__name__)


@dataclass
class JudgedData:
    """How judged impressions are turned into batches.

    Args:
        batch_size: pairs in a batch, over all devices.
        workers: loader processes; has no effect on the batches.
    """

    batch_size: int = 64
    workers: int = 0


@dataclass
class JudgedBatch:
    """B pairs of a query and an item, with representations of width D.

    Attributes:
        query: float [B, D], of any length, zeros where there is no representation.
        item: float [B, D], the same.
        target: float [B], the gain of the grade over that of the highest grade, in [0, 1].
    """

    query: Tensor
    item: Tensor
    target: Tensor


class Judged(TorchDataset[JudgedBatch]):
    """Judged impressions, read a batch of row numbers at a time.

    Args:
        impressions: n rows with query_id and item_id.
        target: float [n].
        products: representations of products.
        queries: representations of queries.
    """

    def __init__(
        self, impressions: pl.DataFrame, target: Tensor, products: Representations, queries: Representations
    ) -> None:
        self.query_id = impressions["query_id"].to_numpy()
        self.item_id = impressions["item_id"].to_numpy()
        self.target = target.float()
        self.products, self.queries = products, queries

    def __len__(self) -> int:
        return len(self.item_id)

    def __getitem__(self, rows: NDArray[np.int64]) -> JudgedBatch:
        return JudgedBatch(
            query=torch.from_numpy(self.queries.gather(self.query_id[rows])),
            item=torch.from_numpy(self.products.gather(self.item_id[rows])),
            target=self.target[torch.from_numpy(rows)],
        )


def pair_features(query: Tensor, item: Tensor) -> Tensor:
    """Features of a pair: its cosine, what each dimension adds to it, and which of the two is known.

    Args:
        query: float [B, D], of any length; zeros where there is no representation.
        item: float [B, D], the same.

    Returns:
        float [B, D + 3]: the cosine, 0 where one of the two is not known; √D times the elementwise product of the unit
        vectors, which all together is about as long as the cosine alone can be, so that neither drowns the other; 1 or
        0 for a known query, and for a known item.

    Example:
        >>> pair_features(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([[0.8000, 0.0000, 1.1314, 1.0000, 1.0000]])
    """
    product = F.normalize(query.float(), dim=1) * F.normalize(item.float(), dim=1)
    cosine = product.sum(dim=1, keepdim=True)
    known = torch.stack([query.any(dim=1), item.any(dim=1)], dim=1).to(product.dtype)
    return torch.cat([cosine, product * product.shape[1] ** 0.5, known], dim=1)


class RelevanceModel(nn.Module):
    """Representations of a query and an item → the logit of the expected gain.

    Args:
        predictor: maps `pair_features` to a logit; set up here.
        dim: width D of the representations.
    """

    def __init__(self, predictor: Predictor, dim: int) -> None:
        super().__init__()
        predictor.setup(dim + 3)
        self.predictor = predictor

    def forward(self, query: Tensor, item: Tensor) -> Tensor:
        """Return the logits, float [B], of ``query`` and ``item``, float [B, D]."""
        logits: Tensor = self.predictor(pair_features(query, item))
        return logits


class Relevance(Stage):
    """Learns from the graded pairs of the training days how relevant a product is to a query.

    The labels are the column ``relevance`` of the impressions, which most rows lack. The predictor's sigmoid is fitted
    to gain / (gain of the highest grade) by cross-entropy with soft targets, which, like every proper loss, has its
    minimum at the expected value. So it estimates the expected gain of a pair, and to order by expected gain is optimal
    for DCG (Cossock and Zhang, "Statistical analysis of Bayes optimal subset ranking", IEEE Transactions on Information
    Theory 54(11), 2008).

    Measured on the judged pairs of validation and test days: AUC of the pairs whose grade reaches ``threshold``
    against the others, and nDCG@K (see `moonlib.metrics.ndcg`) of each search's judged products, averaged over the
    searches with at least two different grades. Beside it stand the cosine alone (zero-shot: nothing is learned from
    labels), the same vectors shuffled among the ids, and the true latents of a simulated dataset. A pair without one of
    the two representations has cosine 0, and the predictor is told.

    Args:
        predictor: maps the features of a pair to a logit; the shipped ``mlp`` if not given.
        score: what orders the products of a search: the trained ``predictor``, or the ``cosine`` of the pair.
        representation: ``learned`` by the stages before, the same ``shuffled`` among the ids, or the true latents of a
            simulated dataset (``oracle``).
        gain: what a grade is worth, in training and in nDCG: ``exponential``, 2^grade − 1, or ``linear``.
        threshold: the lowest grade that counts as relevant for the AUC.
        ks: the K of nDCG@K.
        learning_rate: of Adam.
        metrics: measured besides AUC and nDCG, see `moonlib.metrics.metric`; one of the name of these takes its place.
        optimizer: takes the place of Adam with its ``learning_rate``; null for that.

    Raises:
        ValueError: if a K is below 1, or a metric can't be computed here.
    """

    data_type: ClassVar[type] = JudgedData
    validates: ClassVar[bool] = True

    def __init__(
        self,
        predictor: Predictor | None = None,
        score: Literal["predictor", "cosine"] = "predictor",
        representation: Literal["learned", "shuffled", "oracle"] = "learned",
        gain: Gain = "exponential",
        threshold: float = 2.0,
        ks: list[int] = [5, 10],  # noqa: B006  (a recipe's default is read, never written)
        learning_rate: float = 1e-3,
        metrics: list[Metric] = [],  # noqa: B006
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        if any(k < 1 for k in ks):
            raise ValueError(f"ks: each K must be at least 1, got {ks}")
        self.predictor = MLP() if predictor is None else predictor
        self.score = score
        self.representation = representation
        self.gain: Gain = gain
        self.threshold = threshold
        self.ks = ks
        self.decayed: frozenset[str] | None = None
        self.optimizer = chosen(optimizer, lambda: AdamFactory(learning_rate), Relevance, learning_rate=learning_rate)
        self.metrics = with_metrics([AUC(), *(NDCG(k, gain) for k in ks)], metrics, "relevance")

    def meanings(self) -> dict[str, Meaning]:
        return {f"relevance/{name_of(metric)}": meaning_of(metric) for metric in self.metrics}

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset() if self.representation == "oracle" else frozenset({"representations"})

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """The impressions that are judged, and what parts them into segments."""
        judged = Reads.of(impressions=["user_id", "query_id", "item_id", "relevance"], moments=ALL_MOMENTS)
        return judged | SEGMENT_READS | CONTENT_READS | Reads.of(truth=self.representation == "oracle")

    def references(self, dataset: Dataset) -> list[Reference]:
        references = [
            Reference("baseline/cosine", "zero-shot", {"score": "cosine"}),
            Reference("baseline/shuffled", "shuffled", {"representation": "shuffled"}),
        ]
        if dataset.truth is not None:
            references.append(Reference("oracle", "oracle", {"representation": "oracle"}))
        return references

    def run(self, context: StageContext) -> dict[str, float]:
        dataset = context.dataset
        splits: tuple[Split, ...] = ("train", *EVALUATED)
        if (self.score, self.representation) == ("predictor", "learned"):  # and not once more for each reference
            log_labels_without_query(dataset)
        rows = {name: judged_impressions(dataset, name) for name in splits}
        worth = self.check(rows)
        products, queries = read_representations(context, self.representation)
        if not len(queries.ids):
            raise ValueError(
                f"{context.dataset.directory} came with representations of its products alone, and the relevance stage "
                "compares them with queries: leave it out (--stages.relevance null)"
            )
        judged = {
            name: Judged(part, worth[name] / worth["train"].max(), products, queries) for name, part in rows.items()
        }
        self.train_pairs, self.context = judged["train"], context
        validation: Validation | None = None
        if self.score == "predictor":
            self.model = RelevanceModel(self.predictor, products.dim)
            self.decayed = matrices(self)
            validation = self.make_validation(context, rows["valid"], judged["valid"])
            train(self, context, validation)
        if not context.trainer.is_global_zero:
            return {}
        if self.score == "predictor":
            save_weights(self.model, context.directory / WEIGHTS)
        predictions = pl.concat(
            [
                rows[name]
                .with_columns(pl.Series("score", self.predict(judged[name])), split=pl.lit(name))
                .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
                .join(query_contents(dataset), on="query_id", how="left", maintain_order="left")
                for name in EVALUATED
            ]
        )
        with writing(context.directory / PREDICTIONS):
            kept = dataset.ids.decoded(predictions, "search_id", "user_id", "query_id", "item_id")
            kept.write_parquet(context.directory / PREDICTIONS)
        metrics: dict[str, float] = {}
        for name in EVALUATED:
            part = predictions.filter(pl.col("split") == name)
            metrics |= self.measure(part, name)
            parts = self.searches(part) | self.products(part)
            split: Literal["test", "valid"] = "valid" if name == "valid" else "test"
            keys = {segment: MetricKey(split, "", "relevance", "", segment) for segment in parts}
            note_rows(context.directory, {rows_key(keys[segment]): len(each) for segment, each in parts.items()})
        if validation is not None:
            metrics |= validation.report()
        return leave_out(metrics, context.directory)

    def make_validation(self, context: StageContext, rows: pl.DataFrame, judged: Judged) -> Validation | None:
        """Make what measures the stage's metrics while it trains; None without the key ``validate``.

        Args:
            context: what the stage was given.
            rows: judged impressions of the validation days, all of which are measured.
            judged: the same, with their representations.

        Raises:
            ValueError: there are none.
        """
        if context.validate is None:
            return None
        if rows.is_empty():
            raise ValueError(
                "validate: no impression of the validation days has a relevance label: leave it out of the relevance "
                "stage (validate: null)"
            )

        def measure() -> dict[str, float]:
            columns = self.columns(rows.with_columns(pl.Series("score", self.predict(judged))))
            return {name_of(metric): measured(metric, columns) for metric in self.metrics}

        names = {name_of(metric): metric.higher_is_better is not False for metric in self.metrics}
        return Validation(context, self.model, measure, names)

    def check(self, rows: dict[Split, pl.DataFrame]) -> dict[Split, Tensor]:
        """Gains of the grades, float64 [n] each; refuse grades that nothing can be learned from, or measured on."""
        for name in ("train", "test"):
            if rows[name].is_empty():
                raise ValueError(
                    f"no impression of the {name} days has a relevance label, and the relevance stage reads them: "
                    "leave it out (--stages.relevance null), or build the dataset with grades in the column "
                    "'relevance' of impressions"
                )
        try:
            worth = {name: gains(part["relevance"].to_torch(), self.gain) for name, part in rows.items()}
        except ValueError as error:
            raise ValueError(f"impressions, column 'relevance': {error}") from error
        if not bool(worth["train"].any()):
            raise ValueError("impressions, column 'relevance': every grade of the training days is 0")
        grades = rows["test"]["relevance"].to_torch()
        if (grades >= self.threshold).all() or (grades < self.threshold).all():
            raise ValueError(
                f"relevance: threshold: the grades of the test days run from {grades.min():g} to {grades.max():g}, "
                f"and {self.threshold:g} does not part them: choose one that has grades on both sides"
            )
        return worth

    def train_dataloader(self) -> DataLoader[JudgedBatch]:
        return row_loader(self.train_pairs, self.context)

    def training_step(self, batch: JudgedBatch, step: int) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self.model(batch.query, batch.item), batch.target)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimizer(trained_parameters(self, decayed=self.decayed), OptimizerContext.of(self))

    @torch.inference_mode()
    def predict(self, judged: Judged) -> NDArray[np.float64]:
        """Score of every pair, float64 [n], in order: its share of the highest gain, or its cosine."""
        device = self.context.trainer.strategy.root_device
        self.to(device).eval()
        loader = DataLoader(
            judged, sampler=BatchRows(len(judged), 4 * self.context.data.batch_size, None), batch_size=None
        )
        batches = self.context.progress.through(loader, "pairs", len(judged), lambda batch: len(batch.target))
        scores = [self.score_of(move_data_to_device(batch, device)).double().cpu() for batch in batches]
        return torch.cat([torch.empty(0, dtype=torch.float64), *scores]).numpy()

    def score_of(self, batch: JudgedBatch) -> Tensor:
        """Scores that order the items of a search, float [B]."""
        if self.score == "cosine":
            return pair_features(batch.query, batch.item)[:, 0]
        logits: Tensor = self.model(batch.query, batch.item)
        return logits.sigmoid()

    def searches(self, predictions: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """All pairs, and those of each way to ask."""
        return {"": predictions} | {name: predictions.filter(pl.col("asked") == name) for name in ASKED}

    def products(self, predictions: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """The pairs of each kind of product."""
        return {name: predictions.filter(pl.col(name)) for name in SEGMENTS}

    def measure(self, predictions: pl.DataFrame, split: Split) -> dict[str, float]:
        """Metrics by what was asked with; those that don't read whole searches, such as AUC, by product too."""
        searches, products = self.searches(predictions), self.products(predictions)
        found: dict[str, float] = {}
        for metric in self.metrics:
            whole = "groups" in arguments_of(metric).values()
            for segment, part in (searches if whole else searches | products).items():
                key = MetricKey("valid" if split == "valid" else "test", "", "relevance", name_of(metric), segment)
                found[str(key)] = measured(metric, self.columns(part))
        return found

    def columns(self, predictions: pl.DataFrame) -> dict[str, Tensor]:
        """Inputs of metrics, see `moonlib.metrics.metric.READS`."""
        grade = predictions["relevance"]
        read = {"scores": "score", "users": "user_id", "groups": "search_id"}
        found = {name: predictions[column].to_torch() for name, column in read.items()}
        return found | {"relevance": grade.to_torch(), "labels": (grade >= self.threshold).to_torch()}


def judged_impressions(dataset: Dataset, split: Split) -> pl.DataFrame:
    """The impressions of a split's days that carry a relevance label.

    Args:
        dataset: any dataset.
        split: which days.

    Returns:
        search_id, user_id, query_id, item_id, relevance float64; possibly no row. A label without a query judges
        nothing.
    """
    judged = dataset.impressions.filter(pl.col("relevance").is_not_null(), pl.col("query_id").is_not_null())
    return dataset.splits.select(judged, split).select("search_id", "user_id", "query_id", "item_id", "relevance")


def log_labels_without_query(dataset: Dataset) -> None:
    """Say how many relevance labels are of no use, because nothing was asked."""
    judged = dataset.impressions.filter(pl.col("relevance").is_not_null())
    if unasked := judged["query_id"].null_count():
        count = f"{unasked:,} of {len(judged):,}"
        log.warning(f"impressions with a relevance label and without a query, which are left out: {count}")
