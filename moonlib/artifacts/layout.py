"""Names and places of what moonlib writes into the folder of all runs; no other module spells them.

runs/
.stages/<fingerprint>/            a stage, made once for all runs
.data/                            datasets that runs have built
iter3/                            a run
recipe.yaml  results.json  legend.json  costs.json  run.json  points.json
preprocessing, pretrain, application, application.baseline, …         links to stages
application.oracle.0, application.oracle.1, …                         those of which the best is application.oracle
points/pretrain-200/represent, …                                      those of evaluated checkpoints
centers/application                                                   links to vectors read of a center
evaluations/  abtest/  drift/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# --- in the folder of all runs

STAGES = ".stages"
"""Folder of all stages, in that of all runs."""
DATASETS = ".data"
"""Folder of the datasets that runs have built, in that of all runs."""

PRUNE_LOCK = ".prune.lock"
"""Lock, in the folder of all runs, of who links a stage and of who deletes those that nobody links."""

DEBUG = ".debug"
"""Folder of debug runs: of each preset and name, a folder of all runs of its own."""
EXCHANGE = "exchange.json"
"""Result of `moonlib exchange`, beside the first of its runs."""
SCALE = "scale.json"
"""Result of `moonlib scale`, in the folder of the study's runs."""

# --- in a dataset

IDS = "ids"
"""Folder of the shop's own ids, of the families that are text."""

SUPERSEDED = "superseded"
"""Folder of the numbers of the rows that a later row of the same id supersedes, in a dataset that was appended to."""

WHOLE_SHARDS = "whole"
"""Folder of notes about the shards that are whole, in an unfinished dataset."""

# --- in a run directory

RECIPE = "recipe.yaml"
"""The recipe, merged with all that it extends; an export has one too."""
RESULTS = "results.json"
"""The metrics, by flat keys."""
LEGEND = "legend.json"
"""Titles and directions of the metrics, and titles of the references; a stage has one too."""
COSTS = "costs.json"
"""Seconds and memory of each stage."""
RECORD = "run.json"
"""When the run finished, the data that it read, and the runs that it came from."""
CHECKPOINT_EVALUATIONS = "points.json"
"""The checkpoint evaluations."""
PREPROCESSING = "preprocessing"
"""Link to the encoder's fitted preprocessing, a directory of `STAGES` like a stage's."""
CHECKPOINT_LINKS = "points"
"""Folder of links to the stages that evaluated a checkpoint."""
DAYS = "days.json"
"""Results of daily training, day by day."""
DAY_LINKS = "days"
"""Folder of links to the stages that were trained on a day each."""
CENTER_LINKS = "centers"
"""Folder of links to the vectors that a stage each has read of a representation center."""
EVALUATIONS = "evaluations"
"""Folder of what `moonlib evaluate` measured on other data."""
ABTEST = "abtest"
"""Folder of what `moonlib abtest` found."""
DRIFT = "drift"
"""Folder of what `moonlib drift` found."""

REPORT = "report.html"
"""The report of a run; that of several runs is beside the first of them."""
EXPORT = "config.json"
"""Name that no run directory has: with it, a folder that has a recipe is an export or another model's."""
EXPORT_WEIGHTS = "model.safetensors"
"""The weights of an export, under the name that the hub expects."""
EXPORT_HERE = "${export}"
"""Stands for an export's folder in the arguments of its encoder."""

# --- in the directory of a stage

IDENTITY = "identity.json"
"""All that the stage's fingerprint is made of."""
METRICS = "metrics.json"
"""The metrics that the stage returned, without those that are not defined."""
UNDEFINED = "undefined.json"
"""Why a metric was left out, by its key."""
ROWS = "rows.json"
"""How many rows the metrics of each task and segment are of."""
COST = "cost.json"
"""Seconds that the stage took when it was made."""
WEIGHTS = "weights.safetensors"
"""The trained weights, of an encoder or of a click model."""
INITIAL_WEIGHTS = "initial.safetensors"
"""Beside fitted preprocessing, the weights that a warm start begins with."""
SNAPSHOTS = "snapshots"
"""Folder that holds ``<step>/weights.safetensors``, an encoder's checkpoints on the way."""
CHECKPOINT = "checkpoint.ckpt"
"""Checkpoint that an unfinished training resumes from."""
BEST = "best"
"""Folder of an unfinished training that holds ``<step>/weights.safetensors``, the best weights so far."""
VALIDATION = "validation.json"
"""What was measured on validation while a stage trained, and which weights were kept."""
LOG = "csv/metrics.csv"
"""Log of a training, step by step."""
LOGGERS = "loggers.json"
"""Ids under which loggers such as Weights & Biases know a training, so that a resumed one goes on under them."""
PROCESSES = "processes.json"
"""How the processes of a training on several devices find each other."""
QUARANTINE = "quarantine.jsonl"
"""Samples that could not be read, one a line; in a dataset, images."""
VOCABULARIES = "vocabularies"
"""Folder of what the rows of a click model's embedding tables are of, so that another model can start from it."""
CARRIED_OVER = "carried_over.json"
"""How many rows of each embedding table a click model took over from the one it started from, and how many not."""
SEARCHES = "searches.parquet"
"""The searches of test and validation days with the rank of what was ordered; of a post-training, its filtered ones."""
FILTERS = "filters.json"
"""Rows that the filters of a post-training have removed, and why."""
FROM_CENTER = "from_center.json"
"""Which snapshot of a representation center vectors are of, and how many products have none there."""
CODES = "codes.parquet"
"""The codes of every product, by the shop's own ids; an export has one too, where the run has coded its products."""
CODEBOOKS = "codebooks.safetensors"
"""The centroids that the codes are the numbers of; beside `CODES`."""
PREDICTIONS = "predictions.parquet"
"""The impressions of test and validation days with the predicted probability."""


