"""Metrics that their rows do not define, such as the AUC of rows of one class: what is left out, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import UNDEFINED
from moonlib.artifacts.reading import read_mapping
from moonlib.metrics.key import MetricKey

REASONS = {
    "auc": "it needs rows of both classes, such as clicked and unclicked ones",
    "gauc": "it needs a user with a clicked and an unclicked row",
    "ne": "it needs clicked and unclicked rows",
    "rce": "it needs clicked and unclicked rows",
    "pcoc": "it needs a clicked row",
    "logloss": "there is no row",
    "ece": "there is no row",
    "ndcg": "it needs a search with at least two different grades",
    "recall": "there is no search",
    "share_new": "there is no search that retrieves anything",
    "share_new_gallery": "there is no search",
}
"""Conditions under which a metric is defined, by its name."""

EMPTY = {reason for reason in REASONS.values() if reason.startswith("there is no")}
"""Reasons that say that there is nothing to measure."""

SHOWN = 3
"""Keys that a sentence names."""


def parted(metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """Part metrics into those that are defined and those that are not.

    Args:
        metrics: flat keys such as ``ctr/auc@new``; a value that is NaN or infinite is not defined.

    Returns:
        The defined ones, and of each of the others the reason.

    Example:
        >>> parted({"ctr/logloss": 0.5, "ctr/pcoc": float("nan")})
        ({'ctr/logloss': 0.5}, {'ctr/pcoc': 'it needs a clicked row'})
    """
    defined = {key: value for key, value in metrics.items() if math.isfinite(value)}
    return defined, {key: _reason(key, value) for key, value in metrics.items() if key not in defined}


def leave_out(metrics: Mapping[str, float], directory: Path) -> dict[str, float]:
    """Leave out of a stage's metrics what is not defined, and note it in ``undefined.json`` of the stage's directory.

    Args:
        metrics: as `parted` takes them.
        directory: of the stage; what is noted there already stays.

    Returns:
        The defined ones.

    Raises:
        ValueError: one is no number.
    """
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{directory}: the stage's metric {key!r} is {value!r}; a metric is a float or an int")
    defined, undefined = parted(metrics)
    if undefined:
        write_json(directory / UNDEFINED, noted(directory) | undefined)
    return defined


def noted(directory: Path) -> dict[str, str]:
    """Why a metric was left out, by its key, as `leave_out` noted it in a stage's directory.

    Raises:
        ValueError: the file is damaged, see `moonlib.artifacts.reading.reading`.
    """
    file = directory / UNDEFINED
    if not file.exists():
        return {}
    return read_mapping(file)


def sentences(undefined: Mapping[str, str]) -> Iterator[str]:
    """Say which metrics are left out, in a sentence for each reason.

    Args:
        undefined: reason by key, as `parted` returns them.

    Example:
        >>> list(sentences({"ctr/pcoc": "it needs a clicked row"}))
        ['not defined, and so not among the results: ctr/pcoc (it needs a clicked row)']
    """
    # Where a metric of a segment says that there is nothing, that is why no other one of it is defined.
    empty = {_rows(key): reason for key, reason in undefined.items() if reason in EMPTY}
    reasons = {key: empty.get(_rows(key), reason) for key, reason in undefined.items()}
    # Those of test days and of all rows are the ones to name.
    ordered = sorted(reasons, key=lambda key: (is_of_validation(key), is_of_segment(key)))
    for reason in dict.fromkeys(reasons[key] for key in ordered):
        keys = [key for key in ordered if reasons[key] == reason]
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        yield f"not defined, and so not among the results: {', '.join(keys[:SHOWN])}{more} ({reason})"


def _rows(key: str) -> MetricKey:
    """Key of the rows that a metric is of."""
    return replace(MetricKey.parse(key), name="")


def is_of_validation(key: str) -> bool:
    """Whether a key is of validation days, the run's own or a reference's."""
    return MetricKey.parse(key).split == "valid"


def is_of_segment(key: str) -> bool:
    """Whether a key is of a part of the rows, which other data may lack.

    Example:
        >>> is_of_segment("image_search/recall@10"), is_of_segment("image_search/recall@10@new")
        (False, True)
    """
    return MetricKey.parse(key).segment != ""


def _reason(key: str, value: float) -> str:
    name = MetricKey.parse(key).name.partition("@")[0]
    return REASONS[name] if name in REASONS and math.isnan(value) else f"its value is {value}"
