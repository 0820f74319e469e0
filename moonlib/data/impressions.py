"""Impressions as batches of columns: ids, histories cut at load time, representations looked up by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from moonlib.data.dataset import Dataset
from moonlib.data.histories import Histories
from moonlib.data.snapshots import Snapshots
from moonlib.data.vocabulary import Vocabulary
from moonlib.representations.store import Representations


@dataclass
class ImpressionBatch:
    """B impressions, histories of L items and M queries; representations of width D (D = 0 without any).

    Attributes:
        user: int64 [B], row of the user in the vocabulary; so are ``category``, ``merchant``, ``target``.
        price: float [B], standardised log price.
        history: int64 [B, L], rows of the items acted upon, newest first.
        history_mask: bool [B, L], False for padding.
        target_vector: float [B, D] and ``target_known`` bool [B]; so are query_vector [B, D], history_vectors
            [B, L, D] and query_history_vectors [B, M, D]: zeros where not known.
        clicked: float [B].
    """

    user: Tensor
    category: Tensor
    merchant: Tensor
    price: Tensor
    target: Tensor
    history: Tensor
    history_mask: Tensor
    target_vector: Tensor
    target_known: Tensor
    query_vector: Tensor
    query_known: Tensor
    history_vectors: Tensor
    history_known: Tensor
    query_history_vectors: Tensor
    query_history_known: Tensor
    clicked: Tensor


@dataclass(frozen=True)
class Vocabularies:
    """The ids that the downstream model knows: those of training."""

    user: Vocabulary
    item: Vocabulary
    category: pl.Series
    merchant: Vocabulary

    @classmethod
    def of(cls, dataset: Dataset, train: pl.DataFrame) -> Vocabularies:
        """Collect ids from training impressions and from what was searched before the end of training."""
        searched = dataset.searches.filter(pl.col("ts") < dataset.splits.train_until)
        products = dataset.table("products", ("category", "merchant_id", "listed_at"))
        listed = dataset.splits.known(products)
        return cls(
            user=Vocabulary(train["user_id"].to_numpy()),
            item=Vocabulary(np.concatenate([train["item_id"].to_numpy(), searched["item_id"].to_numpy()])),
            category=listed["category"].unique().sort(),
            merchant=Vocabulary(listed["merchant_id"].drop_nulls().to_numpy()),
        )


class ItemFeatures:
    """Side information of products in embedding rows, looked up by item id."""

    def __init__(self, products: pl.DataFrame, vocabularies: Vocabularies, train_until: object) -> None:
        products = products.sort("item_id")
        self.item_id = products["item_id"].to_numpy()
        known = pl.DataFrame({"category": vocabularies.category}).with_row_index("row", offset=1)
        found = products.select("category").join(known, on="category", how="left", maintain_order="left")["row"]
        self.category = found.cast(pl.Int64).fill_null(0).to_numpy()
        merchant = products["merchant_id"]
        # 0 may be a merchant of its own, so what fills the gaps is not looked up.
        rows = vocabularies.merchant.rows(merchant.fill_null(0).to_numpy())
        self.merchant = np.where(merchant.is_null().to_numpy(), 0, rows)
        price = products["price"].cast(pl.Float64).fill_nan(None).fill_null(strategy="mean").fill_null(0.0).to_numpy()
        log_price = np.log1p(np.maximum(price, 0.0))
        seen = log_price[(products["listed_at"] < train_until).to_numpy()]
        centre, spread = (seen.mean(), seen.std()) if len(seen) else (0.0, 1.0)
        self.price = ((log_price - centre) / max(spread, 1e-6)).astype(np.float32)

    def rows(self, item_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each item id in the sorted products table; the tables were checked: every id is there."""
        return np.searchsorted(self.item_id, item_id)


