"""Names, tasks and directions of metrics, and how a stage computes those that a recipe names.

A component of the kind ``metrics`` is a `torchmetrics.Metric`. Attributes of its class or object say the rest, and each
of them has a default, so that torchmetrics' own classes do too:

- ``name``: what it is called in keys of results, its K included: ``auc``, ``recall@10``; by default the class's name in
  small letters, ``binary_auroc`` of ``BinaryAUROC``;
- ``title``: what tables call it; by default ``name``;
- ``higher_is_better``: as torchmetrics has it; None for neither;
- ``task``: ``ctr``, ``search`` or ``relevance``; by default every task that has what the metric reads.

What it reads are the arguments of its ``update``, by their names, see `READS`. A metric that is a function of sums over
rows may have the two methods of `Additive`; its intervals and differences between runs are then bootstrapped.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import moonlib.compat  # noqa: F401  (before torchmetrics)
import torch
from torch import Tensor
from torchmetrics import Metric

READS: dict[str, dict[str, str]] = {
    "ctr": {
        "probabilities": "float64 [n], predicted probability of a click",
        "scores": "the same",
        "labels": "bool [n], clicked",
        "users": "int64 [n]",
        "groups": "int64 [n], the search that an impression belongs to",
    },
    "search": {
        "ranks": "int64 [n], of what was ordered, 0 for the best; the gallery's size or more for a miss",
        "gallery": "int, number of products that were ranked",
        "users": "int64 [n]",
    },
    "relevance": {
        "scores": "float64 [n]",
        "labels": "bool [n], the grade reaches the stage's threshold",
        "relevance": "float64 [n], the grade",
        "users": "int64 [n]",
        "groups": "int64 [n], the search that a pair belongs to",
    },
}
"""Inputs that each task has for the arguments of a metric's ``update``."""

ALIASES = {"preds": "scores", "target": "labels", "indexes": "groups"}
"""Names of the same in torchmetrics."""

TRIED: dict[str, dict[str, Any]] = {
    "ctr": {
        "probabilities": [0.1, 0.7, 0.4, 0.2, 0.9, 0.3, 0.6, 0.5],
        "labels": [False, True, True, False, True, False, False, True],
        "users": [1, 1, 2, 2, 3, 3, 3, 3],
        "groups": [1, 1, 2, 2, 3, 3, 4, 4],
    },
    "search": {"ranks": [0, 3, 10**6, 1, 70, 12, 0, 2], "gallery": 10**6, "users": [1, 1, 2, 2, 3, 3, 3, 3]},
}
TRIED["ctr"]["scores"] = TRIED["ctr"]["probabilities"]
TRIED["relevance"] = TRIED["ctr"] | {"relevance": [0.0, 3.0, 2.0, 1.0, 3.0, 0.0, 1.0, 2.0]}
"""Eight rows per task that a metric of a recipe is tried on before anything is trained."""


@dataclass(frozen=True)
class Meaning:
    """Title and direction of a metric, as they are stored with the results.

    Attributes:
        title: what tables call the metric.
        higher_is_better: None where neither is.
    """

    title: str
    higher_is_better: bool | None = None


@runtime_checkable
class Additive(Protocol):
    """A metric that is a function of sums over rows, such as a mean: resampling rows is then weighting them."""

    def sums(self, **columns: Any) -> Tensor:
        """Return what each row adds to C sums: float64 [n, C]; takes what ``update`` takes."""

    def of_sums(self, sums: Tensor) -> Tensor:
        """The metric of float64 [C, ...] of sums: float64 [...], NaN where it is not defined."""


def name_of(metric: Metric) -> str:
    """Name of a metric in keys.

    Example:
        >>> from torchmetrics.classification import BinaryAUROC
        >>> name_of(BinaryAUROC())
        'binary_auroc'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__)
    return str(getattr(metric, "name", None) or words.lower())


def meaning_of(metric: Metric) -> Meaning:
    """The title and the direction of a metric."""
    return Meaning(str(getattr(metric, "title", None) or name_of(metric)), metric.higher_is_better)


def arguments_of(metric: Metric) -> dict[str, str]:
    """Inputs of a metric's ``update``: the name of each argument without a default, and of what fills it."""
    parameters = inspect.signature(metric.update).parameters.values()
    return {
        each.name: ALIASES.get(each.name, each.name)
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }


def tasks_of(metric: Metric) -> list[str]:
    """The tasks that a metric measures: the one it names, or else all that have what it reads."""
    if task := getattr(metric, "task", None):
        return [str(task)]
    return [task for task, there in READS.items() if set(arguments_of(metric).values()) <= set(there)]


def with_metrics(own: Sequence[Metric], more: Iterable[Metric], task: str) -> list[Metric]:
    """A stage's own metrics and those of its recipe, one of an own one's name in the place of that.

    Args:
        own: of the stage.
        more: of the recipe.
        task: that the stage measures.

    Raises:
        ValueError: one measures another task, reads what this one does not have, or gives no number for a few rows; or
            two have one name.
    """
    found = {name_of(metric): metric for metric in own}
    added: set[str] = set()
    for metric in more:
        name, there = name_of(metric), READS[task]
        if lacking := [each for each, column in arguments_of(metric).items() if column not in there]:
            raise ValueError(f"metrics: {name} reads {lacking[0]!r}, and here there are {', '.join(there)}")
        if not arguments_of(metric):
            raise ValueError(f"metrics: {name}: its update names no input; expected some of {', '.join(there)}")
        if task not in tasks_of(metric):
            raise ValueError(f"metrics: {name} measures {tasks_of(metric)[0]}, and this stage {task}")
        if not re.fullmatch(r"[^@/\s]+(@\d+(\.\d+)?)?", name):
            raise ValueError(f"metrics: {name!r} is no name: expected one word, such as auc or recall@10")
        if name in added:
            raise ValueError(f"metrics: two are called {name}; leave one out, or give its class another name")
        _try(metric, task)
        found[name] = metric
        added.add(name)
    return list(found.values())


def _try(metric: Metric, task: str) -> None:
    """Compute a metric of a few rows: now, and not when a model has been trained for hours."""
    rows = {name: torch.tensor(each) if isinstance(each, list) else each for name, each in TRIED[task].items()}
    double = {name: each.double() if name in ("probabilities", "scores") else each for name, each in rows.items()}
    try:
        measured(metric, double)
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"metrics: {name_of(metric)} cannot measure {task}: {' '.join(reason.split())}") from error


def measured(metric: Metric, columns: Mapping[str, Any]) -> float:
    """The value of a metric on some rows, of this process alone.

    Args:
        metric: what it has seen so far is forgotten.
        columns: by the names in `READS`.

    Raises:
        ValueError: it gives something else than one number.
    """
    given = {argument: columns[column] for argument, column in arguments_of(metric).items()}
    if "target" in given:  # torchmetrics' own expect classes as integers, and some refuse bool
        given["target"] = given["target"].long()
    if any(isinstance(column, Tensor) and not len(column) for column in given.values()):
        return math.nan  # torchmetrics' own differ in what they make of no row, and some raise
    # Of several processes the first measures by itself: waiting for others would never end.
    metric.distributed_available_fn = _alone
    metric.reset()
    metric.update(**given)
    value = metric.compute()
    metric.reset()
    if (isinstance(value, Tensor) and value.numel() != 1) or not isinstance(value, Tensor | float | int):
        shape = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"it gives {shape}, and a result is one number")
    return float(value)


def _alone() -> bool:
    return False
