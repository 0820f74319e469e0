"""Retrieval: candidates for a shopper and a query, by the frozen representations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from moonlib.artifacts.layout import SEARCHES
from moonlib.clicks.histories import Histories
from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import EVALUATION_READS, log_orders_without_query
from moonlib.data.reads import Reads
from moonlib.data.segments import (
    ASKED,
    CONTENT_READS,
    SEGMENT_READS,
    SEGMENTS,
    product_segments,
    query_contents,
)
from moonlib.data.splits import Split
from moonlib.metrics.counts import note_rows, rows_key
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning, meaning_of, measured, name_of, with_metrics
from moonlib.metrics.recall import TIE, Recall
from moonlib.metrics.undefined import leave_out
from moonlib.representations.residual_kmeans import coded, read_codebooks
from moonlib.representations.store import Representations, unit
from moonlib.stages.represent import EVALUATED, evaluation_searches, microseconds, read_representations
from moonlib.stages.stage import Need, Reference, Stage, StageContext
from moonlib.system.disk import writing
from moonlib.system.progress import StageProgress

BUDGET = 2**22
"""Scores held at once: memory is a few times this many floats, beside a few numbers per product."""
Scorer = Callable[[pl.DataFrame, Tensor, Sequence[float]], Iterator[Tensor]]
"""Q searches, bool [Q, N] of what may be retrieved, weights of the user part → for each weight the scores of the N
products, float [Q, N], -inf for what is not retrieved."""


@dataclass
class RetrievalData:
    """Options of the candidates of a search.

    Args:
        history: how many of the shopper's latest items are read.
    """

    history: int = 20


def mixed(query: Tensor, user: Tensor, has_query: Tensor, has_user: Tensor, weight: float) -> Tensor:
    """Mix what the query says with what the shopper's past says.

    score = (1 − w) · query + w · user; of a search that has only one of the two, that one alone.

    Args:
        query: float [Q, N], cosine of query and item.
        user: float [Q, N], what the past says of the item, in the same unit.
        has_query: bool [Q].
        has_user: bool [Q].
        weight: w in [0, 1].

    Returns:
        float [Q, N]; -inf for a search that has neither.
    """
    w = query.new_full((len(query),), weight)
    w = w.masked_fill(~has_query, 1.0).masked_fill(~has_user, 0.0)
    # A part that is missing may hold anything: a product with 0 would keep its infinities.
    query, user = query.masked_fill(~has_query.unsqueeze(1), 0.0), user.masked_fill(~has_user.unsqueeze(1), 0.0)
    return query.lerp(user, w.unsqueeze(1)).masked_fill(~(has_query | has_user).unsqueeze(1), -torch.inf)


def interest_cosines(items: Tensor, behaviours: Tensor, known: Tensor) -> Tensor:
    """Cosine of each item with the nearest of a shopper's behaviours.

    Args:
        items: float [N, D], unit vectors.
        behaviours: float [Q, L, D], unit vectors.
        known: bool [Q, L], False for padding and what has no representation.

    Returns:
        float [Q, N]; -inf for a shopper without any.

    Example:
        >>> behaviours = torch.eye(2).unsqueeze(0)
        >>> interest_cosines(torch.tensor([[0.6, 0.8]]), behaviours, torch.tensor([[True, False]])).tolist()
        [[0.6000000238418579]]
    """
    cosines = (behaviours.flatten(0, 1) @ items.T).unflatten(0, known.shape)
    return cosines.masked_fill_(~known.unsqueeze(2), -torch.inf).amax(dim=1)


def best_rank(scores: Tensor, hit: Tensor) -> Tensor:
    """Rank of the best hit: the number of other items that score at least as much, ties (up to 1e-6) against us.

    Args:
        scores: float [Q, N], -inf for what cannot be retrieved.
        hit: bool [Q, N]; hits do not count against each other.

    Returns:
        int64 [Q], 0 for the best rank; N, a miss at any K, where no hit can be retrieved.

    Example:
        >>> best_rank(torch.tensor([[0.3, 0.5, 0.5, 0.4]]), torch.tensor([[True, False, True, False]])).tolist()
        [1]
    """
    best = scores.masked_fill(~hit, -torch.inf).amax(dim=1)
    ahead = ((scores >= (best - TIE).unsqueeze(1)) & ~hit).sum(dim=1)
    return ahead.masked_fill(best.isneginf(), scores.shape[1])


def share_among(scores: Tensor, of: Tensor, k: int) -> Tensor:
    """Share of some items among the K that are retrieved.

    Of items that tie (up to 1e-6) for the last places each takes its part of them: the expectation over their orders.

    Args:
        scores: float [Q, N], -inf for what cannot be retrieved.
        of: bool [N], the items whose share is wanted.
        k: K, from 1 to N.

    Returns:
        float64 [Q], among fewer where fewer can be retrieved; NaN where none can.

    Example:
        >>> share_among(torch.tensor([[0.9, 0.5, 0.5, 0.1]]), torch.tensor([False, True, False, True]), k=2).tolist()
        [0.25]
    """
    places = (~scores.isneginf()).sum(dim=1).clamp(max=k)
    last = scores.topk(k, dim=1).values.gather(1, (places - 1).clamp(min=0).unsqueeze(1))
    above, tied = scores > last + TIE, (scores - last).abs() <= TIE
    left = places - above.sum(dim=1)
    found = (above & of).sum(dim=1) + left * (tied & of).sum(dim=1).double() / tied.sum(dim=1)
    return found / places


@dataclass(frozen=True)
class Gallery:
    """The N products that a search may find, by ascending id.

    Attributes:
        item_id: int64 [N].
        spu_id: int64 [N].
        listed_at: int64 [N], microseconds since 1970.
        new: bool [N], listed at or after the end of training.
    """

    item_id: NDArray[np.int64]
    spu_id: Tensor
    listed_at: Tensor
    new: Tensor

    @classmethod
    def of(cls, dataset: Dataset) -> Gallery:
        """All products of a dataset."""
        products = (
            dataset.table("products", ("item_id", "spu_id", "listed_at"))
            .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
            .sort("item_id")
        )
        return cls(
            products["item_id"].to_numpy(),
            torch.from_numpy(products["spu_id"].to_numpy().copy()),
            microseconds(products["listed_at"]),
            torch.from_numpy(products["new"].to_numpy().copy()),
        )


class ByRepresentations:
    """Scores of products by the cosines of their representations with the query's and the past behaviours'.

    Args:
        products: representations of products; one that has none is not retrieved.
        queries: representations of queries.
        gallery: the products to score.
        histories: what shoppers did.
        length: how many of the latest behaviours are read.
        interest: ``mean``, all behaviours count alike, or ``max``, the nearest alone.
        reads: what of a search is read; the other part counts as missing.
        device: where the products of matrices are computed.
    """

    def __init__(
        self,
        products: Representations,
        queries: Representations,
        gallery: Gallery,
        histories: Histories,
        *,
        length: int,
        interest: Literal["mean", "max"] = "mean",
        reads: Literal["query+user", "query", "user"] = "query+user",
        device: torch.device | str = "cpu",
    ) -> None:
        self.products, self.queries = products, queries
        self.gallery, self.histories = gallery, histories
        self.length = 0 if reads == "query" else length
        self.interest = interest
        self.asks = reads != "user"
        self.device = device

    def __call__(self, searches: pl.DataFrame, candidates: Tensor, weights: Sequence[float]) -> Iterator[Tensor]:
        """Compare Q searches (user_id, query_id, search_id, began) with the gallery, some of its products at a time."""
        size = len(self.gallery.item_id)
        query = self._unit(self.queries, searches["query_id"].to_numpy()) * self.asks
        behaviours, known = self._interests(searches)
        of_query, of_user = query.new_zeros(len(query), size), query.new_zeros(len(query), size)
        represented = torch.zeros(size, dtype=torch.bool, device=self.device)
        block = max(256, BUDGET // max(1, known.numel()))
        for start in range(0, size, block):
            part = slice(start, start + block)
            items = self._unit(self.products, self.gallery.item_id[part])
            represented[part] = items.any(dim=1)
            of_query[:, part] = query @ items.T
            if known.shape[1]:
                of_user[:, part] = interest_cosines(items, behaviours, known)
        has_query, has_user = query.any(dim=1), known.any(dim=1)
        for weight in weights:
            scores = mixed(of_query, of_user, has_query, has_user, weight).masked_fill_(~represented, -torch.inf)
            yield scores.cpu().masked_fill_(~candidates, -torch.inf)

    def _interests(self, searches: pl.DataFrame) -> tuple[Tensor, Tensor]:
        """Past behaviours that an item is compared with: float [Q, L, D] and bool [Q, L], L = 1 for their mean."""
        user, began, search = (searches[name].to_numpy() for name in ("user_id", "began", "search_id"))
        ids, mask = self.histories.before(user, began, search, self.length)
        behaviours = self._unit(self.products, ids.reshape(-1)).unflatten(0, ids.shape)
        known = torch.from_numpy(mask).to(self.device) & behaviours.any(dim=2)
        if self.interest == "mean" and self.length:
            # The mean of cosines is the product with the mean of unit vectors, which is shorter than one.
            number = known.sum(dim=1, keepdim=True)
            mean = (behaviours * known.unsqueeze(2)).sum(dim=1) / number.clamp(min=1)
            return mean.unsqueeze(1), number > 0
        return behaviours, known

    def _unit(self, store: Representations, ids: NDArray[np.int64]) -> Tensor:
        """Unit vectors float [n, D], zeros where there is no representation."""
        return torch.from_numpy(unit(store.gather(ids))).to(self.device)


class ByPopularity:
    """Scores of products by how often they were ordered before the search began; what the search asks is not read.

    Args:
        dataset: where the orders come from.
        gallery: the products to score.
    """

    def __init__(self, dataset: Dataset, gallery: Gallery) -> None:
        orders = dataset.searches.filter(pl.col("action") == "order")
        self.gallery = gallery
        self.item = np.searchsorted(gallery.item_id, orders["item_id"].to_numpy())
        self.ts = microseconds(orders["ts"]).numpy()

    def __call__(self, searches: pl.DataFrame, candidates: Tensor, weights: Sequence[float]) -> Iterator[Tensor]:
        """Count for Q searches (began); the same for every weight."""
        began = searches["began"].to_numpy()
        order = np.argsort(began, kind="stable")
        # An order counts from the first search on that began after it; summing over the searches does the rest.
        first = np.searchsorted(began[order], self.ts, side="right")
        counts = np.zeros((len(began) + 1, len(self.gallery.item_id)), dtype=np.float32)
        np.add.at(counts, (first, self.item), 1)
        scores = np.empty_like(counts[:-1])
        scores[order] = counts[:-1].cumsum(axis=0)
        for _ in weights:
            yield torch.from_numpy(scores).masked_fill(~candidates, -torch.inf)


def ordered_searches(dataset: Dataset, split: Split) -> pl.DataFrame:
    """The searches of a split's days that ended in an order, with what they are told apart by.

    Args:
        dataset: any dataset.
        split: ``valid`` or ``test`` days.

    Returns:
        One row per search and ordered SPU, as `evaluation_searches`, and: ``began`` int64, the time of the search's
        first event in microseconds since 1970, before which a behaviour is past; ``asked``, see `query_contents`; the
        segments of the ordered product.
    """
    began = dataset.searches.group_by("search_id").agg(began=pl.col("ts").min().dt.epoch("us"))
    return (
        evaluation_searches(dataset, split)
        .join(began, on="search_id", how="left", maintain_order="left")
        .join(query_contents(dataset), on="query_id", how="left", maintain_order="left")
        .join(product_segments(dataset), on="item_id", how="left", maintain_order="left")
    )


class Retrieval(Stage):
    """Retrieves candidates for the searches that ended in an order, and looks for what was ordered among them.

    The gallery of a search is every product listed by then; a hit is any SKU of the ordered SPU; ties are broken
    against us. score = (1 − w) · cos(query, item) + w · u, where u compares the item with the items that the shopper
    acted on before the search: the mean cosine, with which the score is one inner product that any vector index serves;
    or the cosine of the nearest one, because a shopper has several interests at once (Pal et al., "PinnerSage", KDD
    2020). Of a search whose query has no representation the past decides alone, of a shopper without a past the query;
    a search with neither stays in the count, as a miss. The weight w is the one with the highest recall at the first K
    on validation days, of equal ones the first. Nothing is trained.

    Besides recall@K, ``share_new@K`` is the share of new products among the K retrieved, averaged over the searches
    that retrieve anything, and ``share_new_gallery`` their share in the gallery: a way of retrieving that does not
    care how new a product is gets the same. Search is exact. The stored representation of a query is used, which reads
    what ``represent`` was told to (``data.query``).

    Args:
        ks: the K of recall@K; the first chooses the weight.
        weights: candidates for w.
        interest: ``mean``, the cosine with all past behaviours, or ``max``, with the nearest.
        reads: both parts, or the ``query`` or the ``user`` alone; what is not read counts as missing.
        representation: ``learned`` by the stages before, the same ``shuffled`` among the ids, products made of their
            codes alone (``coded``; see `moonlib.stages.quantise`, which has to come before), the true latents of a
            simulated dataset (``oracle``), or none at all but the number of orders so far (``popularity``).
        metrics: measured besides recall, see `moonlib.metrics.metric`; one of its name takes its place.

    Raises:
        ValueError: if there is no K or no weight, a K is below 1 or a weight outside [0, 1], or a metric can't be
            computed here.
    """

    data_type: ClassVar[type] = RetrievalData

    def __init__(
        self,
        ks: list[int] = [10, 100],  # noqa: B006  (a recipe's default is read, never written)
        weights: list[float] = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5],  # noqa: B006
        interest: Literal["mean", "max"] = "mean",
        reads: Literal["query+user", "query", "user"] = "query+user",
        representation: Literal["learned", "shuffled", "coded", "oracle", "popularity"] = "learned",
        metrics: list[Metric] = [],  # noqa: B006
    ) -> None:
        super().__init__()
        if not ks or min(ks) < 1:
            raise ValueError(f"ks: expected one K or more, each at least 1, got {ks}")
        if not weights or not all(0 <= weight <= 1 for weight in weights):
            raise ValueError(f"weights: expected one weight or more, each in [0, 1], got {weights}")
        self.ks = ks
        self.weights = weights
        self.interest: Literal["mean", "max"] = interest
        self.compares: Literal["query+user", "query", "user"] = reads
        self.representation = representation
        self.requires_codes = representation == "coded"
        self.metrics = with_metrics([Recall(k) for k in ks], metrics, "search")
        self.progress = StageProgress()

    def meanings(self) -> dict[str, Meaning]:
        return {f"retrieval/{name_of(metric)}": meaning_of(metric) for metric in self.metrics}

    @property
    def needs(self) -> frozenset[Need]:
        if self.representation == "coded":
            return frozenset({"representations", "codes"})
        return frozenset({"representations"}) if self.representation in ("learned", "shuffled") else frozenset()

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """Searches and what was done before them, and when products were listed."""
        found = EVALUATION_READS | CONTENT_READS | SEGMENT_READS | Reads.of(truth=self.representation == "oracle")
        return found | Reads.of(products=["spu_id", "listed_at"])

    def references(self, dataset: Dataset) -> list[Reference]:
        # One weight where it says nothing: so runs with other weights share these.
        references = [
            Reference("baseline/query", "query only", {"reads": "query", "weights": [0.0]}),
            Reference("baseline/user", "user only", {"reads": "user", "weights": [0.0]}),
            Reference("baseline/popularity", "popularity", {"representation": "popularity", "weights": [0.0]}),
            Reference("baseline/shuffled", "shuffled", {"representation": "shuffled"}),
        ]
        if dataset.truth is not None:
            references.append(Reference("oracle", "oracle", {"representation": "oracle"}))
        return references

    def run(self, context: StageContext) -> dict[str, float]:
        if not context.trainer.is_global_zero:
            return {}
        dataset, self.progress = context.dataset, context.progress
        if (self.representation, self.compares) == ("learned", "query+user"):  # and not once more for each reference
            log_orders_without_query(dataset)
        searches = {split: ordered_searches(dataset, split) for split in EVALUATED}
        if searches["test"].is_empty():
            raise ValueError(
                "no search with a query on the test days ended in an order, and the retrieval stage looks for what was "
                "ordered: leave it out (--stages.retrieval null)"
            )
        self.gallery = Gallery.of(dataset)
        size = len(self.gallery.item_id)
        if max(self.ks) > size:
            raise ValueError(f"retrieval: ks: {max(self.ks)} of a gallery of {size} products; choose a smaller K")
        self.scorer = self.make_scorer(context)
        metrics, weight = self.choose(searches["valid"])
        table = pl.concat([self.retrieve(found, weight, split) for split, found in searches.items()], how="diagonal")
        with writing(context.directory / SEARCHES):
            kept = dataset.ids.decoded(table, "search_id", "user_id", "query_id", "item_id", "spu_id")
            kept.write_parquet(context.directory / SEARCHES)
        for (split,), part in table.group_by("split", maintain_order=True):
            metrics |= self.measure(part, split)
            keys = {"": part, **self.parts(part)}.items()
            rows = {rows_key(MetricKey(split, "", "retrieval", "", segment)): len(each) for segment, each in keys}
            note_rows(context.directory, rows)
        return leave_out(metrics, context.directory)

    def make_scorer(self, context: StageContext) -> Scorer:
        """Scorer of the gallery for a search."""
        dataset = context.dataset
        if self.representation == "popularity":
            return ByPopularity(dataset, self.gallery)
        if self.representation == "coded":
            assert context.codes is not None
            products, queries = read_representations(context, "learned")
            products = coded(products, read_codebooks(context.codes))
        else:
            products, queries = read_representations(context, self.representation)
        return ByRepresentations(
            products,
            queries,
            self.gallery,
            Histories(dataset.searches, key="item_id"),
            length=context.data.history,
            interest=self.interest,
            reads=self.compares,
            device=context.trainer.strategy.root_device,
        )

    def choose(self, searches: pl.DataFrame) -> tuple[dict[str, float], float]:
        """The weight with the highest recall at the first K on the searches of the validation days, and all recalls."""
        if len(self.weights) == 1:
            return {}, self.weights[0]
        if searches.is_empty():
            raise ValueError(
                "retrieval: no search of the validation days ended in an order, so none of the weights can be "
                "preferred: give one (--stages.retrieval.module.init_args.weights [0.1])"
            )
        hits = torch.zeros(len(self.weights), dtype=torch.int64)
        for block, listed, hit in self.blocks(searches):
            for i, scores in enumerate(self.scorer(block, listed, self.weights)):
                hits[i] += (best_rank(scores, hit) < self.ks[0]).sum()
        recalls = (hits.double() / len(searches)).tolist()
        weight = self.weights[recalls.index(max(recalls))]
        key = MetricKey("valid", "", "retrieval", f"recall@{self.ks[0]}")
        metrics = {
            str(replace(key, segment=f"user_weight={w:g}")): recall
            for w, recall in zip(self.weights, recalls, strict=True)
        }
        return metrics | {"retrieval/user_weight": weight}, weight

    def retrieve(self, searches: pl.DataFrame, weight: float, split: Split) -> pl.DataFrame:
        """Add to each search the ``rank`` of what was ordered and the shares of new products."""
        new, parts = self.gallery.new, [pl.DataFrame()]
        for block, listed, hit in self.blocks(searches):
            (scores,) = self.scorer(block, listed, [weight])
            shares = {f"share_new@{k}": share_among(scores, new, k) for k in self.ks}
            shares["share_new_gallery"] = (listed & new).sum(dim=1).double() / listed.sum(dim=1)
            columns = {"rank": best_rank(scores, hit), **shares}
            parts.append(
                block.with_columns(
                    *(pl.Series(name, values.numpy(), nan_to_null=True) for name, values in columns.items()),
                    gallery=pl.lit(len(new)),
                    split=pl.lit(split),
                )
            )
        return pl.concat(parts, how="diagonal")

    def blocks(self, searches: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, Tensor, Tensor]]:
        """Some Q searches at a time, with bool [Q, N], what was listed by then, and bool [Q, N], what is a hit."""
        slices = searches.iter_slices(max(16, BUDGET // len(self.gallery.item_id)))
        for block in self.progress.through(slices, "searches", len(searches)):
            spu = torch.from_numpy(block["spu_id"].to_numpy().copy())
            listed = self.gallery.listed_at <= microseconds(block["ts"]).unsqueeze(1)
            yield block, listed, self.gallery.spu_id == spu.unsqueeze(1)

    def parts(self, searches: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """The searches of each segment."""
        parts = {name: searches.filter(pl.col(name)) for name in SEGMENTS}
        return parts | {name: searches.filter(pl.col("asked") == name) for name in ASKED}

    def measure(self, searches: pl.DataFrame, split: Literal["test", "valid"]) -> dict[str, float]:
        """Recall and share of new products: of all searches, by what was ordered, and by what was asked with."""
        parts = {"": searches, **self.parts(searches)}
        found: dict[str, float] = {}
        for metric in self.metrics:
            for segment, part in parts.items():
                columns = {"ranks": part["rank"].to_torch(), "users": part["user_id"].to_torch()}
                value = measured(metric, columns | {"gallery": len(self.gallery.item_id)})
                found[str(MetricKey(split, "", "retrieval", name_of(metric), segment))] = value
        for k in self.ks:
            for segment, part in parts.items():
                key = MetricKey(split, "", "retrieval", f"share_new@{k}", segment)
                found[str(key)] = _mean(part[f"share_new@{k}"])
        found[str(MetricKey(split, "", "retrieval", "share_new_gallery"))] = _mean(searches["share_new_gallery"])
        return found


def _mean(column: pl.Series) -> float:
    """The mean of what is not null, NaN where nothing is."""
    mean = column.mean()
    return float(mean) if isinstance(mean, float) else math.nan
