"""Legend of results, stored with them: titles of references, titles and directions of metrics.

``results.json`` holds numbers under the keys of `moonlib.metrics.key.MetricKey` and nothing else. ``legend.json`` says
what its references and metrics are called, and which metrics are better when they are higher. A finished stage has a
legend of its own, which a run that reuses the stage reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import moonlib.compat  # noqa: F401  (before torchmetrics)
from torchmetrics import Metric

from moonlib.artifacts.checksums import again
from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import LEGEND, RESULTS, reference_of
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.config.earlier import present_reference, present_references
from moonlib.config.typing import construct_component
from moonlib.metrics.ctr import own_metrics
from moonlib.metrics.key import MetricKey
from moonlib.metrics.metric import Meaning, meaning_of, name_of
from moonlib.metrics.ndcg import NDCG
from moonlib.metrics.recall import Recall
from moonlib.stages.stage import Reference, Stage

REFERENCES = {
    "baseline/chance": "chance",
    "baseline/thumbnail": "thumbnail",
    "baseline/initial": "initial weights",
    "baseline": "id only",
    "baseline/shuffled": "shuffled",
    "baseline/query": "query only",
    "baseline/user": "user only",
    "baseline/popularity": "popularity",
    "baseline/cosine": "zero-shot",
    "oracle": "oracle",
    "ceiling": "ceiling",
}
"""Titles of the references of moonlib's own stages, for runs made before there were legends."""

TASKS = ("image_search", "text_search", "search", "ctr", "retrieval", "relevance", "quantise")
"""Tasks that moonlib's own metrics measure, in the order that tables show them."""


MAIN = ("recall@10", "auc")
"""Metrics that a run is first judged by, in tasks that have one of them."""


@dataclass(frozen=True)
class Choice:
    """The candidate that a reference is the best of, see `moonlib.stages.stage.Reference.candidates`.

    Attributes:
        chosen: name of the candidate.
        by: the result that decided, of validation days, by its key of test days such as ``ctr/auc``.
        values: of validation days, by the candidates' names; empty where one has none, and the first was taken.
    """

    chosen: str
    by: str
    values: Mapping[str, float] = field(default_factory=dict)

    def sentence(self, title: str) -> str:
        """Say what was chosen, and from what.

        Args:
            title: of the reference.

        Example:
            >>> print(Choice("Cube", "ctr/auc", {"Vector": 0.7, "Cube": 0.71}).sentence("oracle"))
            oracle: with Cube, the best on validation days (auc: Vector 0.7000, Cube 0.7100)
        """
        if not self.values:
            return f"{title}: with {self.chosen}, as not all were measured on validation days"
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.values.items())
        return f"{title}: with {self.chosen}, the best on validation days ({MetricKey.parse(self.by).name}: {values})"


@dataclass(frozen=True)
class Legend:
    """Meaning of the keys and values of results.

    Attributes:
        references: the title of each reference's prefix, in the order they ran.
        metrics: title and direction by task and name, such as ``ctr/auc``.
        rows: how many rows the metrics of a task and a segment are of, by `moonlib.metrics.counts.rows_key`.
        choices: by prefix, what was chosen for a reference that is the best of several candidates.
    """

    references: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Meaning] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @classmethod
    def of(cls, module: Stage, references: Iterable[Reference] = ()) -> Legend:
        """Collect titles and directions of a stage's references and metrics."""
        return cls({each.prefix: each.title for each in references}, dict(module.meanings()))

    def __or__(self, other: Legend) -> Legend:
        """Both; of a prefix that both have, both titles, and of a metric what the other says."""
        titles = dict(self.references)
        for prefix, title in other.references.items():
            known = titles.get(prefix, "").split(" / ")
            titles[prefix] = title if known == [""] else " / ".join(dict.fromkeys([*known, *title.split(" / ")]))
        # A reference is measured on the rows of its stage; those of the stage count, which comes first.
        choices = {**self.choices, **other.choices}
        return Legend(titles, {**self.metrics, **other.metrics}, {**other.rows, **self.rows}, choices)

    def key(self, text: str) -> MetricKey:
        """A key of results, taken apart."""
        return MetricKey.parse(text, self.references)

    def own(self, results: Iterable[str], split: Literal["test", "valid"] = "test") -> dict[str, MetricKey]:
        """The keys of a run's own results of test or validation days, without those of its references."""
        keys = {text: self.key(text) for text in results}
        return {text: key for text, key in keys.items() if key.split == split and not key.reference}

    def main(self, results: Iterable[str]) -> list[str]:
        """The keys that a run is first judged by: of each task one of `MAIN`, or else the first that the legend has.

        Args:
            results: keys of ``results.json``.

        Example:
            >>> legend = Legend({"baseline": "id only"})
            >>> legend.main(["baseline/ctr/auc", "ctr/auc", "ctr/ne", "image_search/recall@10", "valid/ctr/auc"])
            ['image_search/recall@10', 'ctr/auc']
        """
        tasks: dict[str, list[str]] = {}
        for text, key in self.own(results).items():
            if not key.segment:
                tasks.setdefault(key.task, []).append(text)
        known, found = list(self.metrics), []
        for task in sorted(tasks, key=lambda task: TASKS.index(task) if task in TASKS else len(TASKS)):
            keys = sorted(tasks[task], key=lambda text: known.index(text) if text in known else len(known))
            found.append(next((text for name in MAIN for text in keys if self.key(text).name == name), keys[0]))
        return found

    def meaning(self, key: MetricKey | str) -> Meaning:
        """The title and the direction of a metric; its name and none, where nothing is said of it."""
        key = self.key(key) if isinstance(key, str) else key
        return self.metrics.get(key.measured) or _moonlibs(key.task, key.name) or Meaning(key.name)

    def chosen(self, task: str, prefixes: Iterable[str]) -> list[str]:
        """Sentences of what was chosen for references, by a result of a task.

        Args:
            task: such as ``ctr``.
            prefixes: of the references.
        """
        found = ((self.references.get(prefix, prefix), self.choices.get(prefix)) for prefix in prefixes)
        return [each.sentence(title) for title, each in found if each and MetricKey.parse(each.by).task == task]

    @property
    def baselines_first(self) -> dict[str, str]:
        """The titles of the references: the baseline, other baselines, and then upper bounds and what else there is."""
        ordered = sorted(self.references, key=lambda prefix: (not prefix.startswith("baseline"), "/" in prefix))
        return {prefix: self.references[prefix] for prefix in ordered}