def is_read(name: str) -> bool:
    """Whether a file or folder of a run is of any use to those who only read it, by its name relative to the run's.

    What a training needs to be resumed is not, nor are the checkpoints that it has kept.

    Example:
        >>> is_read("pretrain/weights.safetensors"), is_read("pretrain/snapshots"), is_read("pretrain/checkpoint.ckpt")
        (True, False, False)
    """
    return name.rpartition("/")[2] not in (SNAPSHOTS, CHECKPOINT)


def partial(directory: Path) -> Path:
    """Where a directory is made; it takes its own name once everything in it is written."""
    return directory.with_name(f"{directory.name}.partial")


def pruned(path: Path) -> Path:
    """Name of a stage, a dataset or an attempt at one while it is being deleted."""
    return path.with_name(f".{path.name}.pruned")


def is_pruned(path: Path) -> bool:
    """Whether a name is one of `pruned`."""
    return path.name.startswith(".") and path.name.endswith(".pruned")


def made_as(name: str) -> str:
    """The name that an attempt at a stage or a dataset will take; that of what is finished is its own.

    Example:
        >>> made_as("0b1c.partial"), made_as("0b1c")
        ('0b1c', '0b1c')
    """
    return name.removesuffix(".partial")


def is_finished(stage: Path) -> bool:
    """Whether a link of a run leads to a finished stage: while the stage is being made, it leads to `partial` of it.

    A run that was cut off leaves such a link, which is dangling once another run has finished the stage.
    """
    directory = stage.resolve()
    return directory.is_dir() and directory != partial(directory.with_suffix(""))


def snapshot(stage: str | Path, step: int) -> Path:
    """Folder of a checkpoint's weights, in the directory of a stage that trains the encoder."""
    return Path(stage, SNAPSHOTS, str(step))


def snapshot_steps(stage: Path) -> list[int]:
    """Steps of the checkpoints that a stage has kept, ascending."""
    names = [place.name for place in (stage / SNAPSHOTS).glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())  # a file browser leaves others


def link_name(stage: str, reference: str = "") -> str:
    """The name of a stage, or of a reference of it, in a run directory.

    Args:
        stage: its name in the recipe.
        reference: prefix of the reference's keys in the results; empty for the stage itself.

    Example:
        >>> link_name("application"), link_name("application", "baseline/shuffled")
        ('application', 'application.baseline.shuffled')
    """
    return f"{stage}.{reference.replace('/', '.')}" if reference else stage


def stage_of(link: str) -> str:
    """The stage of a link that `link_name` named.

    Example:
        >>> stage_of("application.baseline.shuffled")
        'application'
    """
    return link.partition(".")[0]


def reference_of(link: str) -> str:
    """The reference's prefix of a link that `link_name` named; empty for a stage itself.

    Example:
        >>> reference_of("application.baseline.shuffled"), reference_of("application")
        ('baseline/shuffled', '')
    """
    return link.partition(".")[2].replace(".", "/")


def candidate(reference: str, number: int) -> str:
    """Prefix of one of the candidates of which the best is a reference; the first is the stage's own.

    Example:
        >>> link_name("application", candidate("oracle", 1))
        'application.oracle.1'
    """
    return f"{reference}/{number}"


def candidate_of(prefix: str) -> str:
    """The reference whose candidate a prefix is; empty for one that is none.

    Example:
        >>> candidate_of("oracle/1"), candidate_of("baseline/shuffled")
        ('oracle', '')
    """
    reference, _, number = prefix.rpartition("/")
    return reference if number.isdecimal() else ""


