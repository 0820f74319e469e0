"""Which stage reads what an earlier one has left: derived from a recipe alone, and the same wherever it is asked.

A stage may provide the encoder's weights or representations (`moonlib.stages.stage.Stage.provides`); a later one reads
those that were provided last. What each of them was made from is its *lineage*.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from moonlib.artifacts.layout import PREPROCESSING
from moonlib.stages.stage import Need, Provides

DATA = "data"
"""The dataset among the names of stages, as in ``costs.json``."""


@dataclass(frozen=True)
class Lineage:
    """Outputs of the stages so far for the next; a step further is another value.

    While a recipe runs, its values are the fingerprints that name directories; `lineage_of` gives names of stages.

    Attributes:
        dataset: the data.
        preprocessing: the encoder's fitted preprocessing and first weights.
        weights: the last stage that trained the encoder; of a checkpoint, its folder in that stage's directory.
        representations: the last stage that made representations; until then the dataset's own are read, if any.
        codes: the last stage that coded these representations.
    """

    dataset: str
    preprocessing: str | None = None
    weights: str | None = None
    representations: str | None = None
    codes: str | None = None
    # The names of these fields are keys of what a fingerprint is made of, see `moonlib.runs.step`.

    def after(self, provides: Provides | None, stage: str) -> Lineage:
        """The lineage once a stage has finished.

        Args:
            provides: what it provides.
            stage: its fingerprint or its name.

        Example:
            >>> Lineage("data", "preprocessing").after("weights", "pretrain").weights
            'pretrain'
        """
        if provides == "weights":
            return replace(self, weights=stage)
        if provides == "representations":
            return replace(self, representations=stage, codes=None)
        return replace(self, codes=stage) if provides == "codes" else self

    def read(self, needs: Collection[Need]) -> Lineage:
        """The part that a stage reads.

        Args:
            needs: of the stage, see `moonlib.stages.stage.Stage.needs`.

        Example:
            >>> Lineage("data", "preprocessing", "pretrain").read({"encoder"})
            Lineage(dataset='data', preprocessing='preprocessing', weights=None, representations=None, codes=None)
        """
        return Lineage(
            self.dataset,
            self.preprocessing if needs_encoder(needs) else None,
            self.weights if "weights" in needs else None,
            self.representations if "representations" in needs else None,
            self.codes if "codes" in needs else None,
        )


def needs_encoder(needs: Collection[Need]) -> bool:
    """Whether a stage is given an encoder."""
    return "encoder" in needs or "weights" in needs


def lineage_of(stages: Mapping[str, Provides | None], until: str | None = None) -> Lineage:
    """Derive from the stages of a recipe what one of them finds, by name.

    Args:
        stages: what each provides, in the order they run.
        until: the stage that is to run next; by default all have run.

    Example:
        >>> stages = {"pretrain": "weights", "represent": "representations", "application": None}
        >>> lineage_of(stages).representations, lineage_of(stages, until="represent").representations
        ('represent', None)
    """
    lineage = Lineage(DATA, PREPROCESSING)
    for name, provides in stages.items():
        if name == until:
            break
        lineage = lineage.after(provides, name)
    return lineage


def training_stages(stages: Mapping[str, Provides | None], until: str | None = None) -> list[str]:
    """The stages that train the encoder, each of them from the weights of the one before it.

    Args:
        stages: see `lineage_of`.
        until: see `lineage_of`.

    Example:
        >>> training_stages({"pretrain": "weights", "represent": "representations", "refine": "weights"})
        ['pretrain', 'refine']
    """
    found: list[str] = []
    last = lineage_of(stages, until).weights
    while last is not None:
        found.insert(0, last)
        last = lineage_of(stages, last).weights
    return found
