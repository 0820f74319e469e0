"""Represent every product and query, and measure retrieval with the representations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torchmetrics import Metric

from moonlib.artifacts.layout import QUARANTINE, SEARCHES
from moonlib.data.content import Modalities, Side
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import (
    EVALUATED,
    EVALUATION_READS,
    SearchTask,
    evaluation_searches,
    log_orders_without_query,
    microseconds,
)
from moonlib.data.quarantine import Quarantine
from moonlib.data.reader import SampleReader
from moonlib.data.reads import Reads
from moonlib.data.segments import SEGMENT_READS, SEGMENTS, product_segments, segment_label
from moonlib.data.splits import Split
from moonlib.data.tables import KEYS
from moonlib.embedding.embed import Contents, Views, embed
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.thumbnail import Thumbnail
from moonlib.encoders.weights import load_weights
from moonlib.metrics.counts import note_rows, rows_key
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning, meaning_of, measured, name_of, with_metrics
from moonlib.metrics.recall import Recall, ranks
from moonlib.metrics.undefined import leave_out
from moonlib.registry.deprecation import warn_once
from moonlib.representations.store import Representations, write_vectors
from moonlib.stages.stage import Need, Reference, Stage, StageContext
from moonlib.system.disk import writing

INITIAL = "baseline/initial"
"""Prefix of the results of the encoder with the weights that it started from."""

BLOCK = 8192
"""Searches ranked at once, and vectors drawn at once."""


@dataclass
class RepresentData:
    """Options of what is represented and searched.

    Args:
        product: modalities of a product that its representation reads.
        query: modalities of a query that its representation reads.
        gallery: what a search runs over: every product listed by then (``listed``), or only products listed during
            the days of the split (``new``: held-out products among themselves).
        queries: which queries are represented: ``all``, as an application needs, only those that recall is measured
            on (``searched``), for studies of retrieval alone, or those that `measured_queries` names (``measured``),
            for an application that reads no past queries.
        segments: columns of the queries table whose values are reported apart: ``[language]`` adds
            ``text_search/recall@10@en``. A value that another segment has taken, such as ``new``, is reported as
            ``@language=new``, and an ``@`` in a value is written ``%40``.
        batch_size: rows encoded at once.
        views: which pictures of a product or query that has several are read: the ``main`` one, or all of them, whose
            vectors are averaged (``mean``: their directions, and their lengths apart).
        workers: processes that read, decode and, on a CPU, encode; has no effect on the result.
    """

    product: str = "title+image"
    query: str = "text+image"
    gallery: Literal["listed", "new"] = "listed"
    queries: Literal["all", "searched", "measured"] = "all"
    segments: list[str] = field(default_factory=list)
    batch_size: int = 64
    workers: int = 2
    views: Views = "main"


def ids_of(dataset: Dataset, table: Literal["products", "queries"]) -> NDArray[np.int64]:
    """The ids of a table, int64 [N]; its other columns are left alone."""
    return dataset.table(table, (KEYS[table],))[KEYS[table]].to_numpy()


class Represent(Stage):
    """Encodes all products and queries, and reports recall on validation and test days.

    An image search is encoded from its photo alone, a text search from its text alone, whatever else the query has;
    the stored representation of a query reads ``data.query``.

    Args:
        of: what makes the representations: the trained ``encoder``, the same one with its ``initial`` weights
            (published ones as they came, or random), colours alone (``thumbnail``), nothing at all (``chance``), or the
            true latents of a simulated dataset (``oracle``). ``untrained`` is what ``initial`` was called at first.
        ks: the K of recall@K.
        dims: numbers of leading dimensions of the trained encoder whose recall is reported besides, as in
            ``image_search/recall@10@64d``: what `moonlib embed --dim 64` is worth.
        metrics: measured besides recall, see `moonlib.metrics.metric`; one of its name takes its place.

    Raises:
        ValueError: a metric can't be computed here.
    """

    data_type: ClassVar[type] = RepresentData
    provides: ClassVar[Literal["weights", "representations"] | None] = "representations"

    def __init__(
        self,
        of: Literal["encoder", "initial", "thumbnail", "chance", "oracle", "untrained"] = "encoder",
        ks: list[int] = [1, 10],  # noqa: B006  (a recipe's default is read, never written)
        dims: list[int] = [],  # noqa: B006
        metrics: list[Metric] = [],  # noqa: B006
    ) -> None:
        super().__init__()
        if of == "untrained":
            warn_once("represent: of: 'untrained' is called 'initial' now; the old word works until release 0.7")
            of = "initial"
        self.of = of
        self.ks = ks
        self.dims = dims if of == "encoder" else []
        self.metrics = with_metrics([Recall(k) for k in ks], metrics, "search")

    def meanings(self) -> dict[str, Meaning]:
        tasks = ("image_search", "text_search")
        return {f"{task}/{name_of(metric)}": meaning_of(metric) for task in tasks for metric in self.metrics}

    @property
    def needs(self) -> frozenset[Need]:
        needs: dict[str, frozenset[Need]] = {
            "encoder": frozenset({"encoder", "weights"}),
            "initial": frozenset({"encoder"}),
        }
        return needs.get(self.of, frozenset())

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """The content of all products and queries, and the searches that recall is measured on."""
        found = EVALUATION_READS | SEGMENT_READS | Reads.of(products=["listed_at"], queries=data.segments)
        if self.of == "encoder" and data.queries == "measured":
            found |= Reads.of(impressions=["query_id"], moments=["behaviour_until"])
        if self.of in ("chance", "oracle"):
            return found | Reads.of(truth=self.of == "oracle")
        # A search is encoded from its photo or its text alone, and as it is stored from what the recipe names.
        asked = [Modalities.parse(words) for words in ("image", "text", data.query)]
        return found | Reads.content("products", [Modalities.parse(data.product)]) | Reads.content("queries", asked)

    def references(self, dataset: Dataset) -> list[Reference]:
        # Without `dims`, which say nothing here: so runs with and without them share these.
        references = [
            Reference("baseline/chance", "chance", {"of": "chance", "dims": []}),
            Reference("baseline/thumbnail", "thumbnail", {"of": "thumbnail", "dims": []}),
            Reference(INITIAL, "initial weights", {"of": "initial", "dims": []}),
        ]
        if dataset.truth is not None:
            references.append(Reference("oracle", "oracle", {"of": "oracle", "dims": []}))
        return references

    def run(self, context: StageContext) -> dict[str, float]:
        if not context.trainer.is_global_zero:
            return {}
        if self.of == "encoder" and context.data.queries != "searched":
            everything = context.data.queries == "all"
            ids = ids_of(context.dataset, "queries") if everything else measured_queries(context.dataset)
            self.embed(context, self.encoder(context), "query", ids, "queries")
        return self.retrieval(context)

    def retrieval(self, context: StageContext) -> dict[str, float]:
        """Represent the products, and the searches of validation and test days, and measure recall."""
        dataset, directory = context.dataset, context.directory
        if self.of == "encoder":  # and not once more for each reference
            log_orders_without_query(dataset)
        if self.of == "oracle":
            products, queries = oracle_representations(dataset)
            return self.evaluate(context, products, {"image_search": queries, "text_search": queries})
        if self.of == "chance":
            products = chance_representations(ids_of(dataset, "products"), directory, "products", seed=0)
            queries = chance_representations(ids_of(dataset, "queries"), directory, "queries", seed=1)
            searched: dict[SearchTask, Representations] = {"image_search": queries, "text_search": queries}
        else:
            encoder = self.encoder(context)
            products = self.embed(context, encoder, "product", ids_of(dataset, "products"), "products")
            searched = {
                task: self.embed(context, encoder, "query", ids, task, modality)
                for task, modality, ids in self.searched_queries(dataset, encoder)
            }
        metrics = self.evaluate(context, products, searched)
        # What nobody reads again: it was only written so that it need not be held in memory.
        for name in ("image_search", "text_search", *(() if self.of == "encoder" else ("products", "queries"))):
            Representations.remove(directory, name)
        return metrics

    def encoder(self, context: StageContext) -> Encoder:
        """The encoder that makes the representations, with the weights it is to have."""
        if self.of == "thumbnail":
            encoder: Encoder = Thumbnail()
            encoder.setup(pl.DataFrame(), context.directory)
            return encoder
        assert context.encoder is not None
        if wrong := [d for d in self.dims if not 1 <= d <= context.encoder.dim]:
            raise ValueError(f"represent: dims: {wrong[0]} of an encoder of {context.encoder.dim} dimensions")
        if self.of == "encoder" and context.weights is not None:
            load_weights(context.encoder, context.weights)
        return context.encoder

    def searched_queries(
        self, dataset: Dataset, encoder: Encoder
    ) -> Iterator[tuple[SearchTask, str, NDArray[np.int64]]]:
        """The task, modality and query ids that recall is measured on, for the towers the encoder has."""
        tasks: list[tuple[SearchTask, str, int]] = [
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
        name: str,
        modalities: str | None = None,
    ) -> Representations:
        """Encode the given products or queries into files, by default from the modalities that the recipe names."""
        data, counts, shop_ids = context.data, context.dataset.counts, context.dataset.ids
        contents = Contents(
            SampleReader(context.dataset, "products" if side == "product" else "queries"),
            side,
            ids,
            Modalities.parse(modalities or (data.product if side == "product" else data.query)),
            Quarantine(context.directory / QUARANTINE, total=counts["products"] + counts["queries"], ids=shop_ids),
            data.batch_size,
            shop_ids,
            data.views,
        )
        device = context.trainer.strategy.root_device
        named = name in ("products", "queries")
        with context.progress.task("products" if side == "product" else "queries", len(ids)) as task:
            return embed(
                encoder,
                contents,
                context.directory,
                name,
                device=device,
                workers=data.workers,
                named=named,
                progress=task.at,
            )

    def evaluate(
        self, context: StageContext, products: Representations, searched: dict[SearchTask, Representations]
    ) -> dict[str, float]:
        """Recall of every task on validation and test days; the rank of each search is kept in ``searches.parquet``."""
        found = [
            self.rank_searches(context, task, split, products, queries)
            for task, queries in searched.items()
            for split in EVALUATED
        ]
        table = pl.concat(found)
        with writing(context.directory / SEARCHES):
            kept = context.dataset.ids.decoded(table, "search_id", "user_id", "query_id", "item_id")
            kept.write_parquet(context.directory / SEARCHES)
        metrics: dict[str, float] = {}
        rows: dict[str, int] = {}
        dimensions = {f"{d}d": f"rank@{d}d" for d in self.dims}
        for (task, split), group in table.group_by("task", "split", maintain_order=True):
            parts = {"": group} | {segment: group.filter(pl.col(segment)) for segment in SEGMENTS}
            for column in context.data.segments:
                named = group.drop_nulls(column).partition_by(column, as_dict=True)
                for (value,), part in sorted(named.items()):
                    label = segment_label(value)
                    # A value may be called as another segment is, or not at all: then its column tells them apart.
                    taken = not value or label in parts or label in dimensions or self.may_be_k(label)
                    parts[f"{segment_label(column)}={label}" if taken else label] = part
            gallery = int(group["gallery"].to_numpy().min())  # one for the whole split
            ranked = [(segment, part, "rank") for segment, part in parts.items()]
            ranked += [(segment, group, rank) for segment, rank in dimensions.items()]
            for metric in self.metrics:
                for segment, part, rank in ranked:
                    columns = {"ranks": part[rank].to_torch(), "users": part["user_id"].to_torch(), "gallery": gallery}
                    key = MetricKey(split, "", task, name_of(metric), segment)
                    metrics[str(key)] = measured(metric, columns)
                    rows[rows_key(key)] = len(part)
        note_rows(context.directory, rows)
        return leave_out(metrics, context.directory)

    def may_be_k(self, label: str) -> bool:
        """Whether a segment's name would be read as the K of a metric that has none."""
        return any(MetricKey.parse(f"{name_of(metric)}@{label}").segment != label for metric in self.metrics)

    def rank_searches(
        self, context: StageContext, task: SearchTask, split: Split, products: Representations, queries: Representations
    ) -> pl.DataFrame:
        """Rank the ordered product of each search, among a gallery whose size stands beside; one row per search.

        A search whose query has no representation is a miss, and a product without one is never a hit.
        """
        dataset = context.dataset
        searches = evaluation_searches(dataset, split, task)
        unknown = [name for name in context.data.segments if name not in dataset.queries.columns]
        if unknown:
            raise ValueError(f"represent: segments: the queries table has no column '{unknown[0]}'")
        columns = dataset.queries.select("query_id", *context.data.segments)
        gallery = dataset.table("products", ("item_id", "spu_id", "listed_at"))
        if context.data.gallery == "new":
            start, end = dataset.splits.window(split)
            gallery = gallery.filter(pl.col("listed_at") >= start, pl.col("listed_at") < end)
        # In the order of the vectors, which stay on disk; what is outside the gallery counts as never listed.
        rows = products.rows(gallery["item_id"].to_numpy())
        there = rows >= 0
        spu, listed = np.zeros(len(products.ids), dtype=np.int64), np.full(len(products.ids), np.iinfo(np.int64).max)
        spu[rows[there]] = gallery["spu_id"].to_numpy()[there]
        listed[rows[there]] = microseconds(gallery["listed_at"]).numpy()[there]

        def ranked(dim: int | None) -> NDArray[np.int64]:
            found = [
                ranks(
                    torch.from_numpy(queries.gather(block["query_id"].to_numpy())[:, :dim]),
                    products.vectors[:, :dim],
                    torch.from_numpy(block["spu_id"].to_numpy().copy()),
                    torch.from_numpy(spu),
                    microseconds(block["ts"]),
                    torch.from_numpy(listed),
                )
                for block in context.progress.through(searches.iter_slices(BLOCK), "searches", len(searches))
            ]
            rank = torch.cat([torch.empty(0, dtype=torch.int64), *found])
            # `ranks` says that it is a miss by the number of vectors, which may differ from the size of the gallery.
            return rank.masked_fill(rank >= len(products.ids), len(gallery)).numpy()

        return (
            searches.select("search_id", "user_id", "query_id", "item_id")
            .with_columns(
                pl.Series("rank", ranked(None)),
                *(pl.Series(f"rank@{d}d", ranked(d)) for d in self.dims),
                task=pl.lit(task),
                split=pl.lit(split),
                gallery=pl.lit(len(gallery)),
            )
            .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
            .join(columns, on="query_id", how="left", maintain_order="left")
        )


