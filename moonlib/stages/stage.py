"""The base class of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
from lightning import LightningModule, Trainer
from torch import Tensor

from moonlib.data.dataset import Dataset
from moonlib.data.reads import EVERYTHING, Declaring, Reads
from moonlib.encoders.encoder import Encoder
from moonlib.metrics.metric import Meaning
from moonlib.representations.store import Representations
from moonlib.stages.comparable import OldRun
from moonlib.stages.position import Position
from moonlib.stages.validation_schedule import Keep, ValidationSchedule
from moonlib.system.interruption import CHECKPOINT_SECONDS, Interruption
from moonlib.system.progress import StageProgress

Need = Literal["encoder", "weights", "representations", "codes"]
"""Inputs that a stage may read besides the dataset."""
Provides = Literal["weights", "representations", "codes", "vectors"]
"""Outputs that a stage may leave for later ones: weights of the encoder, representations of all products and queries,
codes of these, or vectors of some products, ``products.npy``, for a stage that names it as its teacher."""


@dataclass
class StageContext:
    """Everything that a stage runs with.

    Attributes:
        dataset: the five tables and their shards, of which the stage finds what it declared in `Stage.reads`.
        data: an instance of the stage's `Stage.data_type`.
        trainer: the Lightning trainer of the recipe's ``trainer`` section.
        directory: where the stage writes; renamed into place once `Stage.run` returns. It holds what an earlier attempt
            left that was cut off, and is empty otherwise.
        seed: seed of this stage.
        encoder: the recipe's encoder, set up, with the weights it starts from (None unless the stage needs it).
        weights: weights of the encoder as the stages before left them (None: untrained).
        representations: directory of the representations made by the stages before, or else of those that the dataset
            came with, where those of queries may be missing (None unless needed).
        codes: directory of the codes that a stage before made of these representations (None: there are none, or they
            are not needed).
        interruption: where a request to end the run arrives; long work that can be resumed looks at it.
        checkpoint_seconds: time between checkpoints of a training, 0 for one after every step.
        snapshot_every: steps between the snapshots that a training keeps of the encoder (None: it keeps none).
        progress: shows how far the stage is; work that takes its time counts itself there.
        position: where a training's data resumes, set by `moonlib.stages.training.train`.
        encoder_state: the encoder's whole state dict, set by `moonlib.stages.training.train` where a strategy leaves
            each process a part of the weights (None: all of them are in the encoder).
        name: of the stage in its recipe; it stands in the keys of what is measured while it trains.
        validate: when and on how much the training is measured (None: never).
        keep: which weights the training leaves.
        comparable: representations of an earlier run, where `Stage.compatible_with` names it.
        teachers: the vectors of products that `Stage.teachers` names, by those names.
        warm_start: directory of the finished stage that the recipe's key ``from`` names (None without it). A stage
            whose weights are the encoder's need not look at it: they are in ``weights`` then.
    """

    dataset: Dataset
    data: Any
    trainer: Trainer
    directory: Path
    seed: int
    encoder: Encoder | None = None
    weights: Path | None = None
    representations: Path | None = None
    codes: Path | None = None
    interruption: Interruption = field(default_factory=Interruption)
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    snapshot_every: int | None = None
    progress: StageProgress = field(default_factory=StageProgress)
    position: Position = field(default_factory=Position)
    encoder_state: dict[str, Tensor] | None = None
    name: str = "stage"
    validate: ValidationSchedule | None = None
    keep: Keep = "last"
    comparable: OldRun | None = None
    teachers: Mapping[str, Representations] = field(default_factory=dict)
    warm_start: Path | None = None


@dataclass(frozen=True)
class Reference:
    """A run of the same stage with other arguments, whose results stand beside it.

    Attributes:
        prefix: of its keys in ``results.json``, for instance ``"oracle"``.
        module: the arguments of the stage that differ, bare names allowed.
        title: what tables, the report and the model card call it; stored with the results.
        candidates: where the reference is the best of several, a function of the arguments that the recipe gives the
            stage: by the name of each candidate the arguments that it has in place of these, none for the stage's own,
            which comes first. Each is a run of its own; None for no choice.
        chosen_by: the result of validation days that they are chosen by, such as ``ctr/auc``; higher is better.
    """

    prefix: str
    title: str
    module: Mapping[str, Any] = field(default_factory=dict)
    candidates: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] | None = None
    chosen_by: str = ""


class Stage(LightningModule, Declaring, ABC):
    """One step of an iteration: reads what the stages before left, writes its directory, returns its metrics.

    Attributes:
        data_type: dataclass whose fields are the keys of the recipe's ``data`` section.
        provides: what later stages may take from this one's directory, see `Provides`.
        validates: whether a recipe may give it the keys ``validate`` and ``keep``: its `run` then hands a
            `moonlib.stages.validation.Validation` to `moonlib.stages.training.train`.
        compatible_with: a run whose representations of products the stage reads, see `StageContext.comparable` (None:
            of none). Its fingerprint depends on their content.
        teachers: vectors of products that the stage learns from, each the name of a stage before it, a run, or a folder
            or file of vectors, see `StageContext.teachers`. Its fingerprint depends on their content.
        warm_starts: whether a recipe may give it the key ``from``, and so `StageContext.warm_start`.
        reads_center: whether a recipe may give it the key ``representations``: what it needs of them then comes from a
            representation center. Those of queries are made by the center's encoder, unless `reads_queries` is False.
        reads_queries: whether it reads representations of queries.
        requires_codes: whether it can't do without ``codes``, which it needs.
    """

    data_type: ClassVar[type]
    provides: ClassVar[Provides | None] = None
    validates: ClassVar[bool] = False
    compatible_with: str | None = None
    teachers: Sequence[str] = ()
    warm_starts: ClassVar[bool] = False
    reads_center: ClassVar[bool] = False
    reads_queries: bool = True
    requires_codes: bool = False

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """Inputs of the stage besides the dataset; with what it `reads` of that, its fingerprint depends on these.

        ``encoder``: the architecture and fitted preprocessing. ``weights``: also the weights that the stages before
        left, where there are any. ``representations``: those made before. ``codes``: codes of these, where a stage
        before has made any.
        """

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """Declare what the stage reads of the dataset: its fingerprint covers that, and `run` is given no more.

        Reading anything else raises `moonlib.data.restricted.Undeclared`. By default it is everything: a change of
        whatever kind then makes the stage anew. That also holds for a class that derives from a stage with a
        declaration, unless it has one of its own.

        Args:
            data: an instance of `data_type`.
            validated: whether the recipe gives the stage the key ``validate``.

        Example: ``return Reads.of(products=["title"], moments=["train_until"])``
        """
        return EVERYTHING

    def references(self, dataset: Dataset) -> list[Reference]:
        """Baselines and upper bounds to run beside the stage on this dataset, at equal settings."""
        return []

    def meanings(self) -> Mapping[str, Meaning]:
        """Titles and directions of what `run` returns, by the key of test days and all rows, such as ``ctr/auc``.

        They are stored with the results. What is not among them is shown under its key, and counts as neither better
        nor worse.
        """
        return {}

    @abstractmethod
    def run(self, context: StageContext) -> dict[str, float]:
        """Do the stage's work.

        A stage that trains calls `moonlib.stages.training.train`, so that it can be killed at any moment. On several
        processes all of them run this, only ``trainer.is_global_zero`` writes, and its metrics count.

        Args:
            context: see `StageContext`.

        Returns:
            Metrics under flat keys such as ``image_search/recall@10``. What the data does not define is left out, by
            way of `moonlib.metrics.undefined.leave_out`, which makes a note of it.
        """
