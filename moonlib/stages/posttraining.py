"""Post-training: contrastive training on what shoppers searched for, beside what they then clicked and bought."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from moonlib.data.tables import Action
from moonlib.filters.filter import Filter
from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.pairs.pair_source import PairSource
from moonlib.pairs.searches import SearchPairs
from moonlib.stages.contrastive import Contrastive, PairData


@dataclass
class SearchData(PairData):
    """How searches are turned into batches.

    Args:
        actions: which actions make an item a positive of its query.
        until: which searches are read: those before the days that the CTR model trains on (``behaviour``), or all
            before the end of training (``train``: the CTR model then trains on days the encoder has seen).
    """

    actions: list[Action] = field(default_factory=lambda: ["click", "cart", "order"])
    until: Literal["behaviour", "train"] = "behaviour"


class Posttraining(Contrastive):
    """Contrastive post-training on (query, item acted upon): the stage `contrastive` with ``pairs: searches``.

    All items that a query led to are its positives, wherever in the pool they appear; other SKUs of their SPUs are
    left out of the denominator (MOON, arXiv 2511.11305, Stage 2). The first phase takes all actions, the second orders
    alone (``data.actions``), cleaned by filters; what these leave out stands in ``filters.json``.

    Args:
        loss: the loss; null beside ``losses``.
        negatives: samplers, applied in order.
        filters: clean what is learnt from, in order; one that compares representations sees those of the encoder as it
            is when the stage begins.
        options: all else that `Contrastive` takes, but for ``pairs``.
    """

    data_type: ClassVar[type] = SearchData

    reads = Contrastive.reads

    def __init__(
        self,
        loss: Loss | None,
        negatives: list[NegativeSampler],
        *,
        filters: list[Filter] = [],  # noqa: B006  (a recipe's default is read, never written)
        **options: Any,
    ) -> None:
        super().__init__(loss, negatives, SearchPairs(filters=filters), **options)
        self.filters = filters

    def pair_source(self, data: Any) -> PairSource:
        """Search pairs with the actions and the days that the data section names."""
        return SearchPairs(data.actions, data.until, self.filters)