def measured_queries(dataset: Dataset) -> NDArray[np.int64]:
    """The queries that measuring needs: of impressions of training, validation and test days, and of their orders.

    Returns:
        Ids, int64 [n], ascending.
    """
    splits: tuple[Split, ...] = ("train", *EVALUATED)
    shown = [dataset.splits.select(dataset.impressions, split)["query_id"] for split in splits]
    ordered = [evaluation_searches(dataset, split)["query_id"] for split in EVALUATED]
    return pl.concat([*shown, *ordered]).drop_nulls().unique().sort().to_numpy()


def chance_representations(ids: NDArray[np.int64], directory: Path, name: str, seed: int) -> Representations:
    """Random directions: what a ranking that knows nothing reaches.

    Args:
        ids: int64 [N], in any order.
        directory: where the vectors are written, so that memory does not grow with N.
        name: of the files.
        seed: of the draw.

    Returns:
        float32 [N, 32].
    """
    ids = np.sort(ids)

    def chunks(start: int) -> Iterator[NDArray[np.float32]]:
        for first in range(start * BLOCK, len(ids), BLOCK):
            rng = np.random.default_rng([seed, first])
            yield rng.standard_normal((min(BLOCK, len(ids) - first), 32), dtype=np.float32)

    return write_vectors(directory, name, ids, 32, BLOCK, chunks)


