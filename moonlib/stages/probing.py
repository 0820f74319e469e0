"""Probing: what representations are worth by themselves, without a downstream model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, ClassVar

import moonlib.compat  # noqa: F401

from moonlib.data.evaluation import EVALUATED
from moonlib.data.reads import NOTHING, Reads
from moonlib.probes.alignment import Alignment
from moonlib.probes.attributes import Attributes
from moonlib.probes.categories import Categories
from moonlib.probes.clusters import Clusters
from moonlib.probes.contrastive import HeldOutLoss
from moonlib.probes.probe import Probe, Represented
from moonlib.probes.search import Search
from moonlib.stages.represent import read_representations
from moonlib.stages.stage import Need, Stage, StageContext


@dataclass
class ProbingData:
    """A probe reads the stored representations and the tables; there is nothing to choose."""


class Probing(Stage):
    """Measures representations by probes, on validation and test days; nothing is trained but what a probe fits.

    Args:
        probes: what measures; all of moonlib's own, with their defaults, if not given.

    Raises:
        ValueError: two probes give a metric of one name.
    """

    data_type: ClassVar[type] = ProbingData

    def __init__(self, probes: list[Probe] | None = None) -> None:
        super().__init__()
        own: Sequence[Probe] = (Search(), Categories(), Attributes(), Clusters(), Alignment(), HeldOutLoss())
        self.probes = own if probes is None else probes

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"representations"})

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """The union of what the probes read."""
        return reduce(or_, (probe.reads() for probe in self.probes), NOTHING)

    def run(self, context: StageContext) -> dict[str, float]:
        if not context.trainer.is_global_zero:
            return {}
        products, queries = read_representations(context, "learned")
        metrics: dict[str, float] = {}
        for split in EVALUATED:
            represented = Represented(context.dataset, products, queries, split)
            for probe in context.progress.through(self.probes, "probes", len(self.probes), lambda probe: 1):
                context.interruption.check()
                found = {key if split == "test" else f"{split}/{key}": v for key, v in probe(represented).items()}
                if twice := metrics.keys() & found.keys():
                    raise ValueError(
                        f"probing: two probes give a metric '{min(twice)}'; give one of them other arguments"
                    )
                metrics |= found
        return metrics
