"""Recipes and results as earlier versions wrote them, in the words of this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moonlib.registry.deprecation import warn_once
from moonlib.registry.moved import GONE_IN, present_path

SCHEDULE, OLD_SCHEDULE = "checkpoint_evaluation", "probe"
"""A stage's key that says when its encoder is evaluated, and what it was called before 0.5."""


OLD_REFERENCES = {"baseline/untrained": ("baseline/initial", "initial weights")}
"""Prefixes of references until 0.5: what they are called now, and their titles. The weights may be published ones."""


def present_reference(prefix: str) -> str:
    """Return what the prefix of a reference is called now.

    Example:
        >>> present_reference("baseline/untrained"), present_reference("oracle")
        ('baseline/initial', 'oracle')
    """
    return OLD_REFERENCES.get(prefix, (prefix, ""))[0]


def present_results(results: Mapping[str, float]) -> dict[str, float]:
    """Results by the keys that they have now; a value that stands under both keys is the one of the new key.

    Example:
        >>> present_results({"baseline/untrained/valid/ctr/auc": 0.5})
        {'baseline/initial/valid/ctr/auc': 0.5}
    """
    found: dict[str, float] = {}
    for key, value in results.items():
        old = next((prefix for prefix in OLD_REFERENCES if key.startswith(f"{prefix}/")), None)
        if old is None:
            found[key] = value
        else:
            found.setdefault(f"{present_reference(old)}{key.removeprefix(old)}", value)
    return found


def present_references(titles: Mapping[str, str]) -> dict[str, str]:
    """Titles of references by their prefix, as both are called now.

    Example:
        >>> present_references({"baseline/untrained": "untrained", "oracle": "oracle"})
        {'baseline/initial': 'initial weights', 'oracle': 'oracle'}
    """
    now = (OLD_REFERENCES.get(prefix, (prefix, title)) for prefix, title in titles.items())
    return dict(now)


def earlier_reference(prefix: str) -> str:
    """Return what the prefix of a reference was called in the names of a run's links; itself if it has not changed."""
    return next((old for old, (now, _) in OLD_REFERENCES.items() if now == prefix), prefix)


def present_stages(content: dict[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """Call the keys of stages what they are called now.

    Args:
        content: of a recipe, or a part of one; not changed. A stage that has a key under both names is left to the
            check of unknown keys.
        warn: say so, once.

    Example:
        >>> present_stages({"stages": {"pretrain": {"probe": {"every": 2}}}}, warn=False)
        {'stages': {'pretrain': {'checkpoint_evaluation': {'every': 2}}}}
    """
    stages = content.get("stages")
    if not isinstance(stages, Mapping):
        return content

    def renamed(stage: Any) -> Any:
        if not isinstance(stage, Mapping) or OLD_SCHEDULE not in stage or SCHEDULE in stage:
            return stage
        if warn:
            warn_once(f"a stage's key '{OLD_SCHEDULE}' is called '{SCHEDULE}' now; the old name works until {GONE_IN}")
        return {SCHEDULE if key == OLD_SCHEDULE else key: value for key, value in stage.items()}

    return {**content, "stages": {name: renamed(stage) for name, stage in stages.items()}}


def present(config: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run, with today's keys and class paths; nothing is imported.

    Args:
        config: content of the run's recipe.yaml; not changed.

    Example:
        >>> present({"data": {"class_path": "moonlib.data.marketplace.source.Marketplace"}})
        {'data': {'class_path': 'moonlib.sources.marketplace.source.Marketplace'}}
    """
    moved: dict[str, Any] = _moved(present_stages(config, warn=False))
    return moved


def _moved(value: Any) -> Any:
    if isinstance(value, list):
        return [_moved(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: present_path(item) if key == "class_path" and isinstance(item, str) else _moved(item)
        for key, item in value.items()
    }
