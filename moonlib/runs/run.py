"""The read side of a run directory: its recipe, trained encoder, representations, results and data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moonlib.compat  # noqa: F401
import polars as pl
import yaml

from moonlib.artifacts.layout import (
    EXPORT,
    IDENTITY,
    PREPROCESSING,
    RECIPE,
    STAGES,
    WEIGHTS,
    RunLayout,
    center_link,
    is_finished,
    is_read,
    stage_of,
)
from moonlib.artifacts.reading import Unreadable, read_mapping, read_numbers
from moonlib.artifacts.remedies import fit_command
from moonlib.config.earlier import present, present_reference, present_results
from moonlib.config.encoder import ready
from moonlib.config.recipe import REPRESENTATIONS, Recipe, RecipeError, StageRecipe, fingerprint
from moonlib.config.recipe import load as load_recipe
from moonlib.config.typing import construct_component
from moonlib.config.warm_start import component
from moonlib.data.content import Modalities, Side
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digests, given_representations
from moonlib.embedding.embed import Views
from moonlib.metrics import undefined
from moonlib.registry import registry
from moonlib.representations.store import Representations
from moonlib.runs.errors import RunError
from moonlib.runs.lineage import lineage_of, training_stages
from moonlib.runs.parents import Parent, parents_of
from moonlib.runs.record import RunRecord, read_record
from moonlib.runs.results import beside
from moonlib.runs.step import data_of, fingerprint_of, seed_of
from moonlib.sources.shards import Shards
from moonlib.stages.represent import RepresentData
from moonlib.stages.stage import Provides, Stage, StageContext
from moonlib.system.download_cache import origin
from moonlib.system.remote import RemoteError, is_url, local_copy, without_credentials
from moonlib.system.versions import version_hint

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder
    from moonlib.sources.source import Source


class Run:
    """A run directory that `moonlib fit` wrote. Nothing is loaded before it is asked for, and nothing is written.

    Only what is asked for has to be installed: a plugin that the encoder was trained with, a loss for instance, need
    not be there where the encoder is only used.

    Attributes:
        directory: the run directory.
        config: the run's recipe, merged and expanded.

    Args:
        directory: for instance ``runs/iter2``, or a URL: ``s3://bucket/runs/iter2``. What a reader needs of it is then
            copied into the cache, see `moonlib.system.remote`.

    Raises:
        RunError: it is no run directory.
        RemoteError: the URL can't be read.

    Example: ``Run("runs/iter2").encoder()``
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = local_copy(directory, is_read)
        directory = without_credentials(str(directory))
        if not self.directory.is_dir():
            raise RunError(f"{directory}: there is no such run directory")
        if (self.directory / EXPORT).is_file():
            raise RunError(
                f"{directory} is an export or another model's folder, and this needs a run directory; `moonlib.load`, "
                "`moonlib embed` and `moonlib search --index` take an export too"
            )
        file = self.directory / RECIPE
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
            config = present(config) if isinstance(config, dict) else config
        except FileNotFoundError:
            raise RunError(
                f"{directory} is not a run directory, it has no {RECIPE}; give the one that `moonlib fit` printed"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:  # an alias may stand in its own anchor
            raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(config, dict) or not isinstance(config.get("stages"), dict):
            raise RunError(f"{file} is not the recipe of a run: it has no stages")
        self.config: dict[str, Any] = config

    @cached_property
    def layout(self) -> RunLayout:
        """Where what is of the run."""
        return RunLayout.of(self.directory)

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.directory.resolve().name

    @cached_property
    def record(self) -> RunRecord | None:
        """Notes of the run about itself; None for one of an earlier version.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        return read_record(self.layout)

    @cached_property
    def parents(self) -> tuple[Parent, ...]:
        """The runs, exports and datasets that the run came from, where they are now; one may be there no longer.

        Raises:
            ValueError: the run's record is damaged.

        Example: ``[str(parent) for parent in Run("runs/week2").parents]`` returns ``["runs/week1"]``.
        """
        return parents_of(self.config, self.directory, self.record.parents if self.record else {})

    @property
    def recipe_name(self) -> str:
        """The name of the recipe's file, without its ending; that of the run where it is not noted."""
        return self.record.recipe if self.record and self.record.recipe else self.name

    @property
    def data_place(self) -> Path | None:
        """Where the run noted that its data is; None where it noted nothing, or the data is not there."""
        noted = self.record.data.place if self.record else ""
        place = self.directory.resolve() / noted
        return place if noted and (place / "dataset.json").is_file() else None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, typed; all that it names must be installed."""
        try:
            return load_recipe(self.layout.recipe, started=True)
        except RecipeError as error:
            raise self._not_usable(error) from error

    @property
    def results(self) -> dict[str, float]:
        """The metrics of results.json.

        Raises:
            RunError: no stage has finished yet.
        """
        file = self.layout.results
        try:
            found, _ = undefined.parted(present_results(read_numbers(file)))  # earlier versions wrote NaN
        except FileNotFoundError:
            raise RunError(f"{self.directory} has no results yet; {self._command} resumes the run") from None
        except Unreadable as error:
            raise RunError(str(error)) from None
        return found

    @property
    def undefined(self) -> dict[str, str]:
        """Why a metric is not among `results`, by its key, of those that the run's data does not define.

        Raises:
            ValueError: a file is broken.
        """
        found: dict[str, str] = {}
        for stage in self.config["stages"]:
            for prefix, link in {"": self.layout.link(stage), **self.layout.references(stage)}.items():
                reasons = undefined.noted(link.resolve()) if is_finished(link) else {}
                found |= {beside(key, present_reference(prefix)): why for key, why in reasons.items()}
        return found

    @cached_property
    def represent(self) -> StageRecipe | None:
        """The recipe of the stage that made the representations; None if there is none."""
        name = lineage_of(self._provides).representations
        if name is None:
            return None
        try:
            return StageRecipe(name, self.config["stages"][name])
        except RecipeError as error:
            raise self._not_usable(error) from error

    @property
    def represented(self) -> Path:
        """Directory of the stage that made the representations.

        Raises:
            RunError: the recipe makes none, or the stage has not finished.
        """
        if self.represent is None:
            raise RunError(f"{self.directory}: its recipe has no represent stage, and so it holds no representations")
        return self.finished(self.represent.name)

    @property
    def coded(self) -> Path | None:
        """Directory of the stage that coded the representations; None if there is none.

        Raises:
            RunError: the stage has not finished.
        """
        name = lineage_of(self._provides).codes
        return None if name is None else self.finished(name)

    def representations(self) -> tuple[Representations, Representations]:
        """Products' and queries' representations, mapped from disk; not normalised.

        Raises:
            RunError: the recipe makes none, or the stage has not finished.
        """
        directory = self.represented
        return Representations.open(directory, "products"), Representations.open(directory, "queries")

    def modalities(self, side: Side) -> Modalities:
        """Modalities that the run's representations of products or of queries are made from."""
        data = RepresentData() if self.represent is None else self.represent.data()
        return Modalities.parse(data.product if side == "product" else data.query)

    @property
    def text_ids(self) -> list[str]:
        """The tables that the run represents, ``products`` and ``queries``, whose ids are text in its data."""
        if self.represent is None:
            return []
        directory = self.layout.link(self.represent.name).resolve()
        return [table for table in ("products", "queries") if Representations.are_named(directory, table)]

    @property
    def batch_size(self) -> int:
        """How many rows the run's representations were encoded at once; their last bits depend on it."""
        return (RepresentData() if self.represent is None else self.represent.data()).batch_size

    @property
    def views(self) -> Views:
        """Which pictures the run's representations are made from, of those that have several."""
        return (RepresentData() if self.represent is None else self.represent.data()).views

    @property
    def weights(self) -> Path | None:
        """File of the weights that the run's representations are made with; None if no stage trains the encoder.

        Raises:
            RunError: the stage that trains it has not finished.
        """
        trained_by = self.trained_by
        return self.finished(trained_by[-1]) / WEIGHTS if trained_by else None

    @property
    def trained_by(self) -> list[str]:
        """The stages that train the encoder before the run's representations are made with it, in their order."""
        return training_stages(self._provides, None if self.represent is None else self.represent.name)

    @property
    def fingerprint(self) -> str:
        """Tells this run's encoder (architecture, preprocessing and weights) from any other: 16 hexadecimal digits.

        Raises:
            RunError: the run has no encoder, or has not finished.
        """
        self._declares_encoder()
        weights = self.weights
        trained = None if weights is None else _stage_fingerprint(weights.parent)
        return fingerprint([_stage_fingerprint(self.finished(PREPROCESSING)), trained])

    def encoder(self, *, trained: bool = True) -> Encoder:
        """The run's encoder, set up from its fitted preprocessing, in eval mode. The data is not needed.

        Args:
            trained: with the trained weights; otherwise with those it started from.

        Raises:
            RunError: the run has no encoder or has not finished, or something it needs is not installed.
            ValueError: the weights belong to another encoder.
        """
        self._declares_encoder()
        preprocessing, weights = self.finished(PREPROCESSING), self.weights if trained else None
        try:
            seed = seed_of(self.config.get("seed", 0), "encoder")
            return ready(component(self.config["encoder"]), preprocessing, seed, weights)
        except RecipeError as error:
            raise self._not_usable(error) from error
        except pl.exceptions.PolarsError as error:
            problem = f"{preprocessing} lacks the encoder's fitted preprocessing"
            raise RunError(f"{problem}; remove it, and {self._command} makes it again") from error

    def dataset(self) -> Dataset:
        """The data of the run, where it still lies.

        A relative path of the recipe was one from where `moonlib fit` ran: it is looked for from here and from every
        folder above the run, and its hash tells whether it is the run's.

        Raises:
            RunError: it is not there any more.
        """
        try:
            source: Source = construct_component("sources", self.config.get("data"), ("data",)).build()
        except RecipeError as error:
            raise self._not_usable(error) from error
        if isinstance(source, Shards) and is_url(source.path):
            try:
                places = [local_copy(source.path)]
            except (RemoteError, ValueError) as error:
                raise RunError(f"{self.directory}: its data can't be read: {error}") from error
        elif isinstance(source, Shards):
            places = [Path(source.path), *(above / source.path for above in self.directory.resolve().parents)]
        else:
            places = sorted(self.cache.glob("*"))
        # A stage may have been made for a run of other data, of which it read the same.
        noted = self.record.data.hash if self.record else ""
        hashes = {noted} if noted else {identity.get("dataset") for identity in self.identities()}
        for place in [*([self.data_place] if self.data_place else []), *places]:
            if (place / "dataset.json").is_file() and (found := Dataset(place)).hash in hashes:
                return found
        if isinstance(source, Shards):
            known = is_url(source.path) or Path(source.path).is_absolute()
            where = source.path if known else f"{source.path}, seen from here or above the run,"
        else:
            where = self.cache
        raise RunError(f"{self.directory}: its data is not in {where} any more; {self._command} makes it again")

    def reopen(self, link: str, dataset: Dataset) -> tuple[Stage, StageContext]:
        """A finished stage, or a reference of one, constructed as it was when it ran, with what it was given.

        Args:
            link: its name in the run directory, such as ``application`` or ``application.baseline``.
            dataset: the data of the run, or a view of it.

        Returns:
            The stage, and a context whose ``directory`` is the finished one: read it, and write nothing there.

        Raises:
            RunError: there is no such stage, it has not finished, or what it needs is not installed.
        """
        name = stage_of(link)
        if name not in self.config["stages"]:
            known = ", ".join(self.config["stages"])
            raise RunError(f"{self.directory}: its recipe has no stage {name!r}; its stages are {known}")
        directory = self.finished(link)
        file = directory / IDENTITY
        if not file.is_file():
            raise RunError(f"{file} is missing: runs of moonlib 0.1 did not note how a stage was made; fit it again")
        identity = read_mapping(file)
        if identity["dataset"] != dataset.hash and not _reads_the_same(name, identity, dataset):
            raise RunError(f"{directory} was not made from {dataset.directory} ({dataset.name}), but from other data")
        try:
            # As it was resolved then: a default may be another today.
            stage = StageRecipe(name, {key: identity["config"][key] for key in ("module", "data")})
            module = stage.module()
        except RecipeError as error:
            raise self._not_usable(error) from error
        before = lineage_of(self._provides, until=name)
        made = before.representations
        representations = None
        if "representations" in module.needs:
            if self.config["stages"][name].get(REPRESENTATIONS):
                made = center_link(name)
            representations = self.finished(made) if made else dataset.representations
        codes = self.finished(before.codes) if before.codes and "codes" in identity else None
        return module, StageContext(
            dataset=dataset,
            data=stage.data(),
            trainer=stage.trainer(logger=False, enable_checkpointing=False, enable_model_summary=False),
            directory=directory,
            seed=identity["seed"],
            representations=representations,
            codes=codes,
        )

    @property
    def runs(self) -> Path:
        """The folder of all runs, where their stages and datasets are; runs of a study lie deeper in it."""
        return self.layout.runs

    @property
    def cache(self) -> Path:
        """Where this run's `moonlib fit` keeps datasets."""
        return self.layout.datasets

    def _declares_encoder(self) -> None:
        """Refuse what only an encoder can do, for a run that started from given representations."""
        if self.config.get("encoder") is None:
            problem = "its recipe declares no encoder, so there is none to represent anything with"
            raise RunError(f"{self.directory}: {problem}; give a run whose recipe has one")

    @property
    def _command(self) -> str:
        return "`moonlib fit`, where it was made," if origin(self.directory) else f"`{fit_command(self.directory)}`"

    def class_of(self, name: str) -> type[Stage]:
        """The class of a stage.

        Raises:
            RunError: it cannot be imported.
        """
        module, _, cls = str(self.config["stages"][name]["module"]["class_path"]).rpartition(".")
        try:
            found: type[Stage] = registry.import_from(module, cls)
        except ImportError as error:
            raise self._not_usable(ImportError(f"{module}.{cls} cannot be imported: {error}")) from error
        return found

    @cached_property
    def _provides(self) -> dict[str, Provides | None]:
        """Output that later stages may read, by the stage's name, in the order they run."""
        return {name: self.class_of(name).provides for name in self.config["stages"]}

    def finished(self, name: str) -> Path:
        """The directory of a stage, or of the preprocessing.

        Raises:
            RunError: it has not finished, or was deleted.
        """
        directory = (self.directory / name).resolve()
        if not is_finished(directory):
            if (self.directory / name).is_symlink() and directory.suffix != ".partial" and not directory.exists():
                raise RunError(
                    f"{self.directory} is not finished: {name} is missing, {directory} was deleted; {self._command} "
                    "makes it again"
                )
            raise RunError(f"{self.directory} is not finished: {name} is missing; {self._command} resumes the run")
        return directory

    def identities(self) -> list[dict[str, Any]]:
        """Identities that the preprocessing and the stages noted; runs of moonlib 0.1 noted none."""
        links = [self.layout.link(name) for name in (PREPROCESSING, *self.config["stages"])]
        files = [link / IDENTITY for link in links if is_finished(link)]
        return [read_mapping(file) for file in files if file.is_file()]

    def _not_usable(self, error: Exception) -> RunError:
        """Say what the run was made with and what of that is not installed."""
        made_with: dict[str, str] = {}
        for identity in self.identities():
            made_with |= identity.get("versions", {})
        return RunError(f"{self.directory}: {error}{version_hint(made_with, 'the run')}")


def _stage_fingerprint(directory: Path) -> str:
    """The fingerprint of a stage: the name of its directory, or, of a copy without links, that of its identity."""
    if directory.parent.name == STAGES or not (directory / IDENTITY).is_file():
        return directory.name
    return fingerprint_of(_unspelled(read_mapping(directory / IDENTITY)))


def _reads_the_same(name: str, identity: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a stage, made from other data, would read the same of this, see `moonlib.stages.stage.Stage.reads`."""
    if "reads" not in identity:
        return False
    try:
        stage = StageRecipe(name, {key: part for key, part in identity["config"].items() if key != "trainer"})
    except RecipeError:
        return False
    whole = Dataset(dataset.directory)  # not a view of it
    found = digests(whole, data_of(stage, stage.module()))
    if "representations" in identity["reads"]:
        found |= given_representations(whole)
    return bool(identity["reads"] == found)


def _unspelled(value: Any) -> Any:
    """Undo `moonlib.config.recipe.spelled`."""
    if isinstance(value, dict):
        return {key: _unspelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unspelled(item) for item in value]
    return float(value.replace(".", "")) if value in (".inf", "-.inf", ".nan") else value
