"""Pretraining: one representation for the image and the title of a product."""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from moonlib.data.tables import empty
from moonlib.pairs.pairs import Pairs, product_pairs
from moonlib.stages.contrastive import Contrastive
from moonlib.stages.stage import StageContext


class Pretraining(Contrastive):
    """Contrastive pretraining, image ↔ title, in both directions.

    Every product listed before the end of training is a pair of itself: the query is one modality, the item the
    other. SKUs of one SPU are not negatives of each other. This is the dual encoder that MOON's generative
    pretraining replaced (arXiv 2511.11305, Fig. 3).

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
    """

    both_directions: ClassVar[bool] = True

    def pairs(self, context: StageContext) -> tuple[Pairs, pl.DataFrame]:
        dataset = context.dataset
        listed = dataset.splits.known(dataset.table("products", ("item_id", "listed_at")))
        if listed.is_empty():
            raise ValueError(f"{dataset.directory}: no product is listed before the end of training")
        return product_pairs(listed), empty("searches")