def checkpoint_link(stage: str, step: int | None, name: str) -> str:
    """The name, in a run directory, of a stage that evaluates a checkpoint.

    Args:
        stage: that trained the encoder.
        step: of the checkpoint; None at the end of a stage that does not count in steps.
        name: of the evaluating stage.

    Example:
        >>> checkpoint_link("pretrain", 200, "probing"), checkpoint_link("represent", None, "probing")
        ('points/pretrain-200/probing', 'points/represent/probing')
    """
    return f"{CHECKPOINT_LINKS}/{stage}" + ("" if step is None else f"-{step}") + f"/{name}"


def is_checkpoint_link(link: str) -> bool:
    """Whether a name is one that `checkpoint_link` made."""
    return link.startswith(f"{CHECKPOINT_LINKS}/")


def day_link(day: str) -> str:
    """The name, in a run directory, of the stage that was trained on a day.

    Example:
        >>> day_link("2025-01-05")
        'days/2025-01-05'
    """
    return f"{DAY_LINKS}/{day}"


def center_link(stage: str) -> str:
    """The name, in a run directory, of the vectors that a stage reads of a center.

    Example:
        >>> center_link("application")
        'centers/application'
    """
    return f"{CENTER_LINKS}/{stage}"


def runs_of(run: Path) -> Path:
    """The folder of all runs that a run is in, where stages and datasets are; runs of a study lie deeper in it."""
    above = run.resolve().parents
    return next((folder for folder in above if (folder / STAGES).is_dir()), above[0])


@dataclass(frozen=True)
class RunLayout:
    """Places of a run.

    Attributes:
        directory: the run directory.
        runs: the folder of all runs that it is in.

    Example:
        >>> RunLayout(Path("runs/iter3"), Path("runs")).link("application", "baseline/shuffled").as_posix()
        'runs/iter3/application.baseline.shuffled'
    """

    directory: Path
    runs: Path

    @classmethod
    def of(cls, directory: Path) -> RunLayout:
        """The layout of a run that is there, see `runs_of`."""
        return cls(directory, runs_of(directory))

    @property
    def stages(self) -> Path:
        """The folder of all stages."""
        return self.runs / STAGES

    @property
    def datasets(self) -> Path:
        """The folder of the datasets that runs have built."""
        return self.runs / DATASETS

    @property
    def recipe(self) -> Path:
        """See `RECIPE`."""
        return self.directory / RECIPE

    @property
    def results(self) -> Path:
        """See `RESULTS`."""
        return self.directory / RESULTS

    @property
    def costs(self) -> Path:
        """See `COSTS`."""
        return self.directory / COSTS

    @property
    def record(self) -> Path:
        """See `RECORD`."""
        return self.directory / RECORD

    @property
    def checkpoint_evaluations(self) -> Path:
        """See `CHECKPOINT_EVALUATIONS`."""
        return self.directory / CHECKPOINT_EVALUATIONS

    @property
    def preprocessing(self) -> Path:
        """See `PREPROCESSING`."""
        return self.directory / PREPROCESSING

    @property
    def checkpoint_links(self) -> Path:
        """See `CHECKPOINT_LINKS`."""
        return self.directory / CHECKPOINT_LINKS

    @property
    def days(self) -> Path:
        """See `DAYS`."""
        return self.directory / DAYS

    @property
    def day_links(self) -> list[Path]:
        """Links to the stages that were trained on a day each, in the order of the days."""
        return sorted(path for path in (self.directory / DAY_LINKS).glob("*") if path.is_symlink())

    @property
    def evaluations(self) -> Path:
        """See `EVALUATIONS`."""
        return self.directory / EVALUATIONS

    def link(self, stage: str, reference: str = "") -> Path:
        """A stage, or a reference of it, see `link_name`; its log is there while it runs, see `is_finished`."""
        return self.directory / link_name(stage, reference)

    def references(self, stage: str) -> dict[str, Path]:
        """Links to a stage's references that are there, by prefix; without those of candidates."""
        links = {reference_of(path.name): path for path in sorted(self.directory.glob(f"{stage}.*"))}
        return {prefix: link for prefix, link in links.items() if not candidate_of(prefix)}

    def fingerprint(self, link: str) -> str:
        """Name of the directory, in that of all stages, which a link of the run leads to: a stage's fingerprint."""
        return (self.directory / link).resolve().name

    def abtest(self, link: str, base: str) -> Path:
        """Result of a test of the run's click model against another.

        Args:
            link: of the stage, or the reference, that trained the model.
            base: name of the other.

        Example:
            >>> RunLayout(Path("runs/iter3"), Path("runs")).abtest("application.oracle", "iter1").as_posix()
            'runs/iter3/abtest/oracle.vs.iter1.json'
        """
        reference = link.partition(".")[2]
        return self.directory / ABTEST / (f"{reference}.vs.{base}.json" if reference else f"{base}.json")

    def drift(self, old: str) -> Path:
        """How far the run's vectors are from those of another.

        Args:
            old: name of the other.
        """
        return self.directory / DRIFT / f"{old}.json"
