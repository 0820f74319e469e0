"""Run one step of a recipe: reuse its finished directory or make it, with its trainer, processes and costs."""

from __future__ import annotations

import logging
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import polars as pl
import torch
from lightning import Trainer, seed_everything

from moonlib.artifacts import layout
from moonlib.artifacts.checksums import verified
from moonlib.artifacts.directories import attempt, link, linking, write_json
from moonlib.artifacts.layout import RunLayout
from moonlib.artifacts.reading import read_json, read_mapping, read_numbers
from moonlib.config.fingerprint import made_with
from moonlib.config.recipe import Recipe, RecipeError, StageRecipe, spelled
from moonlib.config.warm_start import component
from moonlib.data.dataset import Dataset
from moonlib.data.digests import digests
from moonlib.data.reads import Reads
from moonlib.data.restricted import RestrictedDataset, Undeclared
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.pretrained import keys_within
from moonlib.encoders.weights import grow_weights, load_weights
from moonlib.metrics import undefined
from moonlib.metrics.counts import noted_rows
from moonlib.metrics.key import MetricKey
from moonlib.runs import loggers
from moonlib.runs.center import CenterSnapshot, CenterVectors, find_snapshots, read_snapshot, vectors_identity
from moonlib.runs.comparable import content_of, old_run
from moonlib.runs.lineage import Lineage, needs_encoder
from moonlib.runs.lost_parents import LostParents
from moonlib.runs.results import Choice, Legend, write_legend
from moonlib.runs.run import RunError
from moonlib.runs.step import StageOrigin, Step, fingerprint_of, seed_of, step_of
from moonlib.runs.teachers import Teacher, open_teachers, teacher_at
from moonlib.runs.warm_start import NEEDS_ENCODER, EncoderOrigin, encoder_origin, stage_origin
from moonlib.stages.click_warm_start import carried_over
from moonlib.stages.stage import Reference, Stage, StageContext
from moonlib.system import processes
from moonlib.system.disk import writing
from moonlib.system.interruption import CHECKPOINT_SECONDS, Interruption
from moonlib.system.process_group import alone
from moonlib.system.progress import StageProgress
from moonlib.system.workers import FEW_FILES, shortage


class StageError(RuntimeError):
    """A stage that could not go on, with what can be done about it."""