def gather(
    store: Representations | None, ids: NDArray[np.int64], mask: NDArray[np.bool_], dim: int = 0
) -> tuple[Tensor, Tensor]:
    """Look representations up.

    Args:
        store: N vectors of width D, or None where nothing is represented.
        ids: int64, any shape S.
        mask: bool S, False where the id is padding.
        dim: D of a store that is None.

    Returns:
        float [*S, D], zeros where not known, and bool S, True where the id is real and has a representation.
    """
    if store is None:
        return torch.zeros(*ids.shape, dim), torch.zeros(ids.shape, dtype=torch.bool)
    rows = np.where(mask, store.rows(ids), -1)
    known = rows >= 0
    vectors = torch.from_numpy(store.read(np.maximum(rows, 0)))
    known_ = torch.from_numpy(known)
    return vectors.masked_fill_(~known_.unsqueeze(-1), 0.0), known_


class Impressions(TorchDataset[ImpressionBatch]):
    """Impressions, read a batch of row numbers at a time."""

    def __init__(
        self,
        dataset: Dataset,
        impressions: pl.DataFrame,
        vocabularies: Vocabularies,
        *,
        history: int,
        query_history: int,
        products: Representations | None,
        queries: Representations | None,
    ) -> None:
        """Prepare.

        Args:
            dataset: where products and behaviours come from.
            impressions: the rows to read, n of them.
            vocabularies: ids to embedding rows.
            history: L, how many of the latest items are read.
            query_history: M, how many of the latest queries are read.
            products: representations of products, None for none.
            queries: representations of queries, None for none.
        """
        self.user_id = impressions["user_id"].to_numpy()
        self.item_id = impressions["item_id"].to_numpy()
        self.query_id = impressions["query_id"].to_numpy()
        self.search_id = impressions["search_id"].to_numpy()
        self.ts = impressions["ts"].dt.epoch("us").to_numpy()
        self.clicked = impressions["clicked"].to_numpy().astype(np.float32)
        self.vocabularies = vocabularies
        described = dataset.table("products", ("item_id", "category", "merchant_id", "price", "listed_at"))
        self.items = ItemFeatures(described, vocabularies, dataset.splits.train_until)
        histories = dataset.counts.get("histories", 0)
        self.snapshots = Snapshots(dataset.arrow("histories")) if histories else None
        self.item_history = Histories(dataset.searches, key="item_id")
        self.query_history = Histories(dataset.searches, key="query_id")
        self.lengths = (history, query_history)
        self.products = products
        self.queries = queries
        self.dim = products.dim if products else 0

    def __len__(self) -> int:
        return len(self.item_id)

    def __getitem__(self, rows: NDArray[np.int64]) -> ImpressionBatch:
        user, item, query = self.user_id[rows], self.item_id[rows], self.query_id[rows]
        when = (user, self.ts[rows], self.search_id[rows])
        history, history_mask = self.item_history.before(*when, self.lengths[0])
        if self.snapshots is not None:
            places = self.snapshots.places(*when, self.lengths[0])
            history, history_mask = self.snapshots.ids[np.maximum(places, 0)], places >= 0
        past, past_mask = self.query_history.before(*when, self.lengths[1])
        target_vector, target_known = gather(self.products, item, np.ones(len(item), dtype=bool))
        query_vector, query_known = gather(self.queries, query, np.ones(len(item), dtype=bool), self.dim)
        history_vectors, history_known = gather(self.products, history, history_mask)
        past_vectors, past_known = gather(self.queries, past, past_mask, self.dim)
        at = self.items.rows(item)
        return ImpressionBatch(
            user=torch.from_numpy(self.vocabularies.user.rows(user)),
            category=torch.from_numpy(self.items.category[at]),
            merchant=torch.from_numpy(self.items.merchant[at]),
            price=torch.from_numpy(self.items.price[at]),
            target=torch.from_numpy(self.vocabularies.item.rows(item)),
            history=torch.from_numpy(self.vocabularies.item.rows(history)),
            history_mask=torch.from_numpy(history_mask),
            target_vector=target_vector,
            target_known=target_known,
            query_vector=query_vector,
            query_known=query_known,
            history_vectors=history_vectors,
            history_known=history_known,
            query_history_vectors=past_vectors,
            query_history_known=past_known,
            clicked=torch.from_numpy(self.clicked[rows]),
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
