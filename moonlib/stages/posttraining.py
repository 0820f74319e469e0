"""Post-training: what shoppers searched for, beside what they then clicked and bought."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import FILTERS, SEARCHES
from moonlib.artifacts.reading import read_table
from moonlib.data.tables import Tables
from moonlib.filters.apply import apply_filters
from moonlib.filters.filter import Encoded, Filter
from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.pairs.pairs import Pairs, search_pairs
from moonlib.representations.store import Representations
from moonlib.stages.contrastive import Contrastive, PairData
from moonlib.stages.stage import StageContext
from moonlib.system.disk import replacing


@dataclass
class SearchData(PairData):
    """How searches are turned into batches.

    Args:
        tasks: weight of each ``query -> item`` modality type, for instance ``{image -> title+image: 1.0}``.
        batch_size: pairs in a batch, over all devices.
        augment: strength of the image augmentation in training, 0 for none.
        workers: loader processes; has no effect on the batches.
        actions: which actions make an item a positive of its query.
        until: which searches are read: those before the days that the CTR model trains on (``behaviour``), or all
            before the end of training (``train``: the CTR model then trains on days the encoder has seen).
    """

    actions: list[Literal["click", "cart", "order"]] = field(default_factory=lambda: ["click", "cart", "order"])
    until: Literal["behaviour", "train"] = "behaviour"


class Posttraining(Contrastive):
    """Contrastive post-training on (query, item acted upon), id-aware.

    All items that a query led to are its positives, wherever in the pool they appear; other SKUs of their SPUs are
    left out of the denominator (MOON, arXiv 2511.11305, Stage 2). The first phase takes all actions, the second orders
    alone (``data.actions``), cleaned by filters; what these leave out stands in ``filters.json``.

    Args:
        loss: loss on the scores.
        negatives: samplers, applied in order.
        learning_rate: peak of the schedule (linear warm-up, cosine decay to 0 at ``trainer.max_steps``).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps over which the learning rate rises.
        matryoshka: numbers of leading dimensions that are to be representations in their own right, each with the
            weight of its loss; null for all dimensions alone.
        hardness: how much more a query counts whose hardest negative comes close to its positive; 0 for all alike.
        grad_cache: rows that are encoded at once, for batches larger than memory; null for the whole batch.
        filters: clean what is learnt from, in order; one that compares representations sees those of the encoder as it
            is when the stage begins.
    """

    data_type: ClassVar[type] = SearchData
    both_directions: ClassVar[bool] = False

    def __init__(
        self,
        loss: Loss,
        negatives: list[NegativeSampler],
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        matryoshka: dict[int, float] | None = None,
        hardness: float = 0.0,
        grad_cache: int | None = None,
        filters: list[Filter] = [],  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        super().__init__(
            loss, negatives, learning_rate, weight_decay, warmup, matryoshka, hardness=hardness, grad_cache=grad_cache
        )
        self.filters = filters

    def pairs(self, context: StageContext) -> tuple[Pairs, pl.DataFrame]:
        dataset, data = context.dataset, context.data
        assert isinstance(data, SearchData)
        searches = dataset.splits.check(dataset.searches, "behaviour", "searches")
        if data.until == "train":
            searches = pl.concat([searches, dataset.splits.select(dataset.searches, "train")])
        pairs = search_pairs(searches, actions=data.actions)
        if self.filters:
            left = self.filtered(context, searches.filter(pl.col("action").is_in(data.actions)))
            # A pair that is not trained on is still no negative: what is known of its query stays known.
            keys = ["query_id", "item_id"]
            rows = pl.DataFrame({"query_id": pairs.query_id, "item_id": pairs.item_id}).with_row_index("row")
            pairs = pairs[rows.join(left, on=keys, how="semi").sort("row")["row"].to_numpy().astype(np.int64)]
        return pairs, searches

    def filtered(self, context: StageContext, searches: pl.DataFrame) -> pl.DataFrame:
        """The searches that the filters leave; made once, by the first process, and kept for the others and for later.

        Args:
            context: see `StageContext`.
            searches: those whose actions make positives.
        """
        file = context.directory / SEARCHES
        while not file.exists():
            if context.trainer.is_global_zero:
                tables, report = apply_filters(
                    self.filters, self.training_tables(context, searches), lambda: self.encoded(context, searches)
                )
                write_json(context.directory / FILTERS, report)
                with replacing(file) as partial:
                    tables.searches.write_parquet(partial)
                for side in ("products", "queries"):
                    Representations.remove(context.directory, f"filters.{side}")
            else:
                time.sleep(0.05)
        return read_table(file)

    def training_tables(self, context: StageContext, searches: pl.DataFrame) -> Tables:
        """What training may see: products and events from before its end, and nothing that these do not name."""
        dataset = context.dataset
        ends = dataset.splits.train_until
        shown = dataset.impressions.filter(pl.col("ts") < ends)
        named = pl.concat([searches["item_id"], shown["item_id"]]).unique()
        asked = pl.concat([searches["query_id"], shown["query_id"]]).unique()
        return Tables(
            products=dataset.products.filter((pl.col("listed_at") < ends) | pl.col("item_id").is_in(named.implode())),
            queries=dataset.queries.filter(pl.col("query_id").is_in(asked.implode())),
            users=dataset.users,
            searches=searches,
            impressions=shown,
        )

    def encoded(self, context: StageContext, searches: pl.DataFrame) -> Encoded:
        """What the encoder makes, as it is now, of the products and queries of these searches."""
        pairs = search_pairs(searches, actions=context.data.actions)
        items = searches["item_id"].unique().sort().to_numpy()
        return Encoded(*self.represent(pairs, items, "filters"))