def beside(key: MetricKey | str, reference: str) -> str:
    """The key of a reference's result that stands beside a run's own; that of the run for the empty reference."""
    return f"{reference}/{key}" if reference else str(key)


def write_legend(directory: Path, legend: Legend) -> None:
    """Write ``legend.json`` into the directory of a run or a stage."""
    metrics = {key: asdict(meaning) for key, meaning in legend.metrics.items()}
    more: dict[str, Any] = {"rows": dict(legend.rows)} if legend.rows else {}
    if legend.choices:
        more["choices"] = {prefix: asdict(choice) for prefix, choice in legend.choices.items()}
    write_json(directory / LEGEND, {"references": dict(legend.references), "metrics": metrics, **more})


def add_legend(run: Path, legend: Legend) -> None:
    """Write a run's legend, with what it says of results that a former pass over the run has left."""
    # Results without a legend are of an earlier version.
    before = Legend(REFERENCES) if (run / RESULTS).exists() else Legend()
    with suppress(ValueError):  # one that can't be read is made anew
        before = read_legend(run) or before
    write_legend(run, before | legend)


def read_legend(directory: Path) -> Legend | None:
    """Read the ``legend.json`` of a run or a stage; None if there is none.

    Raises:
        ValueError: the file is damaged, see `moonlib.artifacts.reading.reading`.
    """
    file = directory / LEGEND
    if not file.exists():
        return None
    found = read_mapping(file)
    try:
        references = {str(prefix): str(title) for prefix, title in found["references"].items()}
        metrics = {str(key): _meaning(each) for key, each in found["metrics"].items()}
        rows = {str(key): int(n) for key, n in found.get("rows", {}).items()}
        choices = {str(prefix): _choice(each) for prefix, each in found.get("choices", {}).items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unreadable(f"{file} is no legend of results ({error}); {again(file)}") from None
    return Legend(present_references(references), metrics, rows, choices)


def legend_of_run(run: Path, stages: Iterable[str]) -> Legend:
    """The legend of a run; of one made before there were legends, what moonlib's own stages say.

    Args:
        run: its directory.
        stages: of its recipe. A reference's directory is ``<stage>.<prefix, dotted>``.

    Raises:
        ValueError: the file is damaged, see `moonlib.artifacts.reading.reading`.
    """
    if legend := read_legend(run):
        return legend
    found = {present_reference(reference_of(path.name)) for stage in stages for path in run.glob(f"{stage}.*")}
    titles = REFERENCES | {prefix: prefix.rpartition("/")[2] for prefix in sorted(found - REFERENCES.keys())}
    return Legend(titles, {f"ctr/{name_of(metric)}": meaning_of(metric) for metric in own_metrics()})


def named_metrics(stage: Mapping[str, Any]) -> list[Metric]:
    """The metrics that a recipe names in a stage.

    Args:
        stage: its section of a run's recipe.

    Raises:
        RecipeError: one can't be made, because it is not installed for instance.
    """
    module = stage.get("module")
    given = (module.get("init_args") or {}).get("metrics") if isinstance(module, Mapping) else None
    return [construct_component("metrics", each, ("metrics",)).build() for each in given or ()]


def _meaning(found: Mapping[str, object]) -> Meaning:
    title, higher = found["title"], found["higher_is_better"]
    if not isinstance(title, str) or not (higher is None or isinstance(higher, bool)):
        raise TypeError(f"{found!r} is no title and direction")
    return Meaning(title, higher)


def _choice(found: Mapping[str, Any]) -> Choice:
    values = {str(name): float(value) for name, value in found["values"].items()}
    return Choice(str(found["chosen"]), str(found["by"]), values)


@cache
def _moonlibs(task: str, name: str) -> Meaning | None:
    """Find title and direction of moonlib's own metric by its name."""
    if task not in TASKS:
        return None
    for metric in (*own_metrics(), Recall(), NDCG()):
        own = name_of(metric)
        if own.partition("@")[0] == name.partition("@")[0]:
            meaning = meaning_of(metric)
            return replace(meaning, title=name) if meaning.title == own else meaning
    return None
