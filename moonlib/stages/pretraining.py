"""Pretraining: contrastive training on the catalogue."""

from __future__ import annotations

from typing import Any

from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.pairs.products import ProductPairs
from moonlib.stages.contrastive import Contrastive


class Pretraining(Contrastive):
    """Contrastive pretraining, image ↔ title, in both directions: the stage `contrastive` with ``pairs: products``.

    Every product listed before the end of training is a pair of itself: the query is one modality, the item the
    other. SKUs of one SPU are not negatives of each other. This is the dual encoder that MOON's generative
    pretraining replaced (arXiv 2511.11305, Fig. 3).

    Args:
        loss: the loss; null beside ``losses``.
        negatives: samplers, applied in order.
        options: all else that `Contrastive` takes, but for ``pairs``.
    """

    reads = Contrastive.reads

    def __init__(self, loss: Loss | None, negatives: list[NegativeSampler], **options: Any) -> None:
        super().__init__(loss, negatives, ProductPairs(), **options)
