"""Impressions as batches of columns: ids, histories cut at load time, representations looked up by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from moonlib.clicks.features import FeatureBatch, FeatureRows, Features
from moonlib.clicks.histories import Histories
from moonlib.clicks.price import PriceScale
from moonlib.clicks.query_ids import QueryIds, SameQueries
from moonlib.clicks.saved_vocabularies import SEEN, SavedVocabularies, vocabulary_entries
from moonlib.clicks.snapshots import HistorySnapshots
from moonlib.clicks.vocabulary import HashedVocabulary, TextVocabulary, Vocabulary
from moonlib.data.dataset import Dataset
from moonlib.data.ids import Ids
from moonlib.data.reads import ALL_MOMENTS, Reads
from moonlib.representations.similarity_topk import similarity_topk
from moonlib.representations.store import Representations


@dataclass
class ImpressionBatch:
    """B impressions, histories of L items and M queries; representations of width D (D = 0 without any).

    Attributes:
        user: int64 [B], row of the user in the vocabulary; so are ``category``, ``merchant``, ``target``.
        price: float [B], standardised log price.
        history: int64 [B, L], rows of the items acted upon, newest first.
        history_mask: bool [B, L], False for padding.
        query: int64 [B], row of the present query in the vocabulary, queries of one text being one; -1 where there was
            none: a feed, a home page, a recommendation.
        query_history: int64 [B, M], rows of past queries, newest first.
        query_history_mask: bool [B, M], False for padding.
        target_vector: float [B, D] and ``target_known`` bool [B]; so are query_vector [B, D], history_vectors
            [B, L, D] and query_history_vectors [B, M, D]: zeros where not known.
        clicked: float [B].
        features: the declared features, None without any.
    """

    user: Tensor
    category: Tensor
    merchant: Tensor
    price: Tensor
    target: Tensor
    history: Tensor
    history_mask: Tensor
    query: Tensor
    query_history: Tensor
    query_history_mask: Tensor
    target_vector: Tensor
    target_known: Tensor
    query_vector: Tensor
    has_query: Tensor
    history_vectors: Tensor
    history_known: Tensor
    query_history_vectors: Tensor
    query_history_known: Tensor
    clicked: Tensor
    features: FeatureBatch | None = None

    def to(self, device: torch.device | str) -> ImpressionBatch:
        """The batch on a device. Lightning, too, asks for this; without it, it would copy the batch in depth first."""
        if self.user.device == torch.device(device):
            return self
        moved: dict[str, Any] = {name: part if part is None else part.to(device) for name, part in vars(self).items()}
        return ImpressionBatch(**moved)


CLICK_READS = Reads.of(
    products=["category", "merchant_id", "price", "listed_at"],
    queries=["text", "image"],
    searches=["user_id", "query_id", "item_id"],
    impressions=["user_id", "query_id", "item_id", "clicked"],
    histories=["item_ids"],
    moments=ALL_MOMENTS,
)
"""What a click model reads of the tables, beside the features and the segments that a recipe names."""


@dataclass(frozen=True)
class Vocabularies:
    """The ids that the downstream model knows: those of training, and those that the model it starts from knew.

    Attributes:
        user: of users.
        item: of items.
        query: of queries that were asked more than once, those of one text being one.
        category: the categories, ascending.
        merchant: of merchants.
        entries: what the rows of each table are of and when it was seen last, by ``user``, ``item``, ``query``,
            ``category`` and ``merchant``, see `moonlib.clicks.saved_vocabularies.vocabulary_entries`; none of a table
            that is hashed.
    """

    user: Vocabulary | HashedVocabulary
    item: Vocabulary | HashedVocabulary
    query: Vocabulary
    category: pl.Series
    merchant: Vocabulary
    entries: Mapping[str, pl.DataFrame] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        train: pl.DataFrame,
        min_count: int = 1,
        buckets: int | None = None,
        earlier: SavedVocabularies | None = None,
        since: datetime | None = None,
    ) -> Vocabularies:
        """Collect ids from training impressions and from what was searched before the end of training.

        Args:
            dataset: the five tables.
            train: the training impressions.
            min_count: users and items seen less often share the row of the unknown.
            buckets: hash users and items into so many rows each, in place of exact vocabularies.
            earlier: of the model that this one starts from: its ids keep a row, however often they are seen now.
            since: ids that were last seen before this moment have no row; None for no such moment.
        """
        until = dataset.splits.train_until
        searched = dataset.searches.filter(pl.col("ts") < until)
        products = dataset.table("products", ("category", "merchant_id", "listed_at"))
        listed = dataset.splits.known(products)
        asked_in = [
            frame.select("search_id", "query_id").drop_nulls("query_id").unique() for frame in (train, searched)
        ]
        queries, query_ids = pl.concat(asked_in).unique(), QueryIds(dataset)
        asked = query_ids.of(queries["query_id"].to_numpy())
        query, searches = np.unique(asked, return_counts=True)
        seen = np.concatenate([train["item_id"].to_numpy(), searched["item_id"].to_numpy(), listed_before(dataset)])

        def entries(name: str, ids: pl.Series, when: pl.DataFrame | None = None) -> pl.DataFrame:
            before = earlier.entries(name, ids.dtype) if earlier and earlier.has(name) else None
            return vocabulary_entries(ids, when, until, before, since)

        found = {
            # What was asked once, as any photo is, has nothing to learn from.
            "query": entries("query", Vocabulary(query[searches > 1]).values, queries_seen(query_ids, train, searched)),
            "category": entries("category", listed["category"].drop_nulls().unique()),
            "merchant": entries("merchant", Vocabulary(listed["merchant_id"].drop_nulls().to_numpy()).values),
        }
        if buckets is None:
            users = Vocabulary(train["user_id"].to_numpy(), min_count).values
            found["user"] = entries("user", users, last_seen(train, "user_id"))
            found["item"] = entries("item", Vocabulary(seen, min_count).values, items_seen(dataset, train, searched))
        of = {name: Vocabulary(frame["value"].to_numpy()) for name, frame in found.items() if name != "category"}
        return cls(
            user=HashedVocabulary(buckets) if buckets is not None else of["user"],
            item=HashedVocabulary(buckets) if buckets is not None else of["item"],
            query=of["query"],
            category=found["category"]["value"],
            merchant=of["merchant"],
            entries=found,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each embedding table, row 0 included."""
        exact = {name: len(getattr(self, name)) for name in ("user", "item", "merchant", "query")}
        return {**exact, "category": len(self.category) + 1}

    def rows(self, name: str, values: pl.Series) -> NDArray[np.int64]:
        """Row of each id, or category [N], in the table of a name; 0 for one without a row."""
        vocabulary = TextVocabulary(self.category) if name == "category" else getattr(self, name)
        rows: NDArray[np.int64] = vocabulary.rows(values if name == "category" else values.to_numpy())
        return rows