def read_representations(
    context: StageContext, kind: Literal["learned", "shuffled", "oracle"]
) -> tuple[Representations, Representations]:
    """The representations of products and of queries that a stage after this one reads.

    Args:
        context: what the stage was given.
        kind: those ``learned`` by the stages before or given with the dataset, the same ``shuffled`` among the ids, or
            the true latents of a simulated dataset (``oracle``).

    Returns:
        N of products and M of queries, of one width D. A dataset may come with representations of its products alone;
        of queries there is then none.
    """
    if kind == "oracle":
        return oracle_representations(context.dataset)
    assert context.representations is not None
    products = Representations.open(context.representations, "products")
    given = context.representations == context.dataset.representations
    if given and not Representations.are_in(context.representations, "queries"):
        queries = Representations(np.zeros(0, dtype=np.int64), np.zeros((0, products.dim), dtype=np.float32))
    else:
        queries = Representations.open(context.representations, "queries")
    if kind == "shuffled":
        return products.shuffled(context.seed), queries.shuffled(context.seed)
    return products, queries


def oracle_representations(dataset: Dataset) -> tuple[Representations, Representations]:
    """The true latents of products and queries, from files that training never reads.

    Raises:
        FileNotFoundError: for a dataset that is not simulated.
    """
    if dataset.truth is None:
        raise FileNotFoundError(f"{dataset.directory} has no true latents: only a simulated dataset has an oracle")

    def read(path: Path, key: str) -> Representations:
        table = pl.read_ipc(path)
        latents = table["latent"].explode().to_numpy().reshape(len(table), -1)
        return Representations(table[key].to_numpy(), latents.astype(np.float32, copy=False))

    return read(dataset.truth / "products.arrow", "item_id"), read(dataset.truth / "queries.arrow", "query_id")
