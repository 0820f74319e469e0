"""Represent every product and query, and measure retrieval with the representations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moonlib.data.content import Modalities, Side
from moonlib.data.dataset import Dataset
from moonlib.data.quarantine import Quarantine
from moonlib.data.segments import SEGMENTS, product_segments
from moonlib.data.splits import Split
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.thumbnail import Thumbnail
from moonlib.encoders.weights import load_weights
from moonlib.metrics.recall import ranks, recall_at
from moonlib.representations.embed import Contents, embed
from moonlib.representations.store import Representations
from moonlib.stages.stage import Need, Reference, Stage, StageContext

Task = Literal["image_search", "text_search"]
EVALUATED: tuple[Split, ...] = ("valid", "test")


@dataclass
class RepresentData:
    """What is represented and searched.

    Args:
        product: modalities of a product that its representation reads.
        query: modalities of a query that its representation reads.
        gallery: what a search runs over: every product listed by then (``listed``), or only products listed during
            the days of the split (``new``: held-out products among themselves).
        segments: columns of the queries table whose values are reported apart: ``[language]`` adds
            ``text_search/recall@10@en``.
        batch_size: rows encoded at once.
        workers: loader processes; has no effect on the result.
    """

    product: str = "title+image"
    query: str = "text+image"
    gallery: Literal["listed", "new"] = "listed"
    segments: list[str] = field(default_factory=list)
    batch_size: int = 256
    workers: int = 2


def evaluation_searches(dataset: Dataset, split: Split, task: Task) -> pl.DataFrame:
    """The searches that recall is measured on: those of the split's days that ended in an order.

    Args:
        dataset: any dataset.
        split: ``valid`` or ``test`` days.
        task: ``image_search`` takes searches by photo, ``text_search`` those by text.

    Returns:
        One row per search and ordered SPU: search_id, user_id, query_id, item_id, spu_id, ts.
    """
    content = "image" if task == "image_search" else "text"
    queries = dataset.queries.filter(pl.col(content).is_not_null()).select("query_id")
    return (
        dataset.splits.select(dataset.searches, split)
        .filter(pl.col("action") == "order")
        .join(queries, on="query_id", how="semi", maintain_order="left")
        .join(dataset.products.select("item_id", "spu_id"), on="item_id", how="left", maintain_order="left")
        .unique(["search_id", "spu_id"], keep="first", maintain_order=True)
        .select("search_id", "user_id", "query_id", "item_id", "spu_id", "ts")
    )


def microseconds(column: pl.Series) -> torch.Tensor:
    """Timestamps as int64 [N] microseconds since 1970."""
    return torch.from_numpy(column.dt.epoch("us").to_numpy().copy())


class Represent(Stage):
    """Encodes all products and queries, and reports recall on validation and test days.

    An image search is encoded from its photo alone, a text search from its text alone, whatever else the query has;
    the stored representation of a query reads ``data.query``.

    Args:
        of: what makes the representations: the trained ``encoder``, the same one ``untrained``, colours alone
            (``thumbnail``), nothing at all (``chance``), or the true latents of a simulated dataset (``oracle``).
        ks: the K of recall@K.
    """

    data_type: ClassVar[type] = RepresentData
    provides: ClassVar[Literal["weights", "representations"] | None] = "representations"

    def __init__(
        self,
        of: Literal["encoder", "untrained", "thumbnail", "chance", "oracle"] = "encoder",
        ks: list[int] = [1, 10],  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        super().__init__()
        self.of = of
        self.ks = ks

    @property
    def needs(self) -> frozenset[Need]:
        needs: dict[str, frozenset[Need]] = {
            "encoder": frozenset({"encoder", "weights"}),
            "untrained": frozenset({"encoder"}),
        }
        return needs.get(self.of, frozenset())

    def references(self, dataset: Dataset) -> list[Reference]:
        references = [
            Reference("baseline/chance", "chance", {"of": "chance"}),
            Reference("baseline/thumbnail", "thumbnail", {"of": "thumbnail"}),
            Reference("baseline/untrained", "untrained", {"of": "untrained"}),
        ]
        if dataset.truth is not None:
            references.append(Reference("oracle", "oracle", {"of": "oracle"}))
        return references

    def run(self, context: StageContext) -> dict[str, float]:
        dataset = context.dataset
        if self.of in ("chance", "oracle"):
            made = oracle_representations if self.of == "oracle" else chance_representations
            products, queries = made(dataset)
            return self.evaluate(context, products, {"image_search": queries, "text_search": queries})
        encoder = self.encoder(context)
        products = self.embed(context, encoder, "product", dataset.products["item_id"].to_numpy())
        searched = {
            task: self.embed(context, encoder, "query", ids, modality)
            for task, modality, ids in self.searched_queries(dataset, encoder)
        }
        if self.of == "encoder":
            products.save(context.directory, "products")
            queries = self.embed(context, encoder, "query", dataset.queries["query_id"].to_numpy())
            queries.save(context.directory, "queries")
        return self.evaluate(context, products, searched)

    def encoder(self, context: StageContext) -> Encoder:
        """The encoder that makes the representations, with the weights it is to have."""
        if self.of == "thumbnail":
            encoder: Encoder = Thumbnail()
            encoder.setup(context.dataset.products, context.directory)
            return encoder
        assert context.encoder is not None
        if self.of == "encoder" and context.weights is not None:
            load_weights(context.encoder, context.weights)
        return context.encoder

    def searched_queries(self, dataset: Dataset, encoder: Encoder) -> Iterator[tuple[Task, str, NDArray[np.int64]]]:
        """The task, modality and query ids that recall is measured on, for the towers the encoder has."""
        tasks: list[tuple[Task, str, int]] = [
            ("image_search", "image", encoder.image_dim),
            ("text_search", "text", encoder.text_dim),
        ]
        for task, modality, width in tasks:
            if width:
                found = [evaluation_searches(dataset, split, task)["query_id"] for split in EVALUATED]
                yield task, modality, pl.concat(found).unique().sort().to_numpy()

    def embed(
        self,
        context: StageContext,
        encoder: Encoder,
        side: Side,
        ids: NDArray[np.int64],
        modalities: str | None = None,
    ) -> Representations:
        """Encode the given products or queries, by default from the modalities that the recipe names."""
        data = context.data
        contents = Contents(
            context.dataset.directory,
            side,
            ids,
            Modalities.parse(modalities or (data.product if side == "product" else data.query)),
            encoder.preprocessor,
            Quarantine(context.directory / "quarantine.jsonl", total=len(ids)),
            data.batch_size,
        )
        return embed(encoder, contents, device=context.trainer.strategy.root_device, workers=data.workers)

    def evaluate(
        self, context: StageContext, products: Representations, searched: dict[Task, Representations]
    ) -> dict[str, float]:
        """Recall of every task on validation and test days; the rank of each search is kept in ``searches.parquet``."""
        found = [
            self.rank_searches(context, task, split, products, queries)
            for task, queries in searched.items()
            for split in EVALUATED
        ]
        table = pl.concat(found)
        table.write_parquet(context.directory / "searches.parquet")
        metrics: dict[str, float] = {}
        for (task, split), group in table.group_by("task", "split", maintain_order=True):
            prefix = f"{task}/" if split == "test" else f"{split}/{task}/"
            parts = {"": group} | {f"@{segment}": group.filter(pl.col(segment)) for segment in SEGMENTS}
            for column in context.data.segments:
                named = group.drop_nulls(column).partition_by(column, as_dict=True)
                parts |= {f"@{value}": part for (value,), part in sorted(named.items())}
            for k in self.ks:
                for suffix, part in parts.items():
                    if len(part):
                        recall = recall_at(part["rank"].to_torch(), k, int(part["gallery"].to_numpy().min()))
                        metrics[f"{prefix}recall@{k}{suffix}"] = float(recall)
        return metrics

    def rank_searches(
        self, context: StageContext, task: Task, split: Split, products: Representations, queries: Representations
    ) -> pl.DataFrame:
        """Rank the ordered product of each search, among a gallery whose size stands beside; one row per search."""
        dataset = context.dataset
        searches = evaluation_searches(dataset, split, task)
        unknown = [name for name in context.data.segments if name not in dataset.queries.columns]
        if unknown:
            raise ValueError(f"represent: segments: the queries table has no column '{unknown[0]}'")
        columns = dataset.queries.select("query_id", *context.data.segments)
        gallery = dataset.products.select("item_id", "spu_id", "listed_at")
        if context.data.gallery == "new":
            start, end = dataset.splits.window(split)
            gallery = gallery.filter(pl.col("listed_at") >= start, pl.col("listed_at") < end)
        rows = queries.rows(searches["query_id"].to_numpy())
        rank = ranks(
            torch.from_numpy(np.asarray(queries.vectors[rows])),
            torch.from_numpy(np.asarray(products.vectors[products.rows(gallery["item_id"].to_numpy())])),
            torch.from_numpy(searches["spu_id"].to_numpy().copy()),
            torch.from_numpy(gallery["spu_id"].to_numpy().copy()),
            microseconds(searches["ts"]),
            microseconds(gallery["listed_at"]),
        )
        return (
            searches.select("search_id", "user_id", "query_id", "item_id")
            .with_columns(
                pl.Series("rank", rank.numpy()), task=pl.lit(task), split=pl.lit(split), gallery=pl.lit(len(gallery))
            )
            .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
            .join(columns, on="query_id", how="left", maintain_order="left")
        )


def chance_representations(dataset: Dataset) -> tuple[Representations, Representations]:
    """Random directions for products and queries: what a ranking that knows nothing reaches."""
    rng = np.random.default_rng(0)

    def draw(ids: pl.Series) -> Representations:
        return Representations(ids.to_numpy(), rng.standard_normal((len(ids), 32), dtype=np.float32))

    return draw(dataset.products["item_id"]), draw(dataset.queries["query_id"])


def oracle_representations(dataset: Dataset) -> tuple[Representations, Representations]:
    """The true latents of products and queries, from files that training never reads.

    Raises:
        FileNotFoundError: for a dataset that is not simulated.
    """
    if dataset.truth is None:
        raise FileNotFoundError(f"{dataset.directory} has no true latents: only a simulated dataset has an oracle")

    def read(path: Path, key: str) -> Representations:
        table = pl.read_ipc(path)
        return Representations(table[key].to_numpy(), np.stack(table["latent"].to_list()).astype(np.float32))

    return read(dataset.truth / "products.arrow", "item_id"), read(dataset.truth / "queries.arrow", "query_id")