class Runner:
    """Runs steps of one recipe over one dataset, for one run.

    Args:
        recipe: the recipe.
        dataset: its data.
        run: where its directories are.
        costs: what each step took is added here, by its link.
        interruption: where a request to end the run arrives.
        checkpoint_seconds: time between the checkpoints of a training, 0 for one after every step.
        lost: parents of the run that are gone; what is finished is reused, and what needs them raises.
        show: called with each line of what is to be seen of the progress; nothing is shown by default.
        progress: shows how far each stage is; nothing is shown by default.
        centers: the snapshots that stages read, by the stage's name; by default they are looked up now.

    Attributes:
        made: fingerprints of the stages so far, by their names.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        run: RunLayout,
        costs: dict[str, dict[str, Any]],
        interruption: Interruption,
        *,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        lost: LostParents | None = None,
        show: Callable[[str], None] = lambda line: None,
        progress: StageProgress | None = None,
        centers: Mapping[str, CenterSnapshot] | None = None,
    ) -> None:
        self.recipe, self.dataset, self.run = recipe, dataset, run
        self.costs, self.interruption, self.checkpoint_seconds = costs, interruption, checkpoint_seconds
        self.show, self.progress = show, progress or StageProgress()
        self.lost, self.orphans = lost, set[str]()
        self.cores = torch.get_num_threads()
        self.centers = find_snapshots(recipe) if centers is None else centers
        self._centers_read: set[str] = set()
        self.made: dict[str, str] = {}

    def begin(self) -> Lineage:
        """The lineage of the first stage: the data, and the preprocessing that the encoder has been fitted with."""
        lineage = Lineage(self.dataset.hash, self.fit_preprocessing())
        for stage in self.recipe.stages.values():
            if stage.source is not None:  # whatever is wrong with it is told before the stages before it are trained
                self.stage_origin(stage, "", lineage)
                for reference in stage.module().references(self.dataset):
                    for prefix, _ in candidates_of(stage, reference).values():
                        self.stage_origin(stage, prefix, lineage)
        return lineage

    def stage_origin(self, stage: StageRecipe, reference: str, lineage: Lineage) -> StageOrigin | None:
        """Origin of a stage; where that is gone, as the run has noted it."""
        try:
            return stage_origin(stage, reference, self.fitted(lineage))
        except RecipeError:
            if self.lost is None:
                raise
            return self.lost.stage(self.orphan(stage, reference))

    def comparable(self, stage: StageRecipe, reference: str, place: str) -> str:
        """Hash of the vectors that a stage is to stay comparable with; where they are gone, the one that was noted."""
        try:
            return content_of(old_run(place))
        except RunError:
            if self.lost is None:
                raise
            return self.lost.comparable(self.orphan(stage, reference))

    def teacher(self, given: str) -> Teacher:
        """The vectors that a stage learns from: those of a stage of this run, or wherever they are.

        Raises:
            RunError: there are none.
        """
        return Teacher(self.run.stages / self.made[given]) if given in self.made else teacher_at(given)

    def teacher_digest(self, stage: StageRecipe, reference: str, given: str, number: int) -> str:
        """Hash of vectors that a stage learns from; where they are gone, the one that was noted."""
        if given in self.made:  # by its fingerprint, as all that stages read of each other
            return self.made[given]
        try:
            return self.teacher(given).digest
        except RunError:
            if self.lost is None:
                raise
            return self.lost.teacher(self.orphan(stage, reference), number)

    def orphan(self, stage: StageRecipe, reference: str) -> str:
        """Remember the link of a step that can't be run, only reused."""
        link = layout.link_name(stage.name, reference)
        self.orphans.add(link)
        return link

    def fitted(self, lineage: Lineage) -> Path | None:
        """Directory of the encoder's preprocessing; None without an encoder."""
        return None if lineage.preprocessing is None else self.run.stages / lineage.preprocessing

    def fit_preprocessing(self) -> str | None:
        """Fit the encoder's preprocessing (its tokenizer) once, in a directory that later stages load it from.

        Returns:
            Its fingerprint; None without an encoder.
        """
        encoder = self.recipe.encoder()
        if encoder is None:
            return None
        source = self.recipe.encoder_source
        try:
            origin = None if source is None else encoder_origin(source)
        except RecipeError:
            if self.lost is None:
                raise
            origin = self.lost.encoder()
            self.orphans.add(layout.PREPROCESSING)
        reads = encoder.reads().before("train_until")
        identity = self.preprocessing_identity(reads, origin)
        name = fingerprint_of(identity)
        directory = self.run.stages / name
        if not processes.is_first():
            self.await_stage(directory)
            return name
        self.require_origin(layout.PREPROCESSING, directory)
        self.claim_stage(self.run.preprocessing, directory)
        with (
            costed(self.costs, layout.PREPROCESSING) as cost,
            attempt(directory, self.waiting_for(layout.PREPROCESSING)) as partial,
        ):
            cost["reused"] = partial is None
            if partial is not None:
                known = self.known_products(reads)
                if origin is not None:
                    self.extend(origin, partial, known)
                self.encoder(partial, known)
                write_json(partial / layout.IDENTITY, spelled(identity))
        link(self.run.preprocessing, directory)
        return name

    def extend(self, origin: EncoderOrigin, directory: Path, products: pl.DataFrame) -> None:
        """Copy preprocessing and weights of a warm start to a directory, with what they lack for these products."""
        encoder = self.recipe.encoder()
        assert encoder is not None
        origin.copy_preprocessing(directory)
        try:
            grow_weights(origin.weights, directory / layout.INITIAL_WEIGHTS, encoder.extend(products, directory))
        except ValueError as error:
            raise RecipeError(f"encoder.from: {error}") from error

    def preprocessing_identity(self, reads: Reads, origin: EncoderOrigin | None = None) -> dict[str, Any]:
        """All that the fingerprint of the fitted preprocessing is made of.

        Args:
            reads: what it is fitted to.
            origin: what it starts from, if anything.
        """
        config = component(self.recipe.config["encoder"])
        return {
            "encoder": config if origin is None else origin.encoder,
            "dataset": self.dataset.hash,
            "reads": digests(self.dataset, reads),
            "seed": self.recipe.seed,
            **({} if origin is None else {"from": origin.digest}),
            **made_with(config),
        }

    def known_products(self, reads: Reads) -> pl.DataFrame:
        """The products that training may see, with the columns that an encoder's preprocessing is fitted to."""
        if reads.whole:
            return self.dataset.splits.known(self.dataset.table("products"))
        if "products" not in reads.tables:
            return pl.DataFrame()
        return RestrictedDataset(self.dataset, Reads({"products": reads.tables["products"]}), "encoder").products

    def encoder(self, preprocessing: Path, products: pl.DataFrame) -> Encoder:
        """A fresh encoder with its first weights: a warm start's, or those that follow from the recipe's seed alone.

        Args:
            preprocessing: where its fitted preprocessing is.
            products: to fit it on where it is not; of no consequence otherwise.
        """
        encoder = self.recipe.encoder()
        assert encoder is not None
        seed_everything(seed_of(self.recipe.seed, "encoder"), verbose=False)
        with keys_within("encoder"):
            encoder.setup(products, verified(preprocessing))
        if (initial := preprocessing / layout.INITIAL_WEIGHTS).is_file():
            load_weights(encoder, initial)
        return encoder

    def step(
        self,
        stage: StageRecipe,
        lineage: Lineage,
        module: Stage | None = None,
        prefix: str = "",
        origin: StageOrigin | None = None,
    ) -> Step:
        """A stage of the recipe as a step that can be run.

        Args:
            stage: its part of the recipe.
            lineage: what the stages before it have left.
            module: the stage itself, where it is constructed already.
            prefix: of the reference that it is, if any.
            origin: the stage that it starts from, in place of the one that its recipe names.

        Raises:
            RecipeError: the stages before it have not left what it needs.
            RunError: the run that it is to be compatible with has not, either.
        """
        module = module or stage.module()
        needs = module.needs
        if needs_encoder(needs) and lineage.preprocessing is None:
            raise RecipeError(f"{self.recipe.path}: stages.{stage.name} {NEEDS_ENCODER}")
        center = self.centers[stage.name] if stage.center is not None and "representations" in needs else None
        if center is not None:
            made = self.read_center(center, stage, module.reads_queries)
            lineage = replace(lineage, representations=made, codes=None)
        if "representations" in needs and (lineage.representations or self.dataset.representations) is None:
            raise RecipeError(f"{self.recipe.path}: stages.{stage.name} needs a represent stage before it")
        origin = origin or self.stage_origin(stage, prefix, lineage)
        old = module.compatible_with
        comparable = None if old is None else self.comparable(stage, prefix, old)
        return step_of(
            stage,
            module,
            self.dataset,
            lineage,
            seed=self.recipe.seed,
            prefix=prefix,
            origin=origin,
            comparable=comparable,
            teachers={
                given: self.teacher_digest(stage, prefix, given, number) for number, given in enumerate(module.teachers)
            },
            center=None if center is None else center.identity,
        )

    def read_center(self, center: CenterSnapshot, stage: StageRecipe, queries: bool) -> str:
        """Copy what a stage reads of a center into a directory that stages load it from, unless that was done before.

        Args:
            center: the snapshot.
            stage: that reads it.
            queries: whether it reads representations of queries.

        Returns:
            Its fingerprint.
        """
        identity = vectors_identity(center, self.dataset, queries)
        name = fingerprint_of(identity)
        directory = self.run.stages / name
        if not processes.is_first():
            self.await_stage(directory)
            return name
        link_of = layout.center_link(stage.name)
        if name in self._centers_read:
            return name
        (self.run.directory / link_of).parent.mkdir(exist_ok=True)
        self.claim_stage(self.run.directory / link_of, directory)
        with costed(self.costs, link_of) as cost, attempt(directory, self.waiting_for(link_of)) as partial:
            cost["reused"] = partial is None
            if partial is not None:
                trainer = stage.trainer(
                    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
                )
                with writing(partial), self.progress.stage(link_of):
                    read_snapshot(
                        center,
                        self.dataset,
                        partial,
                        queries=queries,
                        device=trainer.strategy.root_device,
                        progress=self.progress,
                    )
                write_json(partial / layout.IDENTITY, spelled(identity))
        link(self.run.directory / link_of, directory)
        took = "reused" if cost["reused"] else f"{cost['seconds']:.1f} s"
        self.show(f"{link_of:28s} {took:>10s}  {directory}")
        self.show(f"{'':28s} {CenterVectors.read(directory)}")
        self.report_quarantine(directory)
        self._centers_read.add(name)
        return name

    def reference_steps(self, stage: StageRecipe, reference: Reference, lineage: Lineage) -> dict[str, Step]:
        """The same stage with a reference's arguments in place of the recipe's, once per candidate, by their names."""
        found = candidates_of(stage, reference)
        return {name: self.step(recipe, lineage, prefix=prefix) for name, (prefix, recipe) in found.items()}

    def choose(self, stage: StageRecipe, reference: Reference, steps: Mapping[str, Step]) -> Choice:
        """Choose among finished candidates of a reference, and link the one that is best on validation days.

        Where validation does not say something of each, it is the first, the stage's own.
        """
        key = str(replace(MetricKey.parse(reference.chosen_by), split="valid"))
        metrics = {
            name: read_numbers(self.run.stages / step.fingerprint / layout.METRICS) for name, step in steps.items()
        }
        whole = all(key in found for found in metrics.values())
        values = {name: found[key] for name, found in metrics.items()} if whole else {}
        chosen = max(values, key=values.__getitem__) if values else next(iter(steps))
        link_of = layout.link_name(stage.name, reference.prefix)
        self.claim_stage(self.run.directory / link_of, self.run.stages / steps[chosen].fingerprint)
        choice = Choice(chosen, reference.chosen_by, values)
        self.show(f"{'':28s} {choice.sentence(reference.title)}")
        return choice

    def run_step(self, step: Step) -> dict[str, float]:
        """Run a step, or reuse its finished directory; link it into the run, where its log is while it runs.

        Returns:
            Its metrics.
        """
        directory = self.run.stages / step.fingerprint
        waiting = self.waiting_for(step.link)
        self.require_origin(step.link, directory)
        self.claim_stage(self.run.directory / step.link, directory)
        with (
            costed(self.costs, step.link) as cost,
            attempt(directory, waiting, but=[layout.CHECKPOINT, layout.BEST]) as partial,
        ):
            cost["reused"] = partial is None
            if partial is not None:
                link(self.run.directory / step.link, partial)  # whoever wants to watch finds the log there
                start = time.perf_counter()
                metrics = undefined.leave_out(self.run_module(step, partial), partial)
                write_json(partial / layout.IDENTITY, spelled(step.identity))
                write_json(partial / layout.METRICS, metrics)
                write_legend(partial, replace(legend_of(step, self.dataset), rows=noted_rows(partial)))
                write_json(partial / layout.COST, {"seconds": round(time.perf_counter() - start, 2)})
        if cost["reused"]:
            cost["first_run"] = read_mapping(directory / layout.COST)
        link(self.run.directory / step.link, directory)
        took = "reused" if cost["reused"] else f"{cost['seconds']:.1f} s"
        self.show(f"{step.link:28s} {took:>10s}  {directory}")
        self.report_quarantine(directory)
        self.report_undefined(directory)
        self.report_carried_over(directory)
        return read_numbers(directory / layout.METRICS)

    def require_origin(self, link: str, directory: Path) -> None:
        """Refuse to begin with what is not finished and needs a parent that is gone."""
        if self.lost is not None and link in self.orphans and not directory.exists():
            raise self.lost.error

    def run_module(self, step: Step, partial: Path) -> dict[str, float]:
        """Let a stage do its work, together with the other processes where its trainer has several devices."""
        trainer = self.trainer(step, partial)
        meeting = partial / layout.PROCESSES
        if trainer.world_size > 1:
            processes.end_group_at_exit()
            write_json(meeting, processes.meeting_point())
        try:
            with alone(trainer.world_size == 1), writing(partial), self.progress.stage(step.link):
                return step.module.run(self.context(step, trainer, partial))
        except pl.exceptions.ColumnNotFoundError as error:
            # What was declared is in the table, so it is mostly a column that was not.
            if not step.data.whole and (told := undeclared_column(error, step.data, self.dataset)):
                raise Undeclared.of(f"stage {step.link}", told) from error
            raise
        except (RuntimeError, OSError, EOFError) as error:
            # A signal to the whole process group ends the loaders too: it is the signal that explains their death.
            self.interruption.check()
            key = f"stages.{step.recipe.name}.data.workers"
            if told := shortage(error):
                raise StageError(
                    f"{step.link}: {told}, or use fewer loaders (--{key} 0). The same command resumes this run"
                ) from error
            # One that dies while it hands a batch over leaves a broken connection and no other word; and torch words it
            # by whether the signal or the empty queue came first.
            died = re.search(r"DataLoader worker .* (is killed by signal|exited unexpectedly)", str(error))
            if died or isinstance(error, (ConnectionError, EOFError)):
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                files = f"; or it may not open more than {limit} files (ulimit -n)" if limit < FEW_FILES else ""
                raise StageError(
                    f"{step.link}: a loader process was killed, by hand or because the system was out of memory{files}"
                    f", or ended at an error shown above. The same command resumes this run, also with a lower {key}"
                ) from error
            raise
        finally:
            for logger in trainer.loggers:
                if isinstance(logger, loggers.Guarded):
                    logger.close()
            meeting.unlink(missing_ok=True)

    def accompany(self, step: Step) -> None:
        """Another process's part of a stage: join a training on several devices, and wait for the stage's end."""
        directory = self.run.stages / step.fingerprint
        partial = layout.partial(directory)
        meeting = partial / layout.PROCESSES
        trainer = self.trainer(step, partial)
        if trainer.world_size > 1:
            processes.end_group_at_exit()
            for _ in processes.waiting(f"begin with {step.link} in {partial}"):
                if directory.exists():
                    break
                if meeting.exists() and read_json(meeting) == processes.meeting_point():
                    step.module.run(self.context(step, trainer, partial))
                    break
        self.await_stage(directory)

    def claim_stage(self, path: Path, directory: Path) -> None:
        """Link the run to a stage that is about to be reused or made: what is linked, `moonlib runs prune` leaves.

        Args:
            path: the link.
            directory: of the stage, whether it is finished or not.
        """
        with linking(self.run.runs):
            link(path, directory if directory.exists() else layout.partial(directory))

    def await_stage(self, directory: Path) -> None:
        """Wait until the first process has finished a directory."""
        for _ in processes.waiting(f"finish {directory}"):
            if directory.exists():
                break

    def waiting_for(self, name: str) -> Callable[[str], None]:
        """Message for while another run makes the same stage."""
        return lambda holder: self.show(f"{name:28s}   waiting: {holder} is making this stage")

    def report_quarantine(self, directory: Path) -> None:
        """Say how many samples a stage could not read."""
        file = directory / layout.QUARANTINE
        if file.exists():
            lines = len(file.read_bytes().splitlines())
            self.show(f"{'':28s} {lines} samples could not be read, see {file}")

    def report_undefined(self, directory: Path) -> None:
        """Say which metrics of a stage are not defined, and why."""
        for sentence in undefined.sentences(undefined.noted(directory)):
            self.show(f"{'':28s} {sentence}, see {directory / layout.UNDEFINED}")

    def report_carried_over(self, directory: Path) -> None:
        """Say how many embeddings a click model took over from the one it started from, and how many not."""
        if (file := directory / layout.CARRIED_OVER).exists():
            self.show(f"{'':28s} {carried_over(read_mapping(file))}")

    def trainer(self, step: Step, directory: Path) -> Trainer:
        """The trainer of a stage, writing its logs to ``directory``."""
        return step.recipe.trainer(
            default_root_dir=str(directory),
            logger=loggers.made(
                self.recipe.logger_recipes, step, self.run.directory, directory, writes=processes.is_first()
            ),
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    def context(self, step: Step, trainer: Trainer, directory: Path) -> StageContext:
        """Assemble what the stage runs with; everything random after this call follows from the stage's own seed."""
        needs, reads = step.module.needs, step.reads
        processes.share_cores(trainer, self.cores)
        encoder = None
        if needs_encoder(needs):
            assert reads.preprocessing is not None
            nobody = pl.from_arrow(self.dataset.arrow("products").slice(0, 0))
            assert isinstance(nobody, pl.DataFrame)
            encoder = self.encoder(self.run.stages / reads.preprocessing, nobody)
        seed_everything(step.seed, verbose=False)
        representations = self.dataset.representations if "representations" in needs else None
        if reads.representations:
            representations = self.run.stages / reads.representations
        whole = step.data.whole
        return StageContext(
            warm_start=step.origin.directory if step.origin else None,
            dataset=self.dataset if whole else RestrictedDataset(self.dataset, step.data, f"stage {step.link}"),
            data=step.recipe.data(),
            trainer=trainer,
            directory=directory,
            seed=step.seed,
            encoder=encoder,
            weights=self.weights(step),
            representations=representations,
            codes=self.run.stages / reads.codes if reads.codes else None,
            interruption=self.interruption,
            checkpoint_seconds=self.checkpoint_seconds,
            progress=self.progress,
            snapshot_every=step.recipe.schedule.every if step.recipe.schedule else None,
            name=step.recipe.name,
            validate=step.recipe.validate,
            keep=step.recipe.keep,
            comparable=None if (old := step.module.compatible_with) is None else old_run(old),
            teachers=open_teachers({given: self.teacher(given) for given in step.module.teachers}),
        )

    def weights(self, step: Step) -> Path | None:
        """File of the weights that a stage starts from: another run's, those of the stage before, or a warm start's."""
        if "weights" not in step.module.needs:
            return None
        if step.origin is not None:
            return step.origin.directory / layout.WEIGHTS
        if step.reads.weights is not None:
            return self.run.stages / step.reads.weights / layout.WEIGHTS
        assert step.reads.preprocessing is not None
        initial = self.run.stages / step.reads.preprocessing / layout.INITIAL_WEIGHTS
        return initial if initial.is_file() else None


def undeclared_column(error: Exception, reads: Reads, dataset: Dataset) -> str | None:
    """Name the column that polars did not find, if it is one that the dataset has and that was not declared."""
    found = re.search(r"""["']([^"']+)["']""", str(error))
    tables = [] if found is None else [table for table in reads.tables if found[1] in dataset.columns(table)]
    named = [table for table in tables if found is not None and not reads.includes(table, found[1])]
    return f"the column {found[1]!r} of {' or '.join(named)}" if found is not None and named else None


def candidates_of(stage: StageRecipe, reference: Reference) -> dict[str, tuple[str, StageRecipe]]:
    """Candidates of a reference by their names: the prefix and the recipe of each.

    One alone has the reference's own prefix; of several, each has a part of it.
    """
    if reference.candidates is None:
        return {"": (reference.prefix, stage.override(dict(reference.module)))}
    found = reference.candidates(stage.arguments)
    several = len(found) > 1
    return {
        name: (
            layout.candidate(reference.prefix, i) if several else reference.prefix,
            stage.replace(arguments).override(dict(reference.module)),
        )
        for i, (name, arguments) in enumerate(found.items())
    }


def legend_of(step: Step, dataset: Dataset) -> Legend:
    """The meaning of a stage's results; only the stage itself has references beside it."""
    return Legend.of(step.module, () if step.prefix else step.module.references(dataset))


@contextmanager
def costed(costs: dict[str, dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Note the seconds, and the peak resident memory so far in GB of this process and of its largest child."""
    cost = costs[name] = {}
    start = time.perf_counter()
    yield cost
    cost["seconds"] = round(time.perf_counter() - start, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    peaks = [resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost["peak_gb"], cost["peak_child_gb"] = (round(peak / 2**30, 2) for peak in peaks)


def quiet() -> None:
    """Leave Lightning's hints out: what a user can act on, moonlib says itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*bottleneck.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # What an attempt that was cut off has logged was put aside, see moonlib.stages.training.
    warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
    # It is not the loader that resumes here but its sampler, see moonlib.stages.training.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