def listed_before(dataset: Dataset) -> NDArray[np.int64]:
    """Items of the histories as of moments before the end of training, int64, with repeats."""
    if not dataset.counts.get("histories", 0):
        return np.zeros(0, dtype=np.int64)
    return histories_before(dataset)["item_ids"].explode().drop_nulls().to_numpy()


def histories_before(dataset: Dataset) -> pl.DataFrame:
    """Histories as of moments before the end of training: ts and item_ids."""
    histories = dataset.table("histories", ("ts", "item_ids"))
    return histories.filter(pl.col("ts") < dataset.splits.train_until)


def last_seen(events: pl.DataFrame, column: str) -> pl.DataFrame:
    """When each id of a column of events was seen last: ``value`` and ``last_seen``; nulls are left out."""
    when = pl.col("ts").max().cast(SEEN).alias("last_seen")
    return events.drop_nulls(column).group_by(pl.col(column).alias("value")).agg(when)


def items_seen(dataset: Dataset, train: pl.DataFrame, searched: pl.DataFrame) -> pl.DataFrame:
    """When each item was seen last: shown in training, acted upon, or in the list of a history, see `last_seen`."""
    parts = [last_seen(train, "item_id"), last_seen(searched, "item_id")]
    if dataset.counts.get("histories", 0):
        # Some histories at a time: all of their items at once would take many times as much as the items.
        for some in histories_before(dataset).iter_slices(2**16):
            parts.append(last_seen(some.explode("item_ids"), "item_ids"))
    return pl.concat(parts).group_by("value").agg(pl.col("last_seen").max())


