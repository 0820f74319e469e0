"""Application: a click-through-rate model that reads the frozen representations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.data.dataset import Dataset
from moonlib.data.impressions import BatchRows, ImpressionBatch, Impressions, Vocabularies
from moonlib.data.segments import SEGMENTS, product_segments
from moonlib.data.splits import Split
from moonlib.encoders.weights import save_weights
from moonlib.metrics.auc import auc
from moonlib.metrics.ece import ece
from moonlib.metrics.gauc import gauc
from moonlib.metrics.log_loss import log_loss
from moonlib.metrics.ne import ne
from moonlib.metrics.pcoc import pcoc
from moonlib.predictors.predictor import Predictor
from moonlib.representations.store import Representations
from moonlib.stages.represent import EVALUATED, oracle_representations
from moonlib.stages.stage import Need, Reference, Stage, StageContext
from moonlib.stages.training import train


@dataclass
class ImpressionData:
    """How impressions are turned into batches.

    Args:
        batch_size: impressions in a batch, over all devices.
        history: how many of a shopper's latest items are read.
        query_history: how many of a shopper's latest queries are read.
        workers: loader processes; has no effect on the batches.
    """

    batch_size: int = 1024
    history: int = 20
    query_history: int = 10
    workers: int = 0


class ClickModel(nn.Module):
    """Ids, side information and the adapter's features of an impression → the logit of a click.

    Args:
        adapter: reads target, behaviours and query.
        predictor: maps all features to a logit.
        sizes: rows of the embedding tables of users, items, categories and merchants.
        id_dim: width E of every embedding.
        dim: width D of the representations, 0 without any.
    """

    def __init__(
        self, adapter: Adapter, predictor: Predictor, sizes: tuple[int, int, int, int], id_dim: int, dim: int
    ) -> None:
        super().__init__()
        self.user, self.item, self.category, self.merchant = (nn.Embedding(size, id_dim) for size in sizes)
        for table in (self.user, self.item, self.category, self.merchant):
            # Small and not zero: an id says little until it is trained, and products of embeddings still learn.
            nn.init.normal_(table.weight, std=0.01)
        adapter.setup(id_dim, dim)
        predictor.setup(3 * id_dim + 1 + adapter.out_features)
        self.adapter = adapter
        self.predictor = predictor

    def forward(self, batch: ImpressionBatch) -> Tensor:
        """Return the logits, float [B]."""
        behaviours = BehaviourBatch(
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
            has_query=batch.query_known,
        )
        side = [self.user(batch.user), self.category(batch.category), self.merchant(batch.merchant)]
        return self.predictor(torch.cat([*side, batch.price.unsqueeze(1), self.adapter(behaviours)], dim=1))


def ctr_metrics(predictions: pl.DataFrame) -> dict[str, float]:
    """All CTR metrics of n predictions.

    Args:
        predictions: n rows with probability float64, clicked bool and user_id int64 (for GAUC).

    Returns:
        ``auc``, ``gauc``, ``logloss``, ``ne``, ``pcoc``, ``ece``.
    """
    p, y, u = (torch.from_numpy(predictions[name].to_numpy().copy()) for name in ("probability", "clicked", "user_id"))
    values = {
        "auc": auc(p, y),
        "gauc": gauc(p, y, u),
        "logloss": log_loss(p, y),
        "ne": ne(p, y),
        "pcoc": pcoc(p, y),
        "ece": ece(p, y),
    }
    return {name: float(value) for name, value in values.items()}


class Application(Stage):
    """Trains a CTR model on the training days and reads the test days once.

    Everything but the representation and its adapter is equal across a run and its references: id-only, the same
    vectors shuffled among the products, the true latents of a simulated dataset, and its true click probability.

    Args:
        adapter: turns representations and behaviours into features.
        predictor: maps features to a logit.
        representation: ``learned`` by the stages before, the same ``shuffled`` among the ids, the true latents of a
            simulated dataset (``oracle``), or no model at all but the true click probability (``truth``).
        id_dim: width of the id embeddings.
        learning_rate: of Adam.
    """

    data_type: ClassVar[type] = ImpressionData

    def __init__(
        self,
        adapter: Adapter,
        predictor: Predictor,
        representation: Literal["learned", "shuffled", "oracle", "truth"] = "learned",
        id_dim: int = 16,
        learning_rate: float = 3e-3,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.predictor = predictor
        self.representation = representation
        self.id_dim = id_dim
        self.learning_rate = learning_rate

    @property
    def needs(self) -> frozenset[Need]:
        learned = self.representation in ("learned", "shuffled") and self.adapter.reads_content
        return frozenset({"representations"}) if learned else frozenset()

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
        predictions.write_parquet(context.directory / "predictions.parquet")
        metrics: dict[str, float] = {}
        for name in EVALUATED:
            prefix = "ctr/" if name == "test" else f"{name}/ctr/"
            split = predictions.filter(pl.col("split") == name)
            metrics |= {f"{prefix}{key}": value for key, value in ctr_metrics(split).items()}
            for segment in SEGMENTS:
                part = split.filter(pl.col(segment))
                # A metric of clicks needs both outcomes; a small segment may lack one and is then left out.
                if part["clicked"].n_unique() == 2:
                    metrics |= {f"{prefix}{key}@{segment}": value for key, value in ctr_metrics(part).items()}
        return metrics

    def fit_and_predict(
        self, context: StageContext, rows: dict[Split, pl.DataFrame]
    ) -> dict[Split, NDArray[np.float64]]:
        """Train on the training days; return the probabilities of the validation and test impressions.

        Of several processes the first predicts.
        """
        vocabularies = Vocabularies.of(context.dataset, rows["train"])
        products, queries = self.read_representations(context)
        impressions = {
            name: Impressions(
                context.dataset,
                table,
                vocabularies,
                history=context.data.history,
                query_history=context.data.query_history,
                products=products,
                queries=queries,
            )
            for name, table in rows.items()
        }
        sizes = (
            len(vocabularies.user),
            len(vocabularies.item),
            len(vocabularies.category) + 1,
            len(vocabularies.merchant),
        )
        self.model = ClickModel(self.adapter, self.predictor, sizes, self.id_dim, products.dim if products else 0)
        self.train_impressions, self.context = impressions["train"], context
        train(self, context)
        if not context.trainer.is_global_zero:
            return {}
        save_weights(self.model, context.directory / "weights.safetensors")
        return {name: self.predict(impressions[name]) for name in EVALUATED}

    def read_representations(self, context: StageContext) -> tuple[Representations | None, Representations | None]:
        """The representations of products and of queries that this run reads."""
        if not self.adapter.reads_content:
            return None, None
        if self.representation == "oracle":
            return oracle_representations(context.dataset)
        place = context.representations
        assert place is not None
        products = Representations.open(place, "products")
        # A data set may come with representations of its products alone; a represent stage makes both.
        given = place == context.dataset.representations
        queries = None if given and not (place / "queries.npy").exists() else Representations.open(place, "queries")
        if self.representation == "shuffled":
            return products.shuffled(context.seed), queries and queries.shuffled(context.seed)
        return products, queries

    def train_dataloader(self) -> DataLoader[ImpressionBatch]:
        data = self.context.data
        sampler = BatchRows(
            len(self.train_impressions),
            data.batch_size,
            # Epochs of one batch are there to learn it by heart: it has to be the same one.
            None if repr(self.trainer.limit_train_batches) == "1" else self.context.seed,
            self.trainer.global_rank,
            self.trainer.world_size,
            epoch=self.context.position.epoch,
            start=self.context.position.batch,
        )
        generator = torch.Generator().manual_seed(self.context.seed)
        return DataLoader(
            self.train_impressions, sampler=sampler, batch_size=None, num_workers=data.workers, generator=generator
        )

    def training_step(self, batch: ImpressionBatch, step: int) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self.model(batch), batch.clicked)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    @torch.inference_mode()
    def predict(self, impressions: Impressions) -> NDArray[np.float64]:
        """Probability of a click of every impression, float64 [n], in order."""
        device = self.context.trainer.strategy.root_device
        self.model.to(device).eval()
        loader = DataLoader(
            impressions, sampler=BatchRows(len(impressions), 4 * self.context.data.batch_size, None), batch_size=None
        )
        logits = [self.model(move_data_to_device(batch, device)).double().cpu() for batch in loader]
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
