"""A click model that takes part in a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moonlib.artifacts.layout import PREDICTIONS, RECIPE, is_finished, link_name, reference_of
from moonlib.runs.run import Run, RunError
from moonlib.stages.application import Application
from moonlib.studies.paired import read_predictions
from moonlib.system.remote import local_only


@dataclass(frozen=True)
class Arm:
    """A click model of a finished run.

    Attributes:
        run: the run.
        link: the stage, or reference of it, that trained the model, as the run directory calls it.
    """

    run: Run
    link: str

    @property
    def name(self) -> str:
        """The run's name; of a reference with its own, as in ``iter3.baseline``."""
        return link_name(self.run.name, reference_of(self.link))

    @property
    def path(self) -> str:
        """Tells it from any other arm."""
        return str(self.run.directory.resolve() / self.link)

    @classmethod
    def at(cls, path: str | Path) -> Arm:
        """The model of a path.

        Args:
            path: a run directory, for its application, or a directory in one, such as
                ``runs/iter3/application.baseline`` for the id-only baseline.

        Raises:
            RunError: it is neither, or the run has no application.
        """
        path = local_only(path, "an A/B test's result, and what it computes again,")
        if path.is_dir() and not (path / RECIPE).is_file() and (path.parent / RECIPE).is_file():
            return cls(Run(path.parent), path.name)
        run = Run(path)
        names = [name for name in run.config["stages"] if run.class_of(name) is Application]
        if not names:
            raise RunError(f"{path}: its recipe has no application, and so the run has no click model to test")
        return cls(run, names[-1])

    def predictions(self) -> pl.DataFrame:
        """Predictions of the model for the test days' impressions, in their order."""
        file = self.run.directory / self.link / PREDICTIONS
        if not is_finished(file.parent) or not file.is_file():
            raise RunError(f"{file} is missing: {self.link} has not finished, or is no application")
        return read_predictions(file).filter(pl.col("split") == "test")
