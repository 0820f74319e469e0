"""The loggers of a stage: what the recipe names, called after the run and the stage."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import LOGGERS
from moonlib.artifacts.reading import read_mapping
from moonlib.config.loggers import NAMED, LoggerRecipe
from moonlib.config.recipe import RecipeError
from moonlib.registry import registry
from moonlib.runs.step import Step
from moonlib.stages.training import generators, set_generators

log = logging.getLogger(__name__)

PROJECT = "moonlib"
"""Project of runs that are logged to Weights & Biases, unless the recipe says another."""


class Guarded(Logger):
    """A logger whose failure, such as a lost network, ends the logging with a warning, and not the training.

    Args:
        logger: the logger.
        name: what the warning calls it.
        opened: called once it has logged for the first time.
    """

    def __init__(self, logger: Logger, name: str, opened: Callable[[Logger], None] = lambda logger: None) -> None:
        super().__init__()
        self.logger, self.told, self.opened = logger, name, opened
        self.begun = self.failed = False

    def __getattr__(self, name: str) -> Any:
        if name == "logger":  # not there yet
            raise AttributeError(name)
        return getattr(self.logger, name)

    @property
    def name(self) -> str | None:
        found: str | None = self._try(lambda: self.logger.name)
        return found

    @property
    def version(self) -> int | str | None:
        found: int | str | None = self._try(lambda: self.logger.version)
        return found

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self.begun and not self.failed:
            self.begun = True
            before = generators()  # an id that the logger draws must not change what the stage draws
            self._try(lambda: self.logger.log_metrics(metrics, step))
            self._try(lambda: self.opened(self.logger))
            set_generators(before)
        else:
            self._try(lambda: self.logger.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._try(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        self._try(self.logger.save)

    def finalize(self, status: str) -> None:
        self._try(lambda: self.logger.finalize(status))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._try(lambda: self.logger.after_save_checkpoint(checkpoint_callback))

    def close(self) -> None:
        """End what was logged, so that the next stage begins anew."""
        if isinstance(self.logger, WandbLogger) and (experiment := self.logger._experiment) is not None:
            self._try(experiment.finish)

    def _try(self, call: Callable[[], Any]) -> Any:
        """Call the logger unless it has failed; tell of its first failure."""
        if self.failed:
            return None
        try:
            return call()
        except Exception as error:
            self.failed = True
            reason = next(iter(str(error).splitlines()), "")
            log.warning(
                "the logger %s failed, and logs no more of this stage, which goes on: %s: %s",
                self.told,
                type(error).__name__,
                reason,
            )
            return None


def require(loggers: Sequence[LoggerRecipe]) -> None:
    """Make sure that loggers can be made, before anything is trained.

    Raises:
        RecipeError: a package is missing, a class is no logger or cannot be imported, or it takes no such argument.
    """
    for i, each in enumerate(loggers):
        key = ("loggers", str(i))
        for name in ("wandb", "mlflow"):
            if each.class_path == NAMED[name] and find_spec(name) is None:
                raise RecipeError(f"{name} is not installed: pip install 'moonlib-embedding[{name}]'", key)
        cls = class_of(each, key)
        try:
            inspect.signature(cls).bind_partial(**each.init_args)
        except TypeError as error:
            raise RecipeError(f"{each.name}: {error}", (*key, "init_args")) from error


def class_of(logger: LoggerRecipe, key: tuple[str, ...] = ("loggers",)) -> type[Logger]:
    """The class of a logger.

    Raises:
        RecipeError: it cannot be imported, or is no logger.
    """
    module, _, name = logger.class_path.rpartition(".")
    try:
        cls = registry.import_from(module, name)
    except ImportError as error:
        raise RecipeError(f"{logger.class_path} cannot be imported: {error}", (*key, "class_path")) from error
    if not (inspect.isclass(cls) and issubclass(cls, Logger)):
        raise RecipeError(f"{logger.class_path} is no lightning.pytorch.loggers.Logger", (*key, "class_path"))
    return cls


def made(loggers: Sequence[LoggerRecipe], step: Step, run: Path, directory: Path, *, writes: bool) -> list[Logger]:
    """Make the loggers of a stage.

    The CSV log is always among them, because tables, the report and ``moonlib curves`` read it. What the recipe says of
    names and places goes over what is said here.

    Args:
        loggers: of the recipe; none for CSV and TensorBoard.
        step: the stage.
        run: the run directory.
        directory: of the stage.
        writes: whether this is the process that logs.

    Returns:
        The CSV log first. Loggers that are not files of the stage are `Guarded`, and continue what an attempt that was
        cut off has logged, where they can.
    """
    loggers = loggers or [LoggerRecipe(NAMED["csv"]), LoggerRecipe(NAMED["tensorboard"])]
    # In the place that `layout.LOG` names, whatever the recipe says.
    csv = next((each.init_args for each in loggers if each.class_path == NAMED["csv"]), {})
    found: list[Logger] = [CSVLogger(**{**csv, "save_dir": directory, "name": "", "version": "csv"})]
    ids = Ids(directory / LOGGERS, writes)
    for i, each in enumerate(loggers):
        cls = class_of(each)
        if cls is CSVLogger:
            continue
        if issubclass(cls, TensorBoardLogger):
            found.append(cls(**{"save_dir": directory, "name": "", "version": "logs", **each.init_args}))
            continue
        key = f"{i} {each.class_path}"
        arguments = {**named(cls, step, run), **ids.of(key, cls), **each.init_args}
        if str(arguments.get("tracking_uri", "")).startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which mlflow 3 asks for: this one is meant
        try:
            logger = cls(**arguments)
        except Exception as error:  # another library's, of arguments that it does not like
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise RecipeError(f"{each.name}: {reason}", ("loggers", str(i))) from error
        found.append(Guarded(logger, each.name, partial(ids.note, key)))
    return found


def named(cls: type[Logger], step: Step, run: Path) -> dict[str, Any]:
    """Arguments that call a logger after the run and the stage, of those that its constructor takes."""
    if issubclass(cls, MLFlowLogger):
        tags = {"moonlib_run": run.name, "moonlib_stage": step.link, "moonlib_fingerprint": step.fingerprint}
        # Lightning reads it once, when it is imported.
        uri = os.environ.get("MLFLOW_TRACKING_URI") or "file:./mlruns"
        return {"experiment_name": run.name, "run_name": step.link, "tags": tags, "tracking_uri": uri}
    arguments = {"name": run.name, "group": step.link, "save_dir": str(run)}
    if issubclass(cls, WandbLogger):
        return {**arguments, "project": os.environ.get("WANDB_PROJECT", PROJECT)}
    return {name: value for name, value in arguments.items() if name in inspect.signature(cls).parameters}


class Ids:
    """Ids under which loggers know a stage, kept in its directory so that a resumed training goes on under the same.

    Args:
        file: holds them.
        writes: whether new ones are written.
    """

    def __init__(self, file: Path, writes: bool) -> None:
        self.file, self.writes = file, writes
        self.known: dict[str, str] = read_mapping(file) if file.exists() else {}

    def of(self, key: str, cls: type[Logger]) -> dict[str, str]:
        """The argument that gives a logger its id."""
        if issubclass(cls, WandbLogger):
            if key not in self.known:
                self._keep(key, secrets.token_hex(4))
            return {"version": self.known[key]}
        return {"run_id": self.known[key]} if issubclass(cls, MLFlowLogger) and key in self.known else {}

    def note(self, key: str, logger: Logger) -> None:
        """Keep the id of a logger that has chosen it by itself."""
        if isinstance(logger, MLFlowLogger) and key not in self.known and logger.run_id is not None:
            self._keep(key, logger.run_id)

    def _keep(self, key: str, value: str) -> None:
        self.known[key] = value
        if self.writes:
            write_json(self.file, self.known)
