"""Every component says itself what it reads of a dataset; one of a plugin that does not is taken to read everything."""

from __future__ import annotations

import pytest

from moonlib.data.reads import EVERYTHING, Declaring
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.tower import TextTower
from moonlib.filters.entity_filter import EntityFilter
from moonlib.filters.filter import Filter
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.pairs.pair_source import PairSource
from moonlib.probes.probe import Probe
from moonlib.registry import registry
from moonlib.stages.contrastive import Contrastive
from moonlib.stages.stage import Stage

BASES = {
    "stages": Stage,
    "pairs": PairSource,
    "negatives": NegativeSampler,
    "filters": Filter,
    "probes": Probe,
    "encoders": Encoder,
    "text_towers": TextTower,
}


@pytest.mark.parametrize("kind", BASES)
def test_every_component_of_moonlib_declares_what_it_reads_itself(kind: str) -> None:
    classes = [component.load() for component in registry.components(kind)]
    own = [cls for cls in classes if cls.__module__.startswith("moonlib.")]
    assert own and all(issubclass(cls, BASES[kind]) for cls in own)
    undeclared = [cls.__name__ for cls in own if vars(cls).get("reads", BASES[kind].reads) is BASES[kind].reads]  # type: ignore[attr-defined]
    assert undeclared == []


def test_a_class_that_derives_and_does_not_say_what_it_reads_has_the_widest_declaration() -> None:
    class Narrow(EntityFilter):
        """Reads whatever it likes."""

    class Further(Contrastive):
        """Overrides who knows what."""

    class Same(Contrastive):
        """Reads what it derives from does."""

        reads = Contrastive.reads

    class Wider(DualEncoder):
        """Fits something else."""

    assert Narrow().reads() == EVERYTHING and EntityFilter().reads() != EVERYTHING
    assert Further.reads is Stage.reads and Same.reads is Contrastive.reads
    assert Wider.reads is Encoder.reads
    assert all(Declaring in base.__bases__ for base in BASES.values())
