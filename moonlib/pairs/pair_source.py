"""The promise of every pair source: it says which pairs an encoder is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data.dataset import Dataset
from moonlib.data.reads import EVERYTHING, Declaring, Reads
from moonlib.pairs.pairs import Pairs
from moonlib.representations.store import Representations


class RepresentPairs(Protocol):
    """Runs the encoder as it is when training begins."""

    def __call__(self, pairs: Pairs, item_ids: NDArray[np.int64], name: str) -> tuple[Representations, Representations]:
        """Represent products and the queries of pairs.

        Args:
            pairs: whose queries.
            item_ids: int64 [n], which products.
            name: begins the names of the files in `PairContext.directory`; an interrupted call of this name resumes.

        Returns:
            The products by item_id, the queries by query_id, float32 [rows, dim], mapped from files ``<name>.products``
            and ``<name>.queries``; remove them with `Representations.remove` when done.
        """
        ...


@dataclass(frozen=True)
class PairContext:
    """Everything that a pair source is given.

    Attributes:
        dataset: the five tables and their shards.
        directory: where it may keep files, the same for all processes. It holds what an interrupted attempt left.
        first: whether this is the first of the processes that train together. All of them ask for the pairs: a source
            that writes does so in the first, and the others wait for what it wrote.
        represent: see `RepresentPairs`; to be called in the first process alone.
    """

    dataset: Dataset
    directory: Path
    first: bool
    represent: RepresentPairs


class PairSource(Declaring, ABC):
    """Says which pairs an encoder is trained on.

    A constructor takes the recipe's arguments and does no work.

    Attributes:
        both_directions: True to contrast items with queries, too, at equal weight.
    """

    both_directions: ClassVar[bool] = False

    def reads(self) -> Reads:
        """Declare what `pairs` reads of the dataset, and what is in the searches that it returns.

        By default it is everything, also for a class that derives from another source and does not say it again. See
        `moonlib.stages.stage.Stage.reads`.
        """
        return EVERYTHING

    @abstractmethod
    def pairs(self, context: PairContext) -> tuple[Pairs, pl.DataFrame]:
        """Choose the pairs; nothing from after the end of training (``dataset.splits.train_until``).

        A function of the dataset, the arguments and the encoder: the same pairs in the same order in every process and
        after an interruption.

        Args:
            context: see `PairContext`.

        Returns:
            The pairs, and the searches that negative samplers may look at, columns as in `moonlib.data.tables`: those
            that the pairs come from, or ``moonlib.data.tables.empty("searches")`` where they come from products.

        Raises:
            ValueError: there is no pair to train on, with what to do about it.
        """