def queries_seen(query_ids: QueryIds, train: pl.DataFrame, searched: pl.DataFrame) -> pl.DataFrame:
    """When each query, or one of the same text, was asked last, see `last_seen`."""
    parts = pl.concat([last_seen(frame, "query_id") for frame in (train, searched)])
    one = pl.Series("value", query_ids.of(parts["value"].to_numpy()))
    return parts.with_columns(one).group_by("value").agg(pl.col("last_seen").max())


class ItemFeatures:
    """Side information of products in embedding rows, looked up by item id.

    Args:
        products: columns item_id, category, merchant_id, price and listed_at.
        vocabularies: ids to embedding rows.
        train_until: end of training.
        price: scale of prices; by default it is learned from the products listed before the end of training.
    """

    def __init__(
        self, products: pl.DataFrame, vocabularies: Vocabularies, train_until: object, price: PriceScale | None = None
    ) -> None:
        products = products.sort("item_id")
        self.item_id = products["item_id"].to_numpy()
        known = pl.DataFrame({"category": vocabularies.category}).with_row_index("row", offset=1)
        found = products.select("category").join(known, on="category", how="left", maintain_order="left")["row"]
        self.category = found.cast(pl.Int64).fill_null(0).to_numpy()
        merchant = products["merchant_id"]
        # 0 may be a merchant of its own, so what fills the gaps is not looked up.
        rows = vocabularies.merchant.rows(merchant.fill_null(0).to_numpy())
        self.merchant = np.where(merchant.is_null().to_numpy(), 0, rows)
        self.price_scale = price or PriceScale.of(products, train_until)
        self.price = self.price_scale.encode(products)

    def rows(self, item_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each item id in the sorted products table; the tables were checked: every id is there."""
        return np.searchsorted(self.item_id, item_id)


class Behaviours:
    """One kind of history, of items or of queries, looked up once: nothing is searched for in a batch.

    Args:
        histories: of all users.
        rows: their ids' rows in the vocabulary, int64 [E].
        store: N representations of width D, or None for D = 0.
    """

    def __init__(
        self, histories: Histories | HistorySnapshots, rows: NDArray[np.int64], store: Representations | None
    ) -> None:
        self.histories = histories
        self.store = store
        stored = self.rows_of(histories.ids)
        # Place -1, padding, is the last. There may be billions of behaviours: 32 bits will do for what they are.
        self.rows = np.append(rows.astype(np.int32), np.int32(0))
        self.stored = np.append(stored.astype(np.int32), np.int32(-1))

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id's representation, int64 of the same shape, -1 for none."""
        return np.full(ids.shape, -1) if self.store is None else self.store.rows(ids)

    def before(
        self, when: tuple[Ids, Ids, Ids], length: int, target: NDArray[np.int64], top: int | None
    ) -> NDArray[np.int64]:
        """Places of each row's behaviours, int64 [B, L], -1 for padding.

        Args:
            when: user, time and search of each row, as `Histories.places` takes them.
            length: how many of the latest are found.
            target: int64 [B], rows of the targets' representations, -1 for none.
            top: how many of these are kept, those most like the target; None for all.
        """
        if top is None or self.store is None:
            return self.histories.places(*when, length)
        kept = []
        # The places of some rows at a time: 100,000 behaviours of 1024 rows would take a gigabyte.
        at_once = max(1, PLACES // max(length, 1))
        for start in range(0, len(target), at_once):
            rows = slice(start, start + at_once)
            user_id, ts, search_id = (asked[rows] for asked in when)
            places = self.histories.places(user_id, ts, search_id, length)
            column = similarity_topk(self.store, target[rows], self.stored[places], places >= 0, top)
            kept.append(np.where(column < 0, -1, np.take_along_axis(places, np.maximum(column, 0), axis=1)))
        return np.concatenate(kept)

    def vectors(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Representations float [*S, D], zeros where there is none, and bool [*S] whether there is one."""
        return vectors_at(self.store, self.stored[places])


PLACES = 4_000_000
"""Places of behaviours that are in memory at once where some are to be chosen."""


def vectors_at(store: Representations | None, rows: NDArray[np.integer[Any]]) -> tuple[Tensor, Tensor]:
    """Read representations by row.

    Args:
        store: N vectors of width D, or None for D = 0.
        rows: integers, any shape S, -1 for none.

    Returns:
        float [*S, D], zeros where there is none, and bool S, True where there is one.
    """
    vectors = torch.zeros(*rows.shape, 0) if store is None else torch.from_numpy(store.at(rows))
    return vectors, torch.from_numpy(rows >= 0)


@dataclass(frozen=True)
class Lookups:
    """Lookup tables that the impressions of all splits share: every product, query and behaviour of a dataset.

    Attributes:
        vocabularies: ids to embedding rows.
        products: side information by item id.
        query_ids: which queries are one.
        items: histories of items.
        queries: histories of queries.
    """

    vocabularies: Vocabularies
    products: ItemFeatures
    query_ids: SameQueries
    items: Behaviours
    queries: Behaviours

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        vocabularies: Vocabularies,
        products: Representations | None,
        queries: Representations | None,
        price: PriceScale | None = None,
    ) -> Lookups:
        """Look everything up.

        Args:
            dataset: where products and behaviours come from.
            vocabularies: ids to embedding rows.
            products: representations of products, None for none.
            queries: representations of queries, None for none.
            price: scale of prices; learned here by default.
        """
        described = dataset.table("products", ("item_id", "category", "merchant_id", "price", "listed_at"))
        query_ids = QueryIds(dataset)
        given = dataset.counts.get("histories", 0) > 0
        items = HistorySnapshots(dataset.arrow("histories")) if given else Histories(dataset.searches, key="item_id")
        asked = Histories(dataset.searches, key="query_id")
        return cls(
            vocabularies,
            ItemFeatures(described, vocabularies, dataset.splits.train_until, price),
            query_ids,
            Behaviours(items, vocabularies.item.rows(items.ids), products),
            Behaviours(asked, vocabularies.query.rows(query_ids.of(asked.ids)), queries),
        )


class Impressions(TorchDataset[ImpressionBatch]):
    """Impressions, read a batch of row numbers at a time."""

    def __init__(
        self,
        impressions: pl.DataFrame,
        lookups: Lookups,
        *,
        history: int,
        query_history: int,
        similarity_topk: int | None = None,
        features: Features | FeatureRows | None = None,
    ) -> None:
        """Prepare: every id becomes a row number here.

        Args:
            impressions: the rows to read, n of them.
            lookups: of their dataset.
            history: L, how many of the latest items are read.
            query_history: M, how many of the latest queries are read.
            similarity_topk: of the L items, keep this many, those most like the target; None for all.
            features: declared features, fitted to the training impressions, or what they are of these rows; None for
                none.
        """
        item_id = impressions["item_id"].to_numpy()
        self.user_id = impressions["user_id"].to_numpy()
        self.search_id = impressions["search_id"].to_numpy()
        self.ts = impressions["ts"].dt.epoch("us").to_numpy()
        self.clicked = impressions["clicked"].to_numpy().astype(np.float32)
        vocabularies, products = lookups.vocabularies, lookups.products
        at = products.rows(item_id)
        self.user, self.target = vocabularies.user.rows(self.user_id), vocabularies.item.rows(item_id)
        self.category, self.merchant, self.price = products.category[at], products.merchant[at], products.price[at]
        self.items, self.queries = lookups.items, lookups.queries
        asked = impressions["query_id"].is_not_null().to_numpy()
        query_id = impressions["query_id"].drop_nulls().to_numpy()
        self.query, self.query_stored = np.full(len(asked), -1), np.full(len(asked), -1)
        self.query[asked] = vocabularies.query.rows(lookups.query_ids.of(query_id))
        self.query_stored[asked] = self.queries.rows_of(query_id)
        self.target_stored = self.items.rows_of(item_id)
        self.lengths = (history, query_history)
        self.similarity_topk = similarity_topk
        self.features = features.of(impressions) if isinstance(features, Features) else features

    def __len__(self) -> int:
        return len(self.user_id)

    def __getitem__(self, rows: NDArray[np.int64]) -> ImpressionBatch:
        when = (self.user_id[rows], self.ts[rows], self.search_id[rows])
        target = self.target_stored[rows]
        history = self.items.before(when, self.lengths[0], target, self.similarity_topk)
        past = self.queries.before(when, self.lengths[1], target, None)
        target_vector, target_known = vectors_at(self.items.store, target)
        query_vector, has_query = vectors_at(self.queries.store, self.query_stored[rows])
        history_vectors, history_known = self.items.vectors(history)
        past_vectors, past_known = self.queries.vectors(past)
        return ImpressionBatch(
            user=torch.from_numpy(self.user[rows]),
            category=torch.from_numpy(self.category[rows]),
            merchant=torch.from_numpy(self.merchant[rows]),
            price=torch.from_numpy(self.price[rows]),
            target=torch.from_numpy(self.target[rows]),
            history=torch.from_numpy(self.items.rows[history].astype(np.int64)),
            history_mask=torch.from_numpy(history >= 0),
            query=torch.from_numpy(self.query[rows]),
            query_history=torch.from_numpy(self.queries.rows[past].astype(np.int64)),
            query_history_mask=torch.from_numpy(past >= 0),
            target_vector=target_vector,
            target_known=target_known,
            query_vector=query_vector,
            has_query=has_query,
            history_vectors=history_vectors,
            history_known=history_known,
            query_history_vectors=past_vectors,
            query_history_known=past_known,
            clicked=torch.from_numpy(self.clicked[rows]),
            features=self.features.batch(rows) if self.features else None,
        )


@dataclass(frozen=True)
class ImpressionReader:
    """How a click model reads impressions.

    Attributes:
        lookups: what is known of products, queries and behaviours.
        history: L, how many of the latest items are read.
        query_history: M, how many of the latest queries are read.
        similarity_topk: of the L items, how many are kept; None for all.
        features: declared features, fitted to the training impressions; None for none.
    """

    lookups: Lookups
    history: int
    query_history: int
    similarity_topk: int | None = None
    features: Features | None = None

    def __call__(self, impressions: pl.DataFrame) -> Impressions:
        """Read a table of impressions."""
        return self.with_lookups(impressions, self.lookups, self.features)

    def with_lookups(
        self, impressions: pl.DataFrame, lookups: Lookups, features: Features | FeatureRows | None
    ) -> Impressions:
        """Read a table of impressions of which other lookups know.

        Args:
            impressions: the rows to read, n of them.
            lookups: of their products, queries and behaviours.
            features: the declared ones of these rows; None for none.
        """
        return Impressions(
            impressions,
            lookups,
            history=self.history,
            query_history=self.query_history,
            similarity_topk=self.similarity_topk,
            features=features,
        )


class BatchRows(Sampler[NDArray[np.int64]]):
    """Row numbers of each batch of an epoch; rank r of R takes rows r::R of every batch.

    Args:
        rows: how many rows there are.
        batch_size: rows in a batch, over all devices.
        seed: with the epoch it determines the order; None keeps the rows as they are.
        rank: of this process.
        world_size: R.
        epoch: the first epoch.
        start: the first batch of the first epoch; those before it were done earlier.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = epoch, start

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this at the start of each."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Number of batches of a whole epoch, as Lightning counts them, not of what is left of it."""
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        order = np.arange(self.rows)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for start in range(self.start * self.batch_size, self.rows, self.batch_size):
            batch = order[start : start + self.batch_size]
            mine = batch[self.rank :: self.world_size]
            # A process left without a row by a last short batch takes part with another's: all have to.
            yield mine if len(mine) else batch[:1]
