"""The base class of probes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from moonlib.data.dataset import Dataset
from moonlib.data.reads import EVERYTHING, Declaring, Reads
from moonlib.data.splits import Split
from moonlib.representations.store import Representations


@dataclass(frozen=True)
class Represented:
    """A dataset, its products and queries represented, and the days to look at.

    Attributes:
        dataset: the five tables and their shards.
        products: the products' vectors by item_id, not normalised; a row of zeros says nothing of its product.
        queries: the queries' vectors by query_id, in the products' space.
        split: whose days are measured: ``valid`` to select by, ``test`` to report.
    """

    dataset: Dataset
    products: Representations
    queries: Representations
    split: Split


class Probe(Declaring, ABC):
    """An intermediate metric: what representations are worth, without a downstream model to train.

    Probes are candidates for the metric that predicts the gain in clicks best; recall is the one to beat. A probe
    learns nothing from the days it measures. Its constructor takes the recipe's arguments and does no work.
    """

    def reads(self) -> Reads:
        """Declare what the probe reads of the dataset.

        By default it is everything, also for a class that derives from another probe and does not say it again. See
        `moonlib.stages.stage.Stage.reads`.
        """
        return EVERYTHING

    @abstractmethod
    def __call__(self, represented: Represented) -> dict[str, float]:
        """Measure.

        Args:
            represented: see `Represented`.

        Returns:
            Metrics under flat keys such as ``same_category@10``; the same for every call.
        """
