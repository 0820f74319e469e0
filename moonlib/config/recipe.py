"""Recipes: YAML in, typed and checked configuration out; nothing is constructed until it is asked for.

    extends: iter1.yaml
    changes: {training: post-training on what shoppers searched for}
    data: {class_path: marketplace, init_args: {size: small}}
    stages:
      posttrain:
        after: pretrain
        module: {class_path: posttraining, init_args: {loss: info_nce, negatives: [in_batch]}}
        data: {tasks: {image -> title+image: 1.0}, batch_size: 256}
        trainer: {max_steps: 200}

`moonlib.config.merge` tells how files merge, `moonlib.config.typing` how they are typed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from moonlib.config import data as short_data
from moonlib.config import spelling
from moonlib.config.earlier import SCHEDULE
from moonlib.config.header import Header
from moonlib.config.loggers import LoggerRecipe, read_loggers
from moonlib.config.merge import (
    Layer,
    RecipeError,
    find,
    hint,
    merge,
    merge_layers,
    parse_overrides,
    read_layers,
    shipped,
    source_of,
)
from moonlib.config.typing import Construction, class_path, construct, construct_component, written
from moonlib.config.warm_start import (
    FROM,
    component,
    directory_of,
    encoder_at,
    named,
    opened,
    parted,
    recipe_at,
    stage_at,
)
from moonlib.stages.validation_schedule import Keep, ValidationSchedule
from moonlib.system.remote import holds_credentials, is_url, without_credentials

if TYPE_CHECKING:
    from lightning import Trainer

    from moonlib.encoders.encoder import Encoder
    from moonlib.sources.source import Source
    from moonlib.stages.stage import Provides, Stage

log = logging.getLogger(__name__)

__all__ = ["NOT_SET", "Recipe", "RecipeError", "StageRecipe", "diff", "fingerprint", "load", "shipped"]

REPRESENTATIONS = "representations"
"""The key of a stage that reads the vectors of a center."""

NOT_SET = "(not set)"
"""Stands in `diff` for a key that one side does not have."""


@dataclass(frozen=True)
class EvaluationSchedule:
    """A stage's key ``checkpoint_evaluation``, see `moonlib.runs.checkpoint_evaluation`.

    Args:
        every: steps of the optimizer between two evaluations.

    Raises:
        ValueError: if ``every`` is below 1.
    """

    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")


@dataclass(frozen=True)
class CenterSource:
    """A stage's key ``representations``: the vectors of a representation center, see `moonlib.runs.center`.

    Args:
        center: the center's directory; a relative path is one from here.
        alias: whose snapshot is read, as it is when the run begins.

    Raises:
        ValueError: one of them is empty, or the center is a URL.
    """

    center: str
    alias: str = "live"

    def __post_init__(self) -> None:
        for name, value in (("center", self.center), ("alias", self.alias)):
            if not value.strip():
                raise ValueError(f"{name} must not be empty")
        if is_url(self.center):
            raise ValueError(f"center: {without_credentials(self.center)} is a URL: copy the center here, or mount it")


class StageRecipe:
    """One stage of a recipe: its module, its data, its trainer and, where it is given, when its encoder is evaluated.

    Attributes:
        name: of the stage.
        schedule: when the encoder that the stage trains is evaluated in between; None for never.
        validate: when its training is measured on validation days; None for never.
        keep: which weights its training leaves.
        source: the run, or the stage of one, that it starts from; None for no warm start.
        center: the center whose vectors it reads; None for those of the stages before it, or of the dataset.
        written: what the recipe says, bare names expanded, without defaults.
        config: the same with every default, as plain JSON values: what a fingerprint is made of.
    """

    def __init__(self, name: str, section: Mapping[str, Any]) -> None:
        self.name = name
        key = ("stages", name)
        spelling.check_parts(section, key)
        self._module = construct_component("stages", section.get("module"), (*key, "module"))
        self._data = construct(self._module.cls.data_type, section.get("data"), (*key, "data"))  # type: ignore[attr-defined]
        self._trainer = construct(_trainer_class(), section.get("trainer"), (*key, "trainer"))
        self.written: dict[str, Any] = {
            "module": written(self._module.cls, self._module.arguments),
            "data": self._data.arguments,
            "trainer": self._trainer.arguments,
        }
        self.config = {
            "module": {"class_path": class_path(self._module.cls), "init_args": self._module.resolved},
            "data": self._data.resolved,
            "trainer": self._trainer.resolved,
        }
        self.schedule: EvaluationSchedule | None = None
        if (given := section.get(SCHEDULE)) is not None:
            if self.provides != "weights":
                problem = f"{self._module.cls.__name__} trains no encoder, so it has no checkpoints to evaluate"
                raise RecipeError(f"{problem}; give it to a stage that does", (*key, SCHEDULE))
            schedule = construct(EvaluationSchedule, given, (*key, SCHEDULE))
            self.schedule = schedule.build()
            # Only where it is given: a stage without it keeps the fingerprint that it has.
            self.written[SCHEDULE], self.config[SCHEDULE] = schedule.arguments, schedule.resolved
        self.validate: ValidationSchedule | None = None
        self.keep: Keep = "last"
        self._validation(section, key)
        self.source: str | None = None
        if (source := section.get(FROM)) is not None:
            if not self._module.cls.warm_starts:  # type: ignore[attr-defined]
                problem = f"{self._module.cls.__name__} starts from no other run's stage"
                raise RecipeError(f"{problem}; leave it out, or give it to a stage that does", (*key, FROM))
            # Not in `config`: a fingerprint is made of what lies there, and not of the path.
            self.source = named(source, (*key, FROM))
            self.written[FROM] = self.source
        self.center: CenterSource | None = None
        if (given := section.get(REPRESENTATIONS)) is not None:
            if not self._module.cls.reads_center:  # type: ignore[attr-defined]
                problem = f"{self._module.cls.__name__} reads no vectors of a center"
                raise RecipeError(f"{problem}; give it to an application", (*key, REPRESENTATIONS))
            center = construct(CenterSource, given, (*key, REPRESENTATIONS))
            # Not in `config`, either: what counts is the snapshot, and not where it lies.
            self.center = center.build()
            self.written[REPRESENTATIONS] = center.arguments

    def _validation(self, section: Mapping[str, Any], key: tuple[str, ...]) -> None:
        """Type the keys ``validate`` and ``keep``; like a schedule they are material only where they are given."""
        for name in ("validate", "keep"):
            if section.get(name) is not None and not self._module.cls.validates:  # type: ignore[attr-defined]
                raise RecipeError(
                    f"{self._module.cls.__name__} is not measured while it trains; give it to a stage that trains on "
                    "pairs, impressions or judged searches",
                    (*key, name),
                )
        if (given := section.get("validate")) is not None:
            validate = construct(ValidationSchedule, given, (*key, "validate"))
            self.validate = validate.build()
            self.written["validate"], self.config["validate"] = validate.arguments, validate.resolved
        if (keep := section.get("keep")) is not None:
            if keep not in get_args(Keep):
                raise RecipeError(f"expected one of {', '.join(get_args(Keep))}, got {keep!r}", (*key, "keep"))
            if keep == "best" and self.validate is None:
                raise RecipeError("best is what validation says: set validate.every of this stage too", (*key, "keep"))
            self.keep = self.written["keep"] = keep
            if keep != "last":
                self.config["keep"] = keep

    @property
    def cls(self) -> type[Stage]:
        """The stage's class."""
        return self._module.cls

    @property
    def provides(self) -> Provides | None:
        """Output of the stage for later ones; nothing is constructed."""
        provides: Provides | None = self._module.cls.provides  # type: ignore[attr-defined]
        return provides

    def module(self) -> Stage:
        """Construct the stage."""
        stage: Stage = self._module.build()
        return stage

    def data(self) -> Any:
        """Construct the stage's `data_type`."""
        return self._data.build()

    def trainer(self, **kwargs: Any) -> Trainer:
        """Construct the Lightning trainer.

        Args:
            kwargs: go over the recipe's; callbacks and loggers given as lists are added to the recipe's.

        Raises:
            RecipeError: Lightning refuses the arguments, for instance an accelerator that this machine has not.
        """
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        try:
            trainer: Trainer = self._trainer.build(**kwargs)
        except (MisconfigurationException, ImportError) as error:
            raise RecipeError(" ".join(str(error).split()), ("stages", self.name, "trainer")) from error
        return trainer

    @property
    def world_size(self) -> int:
        """On how many processes the stage is trained."""
        return self.trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
        ).world_size

    def override(self, module: Mapping[str, Any]) -> StageRecipe:
        """The same stage with other arguments of its module.

        Args:
            module: arguments, merged over the recipe's; bare names allowed.
        """
        return StageRecipe(self.name, merge(self.written, {"module": {"init_args": dict(module)}}))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of its module as the recipe gives them, bare names expanded, without defaults."""
        return dict(self._module.arguments)

    def replace(self, arguments: Mapping[str, Any]) -> StageRecipe:
        """The same stage with arguments of its module in place of the recipe's; unlike `override` it merges nothing.

        Args:
            arguments: by name, bare names allowed.
        """
        module = {**self.written["module"], "init_args": {**self.arguments, **arguments}}
        return StageRecipe(self.name, {**self.written, "module": module})


@dataclass(frozen=True)
class Recipe:
    """A merged, expanded and typed recipe.

    Attributes:
        path: its file.
        seed: everything random in the run follows from it.
        changes: what it changes against the recipe it extends.
        stages: in the order they run.
        loggers: what trainings are logged to, besides CSV; none for the default.
        encoder_source: the run or the export that the encoder starts from; None for no warm start.
        scale: the section of a study that `moonlib scale` reads, not looked into here; a run takes no notice of it.
    """

    path: Path
    seed: int
    changes: dict[str, str]
    stages: dict[str, StageRecipe]
    _source: Construction
    _encoder: Construction | None
    scale: Any = None
    loggers: Any = None
    encoder_source: str | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def config(self) -> dict[str, Any]:
        """The recipe merged with all that it extends, bare names expanded: a recipe that extends nothing."""
        config: dict[str, Any] = {"seed": self.seed, "data": written(self._source.cls, self._source.arguments)}
        if self.changes:
            config = {"changes": dict(self.changes), **config}
        if self._encoder:
            source = {} if self.encoder_source is None else {FROM: self.encoder_source}
            config["encoder"] = {**source, **written(self._encoder.cls, self._encoder.arguments)}
        if self.loggers is not None:
            config["loggers"] = self.loggers
        return {**config, "stages": {name: stage.written for name, stage in self.stages.items()}}

    @property
    def provides(self) -> dict[str, Provides | None]:
        """Output of each stage for later ones, in the order they run."""
        return {name: stage.provides for name, stage in self.stages.items()}

    @property
    def logger_recipes(self) -> list[LoggerRecipe]:
        """The loggers, read."""
        return read_loggers(self.loggers)

    def source(self) -> Source:
        """Construct the source of the data."""
        source: Source = self._source.build()
        return source

    @property
    def has_encoder(self) -> bool:
        """Whether it declares an encoder, or takes one from another run."""
        return self._encoder is not None

    def encoder(self) -> Encoder | None:
        """Construct a fresh encoder, or `None` if the recipe has none."""
        encoder: Encoder | None = self._encoder.build() if self._encoder else None
        return encoder


def check_spelling(path: str | Path, overrides: Sequence[str] = ()) -> None:
    """Read and merge a recipe, and refuse what is misspelt, without importing what it names; `load` does so as well.

    A program that imports torch for other reasons calls this first, and answers a wrong letter at once.

    Args:
        path: as in `load`.
        overrides: as in `load`.

    Raises:
        RecipeError: see `load`.
    """
    with _told_by_layer(_layers(path, overrides)) as merged:
        _header(merged)


def load(path: str | Path, overrides: Sequence[str] = (), *, started: bool = False) -> Recipe:
    """Read, merge, expand and type a recipe.

    Args:
        path: its file, or the name of a shipped recipe.
        overrides: command-line words such as ``["--stages.posttrain.trainer.max_steps", "10"]``.
        started: that of a run, which has all that it took from where it started: that need not be there any more.

    Raises:
        RecipeError: one line with file, key and what was expected.
    """
    layers = _layers(path, overrides)
    with _told_by_layer(layers) as merged:
        recipe = _typed(find(path), merged, started)
    if overrides:
        _warn_of_trainer(layers[-1].content, merged)
    return recipe


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compare two recipes' `Recipe.config`.

    Returns:
        (key, old value, new value) of each key that differs; `NOT_SET` where one side lacks it. A changed order of the
        stages is a difference of the key ``stages``.

    Example:
        >>> diff({"seed": 0, "stages": {}}, {"seed": 1, "stages": {"x": {"data": {"a": 2}}}})
        [('seed', 0, 1), ('stages.x.data.a', '(not set)', 2)]
    """
    differences: list[tuple[str, Any, Any]] = []
    before, after = _flat(old), _flat(new)
    for key in [*before, *(key for key in after if key not in before)]:
        was, now = before.get(key, NOT_SET), after.get(key, NOT_SET)
        if was != now:
            differences.append((".".join(key), was, now))
    stages, new_stages = old.get("stages", {}), new.get("stages", {})
    order, new_order = [name for name in stages if name in new_stages], [name for name in new_stages if name in stages]
    if order != new_order:
        differences.append(("stages", order, new_order))
    return differences


