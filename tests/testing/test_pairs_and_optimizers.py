"""The checks of pair sources and optimizers find what is broken, and say which promise it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from moonlib.filters.filter import Filter
from moonlib.optimizers.adam import AdamFactory
from moonlib.optimizers.adamw import AdamWFactory
from moonlib.optimizers.optimizer_factory import OptimizerContext, OptimizerFactory, TrainedParameter
from moonlib.pairs.pair_source import PairContext, PairSource
from moonlib.pairs.pairs import Pairs, search_pairs
from moonlib.pairs.products import ProductPairs
from moonlib.pairs.searches import SearchPairs
from moonlib.testing import check_optimizer, check_pairs


class Late(SearchPairs):
    """Looks at all searches, those of the test days included."""

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        return search_pairs(context.dataset.searches), context.dataset.searches


class LateCandidates(SearchPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        return super().pairs(context)[0], context.dataset.searches


CALLS = itertools.count()


class Chance(ProductPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        return pairs[np.random.default_rng(next(CALLS)).permutation(len(pairs))], searches


class Shifted(ProductPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        return replace(pairs, positives=np.roll(pairs.positives, 1, axis=0)), searches


class Narrow(ProductPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        return replace(pairs, item_id=pairs.item_id.astype(np.int32)), searches


class Everywhere(SearchPairs):
    """Represents in every process."""

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        super().__init__(filters=list(filters))

    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        context.represent(pairs, np.unique(pairs.item_id), "mine")
        return pairs, searches


class Worthless(ProductPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        return replace(pairs, weight=np.arange(len(pairs), dtype=np.float32)), searches


class Double(ProductPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        return replace(pairs, weight=np.ones(len(pairs))), searches


class Weighed(ProductPairs):
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        pairs, searches = super().pairs(context)
        weight = np.full(len(pairs), next(CALLS) + 1, dtype=np.float32)
        return replace(pairs, weight=weight), searches


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Late, "is not known before the end of training|from after the end of training alone"),
        (LateCandidates, "the searches reach beyond the end of training"),
        (Chance, "a fresh source gives other pairs, or another order"),
        (Shifted, "a pair's first positive is not its own item"),
        (Narrow, "item_id is int32, not int64"),
        (Worthless, "a weight is not a number above 0"),
        (Double, r"weight is float64 \[\d+\], not float32"),
        (Weighed, "a fresh source gives other pairs"),
        (Everywhere, "leaves mine.products.ids.npy, mine.products.npy, .* behind"),
    ],
)
def test_broken_pair_sources_are_found(make: Callable[[], PairSource], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_pairs(make)


class Deaf(AdamFactory):
    """One rate for all parameters."""

    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> Any:
        return torch.optim.Adam([each.parameter for each in parameters], lr=self.learning_rate)


class Partial(AdamFactory):
    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> Any:
        return super().__call__(parameters[:1], context)


class Decaying(AdamFactory):
    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> Any:
        groups = [{"params": [each.parameter], "lr": each.factor * 0.1} for each in parameters]
        return torch.optim.AdamW(groups, weight_decay=0.1)


class Boastful(AdamFactory):
    takes_sparse = True


class Both(AdamWFactory):
    def __call__(self, parameters: Sequence[TrainedParameter], context: OptimizerContext) -> Any:
        return [super().__call__(parameters, context)]


class Frozen(AdamFactory):
    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Deaf, "'ids.weight' has learning rate 0.001, not its factor's, 0.00025"),
        (Partial, "'linear.weight' is in 0 of the optimizer's groups, not in 1"),
        (Decaying, "a parameter that is not to decay has weight decay"),
        (Boastful, "takes_sparse: is True, but: "),
        (Both, "expected an optimizer, or a mapping of 'optimizer' and 'lr_scheduler'"),
        (Frozen, "'ids.weight' has not moved"),
    ],
)
def test_broken_optimizers_are_found(make: Callable[[], OptimizerFactory], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_optimizer(make)
