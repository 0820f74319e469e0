"""Post-training: what shoppers searched for, beside what they then clicked and bought."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from moonlib.data.dataset import Dataset
from moonlib.data.pairs import Pairs, search_pairs
from moonlib.stages.contrastive import Contrastive, PairData


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
    left out of the denominator (MOON, arXiv 2511.11305, Stage 2, first phase).

    Args:
        loss: loss on the scores.
        negatives: samplers, applied in order.
        learning_rate: peak of the schedule (linear warm-up, cosine decay to 0 at ``trainer.max_steps``).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps over which the learning rate rises.
    """

    data_type: ClassVar[type] = SearchData
    both_directions: ClassVar[bool] = False

    def pairs(self, dataset: Dataset, data: PairData) -> Pairs:
        assert isinstance(data, SearchData)
        searches = dataset.splits.check(dataset.searches, "behaviour", "searches")
        if data.until == "train":
            searches = pl.concat([searches, dataset.splits.select(dataset.searches, "train")])
        return search_pairs(searches, actions=data.actions)
