"""Input of all sections: the runs, their measurements, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path

from moonlib.artifacts.remedies import fit_command
from moonlib.metrics.bootstrap import Interval
from moonlib.runs.descent import Descent
from moonlib.runs.results import Legend
from moonlib.studies.report.evidence import SEARCH_TASKS, Evidence, Measurements
from moonlib.studies.report.words import tone


@dataclass
class Report:
    """The runs, their measurements, and what is missing.

    Attributes:
        runs: parents before the runs that came from them, otherwise in the order given.
        measured: by the hash of the dataset.
        beside: the directory where the studies' files lie: the parent of the first run.
        descent: which of the runs came from which.
        missing: what is not there, and how to get it.
    """

    runs: list[Evidence]
    measured: dict[str, Measurements]
    beside: Path
    descent: Descent = field(default_factory=lambda: Descent({}, ()))
    missing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def last(self) -> Evidence:
        """The run that the verdict is about."""
        return self.runs[-1]

    @property
    def legend(self) -> Legend:
        """Meaning of the results of all runs."""
        return reduce(or_, (run.legend for run in self.runs))

    def metric_name(self, key: str) -> str:
        """Title of a metric in tables, with the segment that it is only known of."""
        parsed = self.legend.key(key)
        return self.legend.meaning(parsed).title + (f"@{parsed.segment}" if parsed.segment else "")

    def tone(self, key: str, found: Interval | None) -> str:
        """Whether a difference of a metric is one for the better, see `moonlib.studies.report.words.tone`."""
        return tone(self.legend.meaning(key).higher_is_better, found)

    def parent(self, run: Evidence) -> Evidence | None:
        """The run that a run continues, if it is here."""
        place = self.descent.parent(run.run.directory)
        return next((other for other in self.runs if place is not None and other.run.directory == place), None)

    def before(self, run: Evidence) -> Evidence | None:
        """The run that a run continues, or else the one before it."""
        place = self.runs.index(run)
        return self.parent(run) or (self.runs[place - 1] if place else None)

    def previous(self, run: Evidence) -> Evidence | None:
        """The run that a run is compared with: the one that it continues, or else the one before, on the same data."""
        place = self.runs.index(run)
        others = [self.parent(run), self.runs[place - 1] if place else None]
        return next((other for other in others if other and other.dataset and other.dataset == run.dataset), None)

    def of(self, run: Evidence) -> Measurements:
        """Measurements on the run's data."""
        return self.measured.get(run.dataset) or Measurements()

    def tell(self, what: str) -> Callable[[str], None]:
        """Return a function that adds a problem to `missing` under a title."""
        return lambda problem: self.missing.append((what, problem))

    def command(self, verb: str, *runs: Evidence) -> str:
        """A command on runs, as it can be pasted."""
        return " ".join(["moonlib", verb, *(str(run.run.directory) for run in runs)])

    def peers(self) -> list[Evidence]:
        """The runs on the last run's data."""
        return [run for run in self.runs if run.dataset == self.last.dataset]


def headline_keys(report: Report) -> Iterator[str]:
    """The metrics that the last run is first judged by, of those that it has."""
    for key in (*(f"{task}/recall@10" for task in SEARCH_TASKS), "ctr/auc"):
        if key in report.last.results:
            yield key


def continued(run: Evidence) -> str:
    """Remedy for a run that has not finished."""
    return f"`{fit_command(run.run.directory)}` resumes the run"