def fingerprint(value: Any) -> str:
    """Hash a JSON value: 16 hexadecimal digits that depend on what it says and not on the order of its keys.

    Example:
        >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def spelled(value: Any) -> Any:
    """Write infinity and NaN, which a recipe may hold and JSON has no word for, as YAML does; a recipe reads that too.

    Example:
        >>> spelled({"gradient_clip_val": float("inf"), "max_steps": 3})
        {'gradient_clip_val': '.inf', 'max_steps': 3}
    """
    if isinstance(value, Mapping):
        return {key: spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return value


def _layers(path: str | Path, overrides: Sequence[str]) -> list[Layer]:
    """Merge the files of a recipe, and the command line."""
    layers = read_layers(find(path))
    if overrides:
        layers = [*layers, parse_overrides(overrides)]
    for layer in layers:
        if "data" in layer.content:
            layer.content["data"] = short_data.source(layer.content["data"])
    return layers


@contextmanager
def _told_by_layer(layers: Sequence[Layer]) -> Iterator[dict[str, Any]]:
    """Merge layers, and let an error in what they say name the one that says it."""
    try:
        yield merge_layers(layers)
    except RecipeError as error:
        key = error.key[:-1] if error.key[-1:] == ("class_path",) else error.key
        raise RecipeError(error.problem, key, source_of(layers, error.key)) from error


def _header(merged: Mapping[str, Any]) -> Header:
    """The keys that are no components; with them all that can be told before anything is imported.

    Raises:
        RecipeError: something is missing or misspelt.
    """
    sections = ("data", "encoder", "stages", "scale", "trainer", "loggers")
    parts = {key: value for key, value in merged.items() if key not in sections}
    for key in parts:
        if key == REPRESENTATIONS:
            raise RecipeError("a stage reads them: write it as stages.application.representations", (key,))
        if key not in ("seed", "changes"):
            raise RecipeError(f"unknown key; {hint(str(key), ('changes', 'seed', *sections))}", (str(key),))
    header: Header = construct(Header, parts, ()).build()
    if not merged["stages"]:
        raise RecipeError("a recipe needs at least one stage", ("stages",))
    read_loggers(merged.get("loggers"))
    if problem := short_data.problem(merged.get("data")):
        raise RecipeError(problem, ("data",))
    spelling.check(merged)
    return header


def _typed(path: Path, merged: Mapping[str, Any], started: bool) -> Recipe:
    header = _header(merged)
    loggers = dict(enumerate(merged.get("loggers") or []))  # by their places, as keys name them: loggers.0
    origin, _ = parted(merged.get("encoder"))
    origins = {name: {FROM: section.get(FROM)} for name, section in merged["stages"].items()}
    urls = {"data": merged.get("data"), "loggers": loggers, "encoder": {FROM: origin}, "stages": origins}
    for key, value in _flat(urls).items():
        if isinstance(value, str) and holds_credentials(value):
            problem = "a recipe is kept beside its results, and so holds no password and no signed URL"
            raise RecipeError(f"{problem}; give the URL without, and the credentials by environment variables", key)
    source = construct_component("sources", merged.get("data"), ("data",))  # needs no torch
    if (trainer := merged.get("trainer")) is not None:
        construct(_trainer_class(), trainer, ("trainer",))
    stages = {name: StageRecipe(name, _with(trainer, section)) for name, section in merged["stages"].items()}
    for name, stage in stages.items():
        if stage.source is not None and not started:
            stage_at(stage.source, name, ("stages", name, FROM))
    return Recipe(
        path=path,
        seed=header.seed,
        changes=header.changes,
        stages=stages,
        _source=source,
        _encoder=_typed_encoder(merged.get("encoder"), started),
        scale=merged.get("scale"),
        loggers=merged.get("loggers"),
        encoder_source=origin,
    )


def _typed_encoder(section: Any, started: bool) -> Construction | None:
    """The encoder; with the key ``from`` it is the one that is there, and what the recipe says of it has to agree."""
    origin, given = parted(section)
    own = None if given is None else construct_component("encoders", given, ("encoder",))
    if origin is None or (started and own is not None):
        return own
    key = ("encoder", FROM)
    directory = directory_of(origin, key)
    declared = encoder_at(directory, key)
    try:
        found = construct_component("encoders", opened(declared, directory), ("encoder",))
    except RecipeError as error:
        raise RecipeError(f"{directory}: {'.'.join(error.key)}: {error.problem}", key) from error
    if own is None:
        return found
    # An export's encoder reads from its folder what the run's may have had from the hub: the run's recipe is beside it.
    before = construct_component("encoders", component(recipe_at(directory, key).get("encoder") or {}), ("encoder",))
    there, here = ({"class_path": class_path(each.cls), "init_args": each.resolved} for each in (before, own))
    if there["class_path"] != here["class_path"]:
        there, here = ({"class_path": each["class_path"]} for each in (there, here))
    for name, was, now in diff(there, here):
        raise RecipeError(
            f"the encoder of {directory} has {was}, and this recipe {now}: a warm start changes no class and no "
            "argument; leave them out of the recipe (encoder: {from: ...}), or leave encoder.from out",
            ("encoder", *name.split(".")),
        )
    return found


def _with(trainer: Mapping[str, Any] | None, section: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage with the trainer of all stages, over which its own goes."""
    return {**section, "trainer": merge(trainer, section.get("trainer") or {})} if trainer else section


def _warn_of_trainer(command_line: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Say which stages take no notice of a ``--trainer.KEY``, because their own goes over it."""
    for key, value in (command_line.get("trainer") or {}).items():
        own = [
            name
            for name, section in merged["stages"].items()
            if key in (trainer := (section or {}).get("trainer") or {}) and trainer[key] != value
        ]
        if own:
            log.warning(
                "--trainer.%s has no effect on %s, whose own goes over it: give --stages.%s.trainer.%s",
                *(key, ", ".join(f"stages.{name}" for name in own), own[0], key),
            )


def _trainer_class() -> type[Trainer]:
    """Lightning's Trainer, imported when a recipe is typed."""
    import moonlib.compat  # noqa: F401
    from lightning import Trainer

    return Trainer


def _flat(value: Any, key: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Values by the path of their key; an empty mapping has none."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {path: item for name, part in value.items() for path, item in _flat(part, (*key, str(name))).items()}
