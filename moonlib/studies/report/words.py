"""How numbers, intervals, metrics and values of a recipe are written."""

from __future__ import annotations

import math
from typing import Any

from moonlib.config.recipe import NOT_SET
from moonlib.metrics.bootstrap import Interval

SEGMENTS = {
    "": "all",
    "new": "new products",
    "tail": "tail products",
    "searches": "with a query",
    "feed": "without a query, as in a feed",
}
"""Segments of every report, by their names in the results."""


def number(value: float | None, digits: int = 4) -> str:
    """A value as text.

    Example:
        >>> number(-0.5), number(None), number(float("nan"))
        ('−0.5000', '', '')
    """
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """A difference as text, always with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def ends(found: Interval | None, scale: float = 1, digits: int = 4, *, sign: bool = False) -> str:
    """The ends of an interval as text; empty where there is none."""
    if found is None or not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ""
    low, high = ((signed if sign else number)(end * scale, digits) for end in (found.low, found.high))
    return f"[{low}, {high}]"


def bare(value: float) -> Interval:
    """A value whose interval is not known."""
    return Interval(value, math.nan, math.nan)


def tone(higher_is_better: bool | None, found: Interval | None) -> str:
    """Whether a difference is one for the better, by an interval that leaves out zero."""
    if found is None or higher_is_better is None or not (found.low > 0 or found.high < 0):
        return ""
    return "better" if (found.low > 0) == higher_is_better else "worse"


def surely(found: Interval) -> str:
    """The tone of a number that is better above zero."""
    return "better" if found.low > 0 else "worse" if found.high < 0 else ""


def spoken(task: str) -> str:
    """``image search`` for ``image_search``."""
    return task.replace("_", " ")


def brief(value: Any) -> str:
    """A value of a recipe in a few words: components by the name of their class, with their arguments.

    Example:
        >>> brief([{"class_path": "moonlib.negatives.mined.Mined", "init_args": {"margin": 0.1}}, "x.Queue"])
        '[Mined(margin=0.1), x.Queue]'
    """
    if value == NOT_SET:
        return "–"
    if isinstance(value, dict) and "class_path" in value:
        arguments = value.get("init_args") or {}
        name = str(value["class_path"]).rpartition(".")[2]
        return name + (f"({', '.join(f'{k}={brief(v)}' for k, v in arguments.items())})" if arguments else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {brief(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(brief, value)) + "]"
    if isinstance(value, str) and value.startswith("moonlib."):
        return value.rpartition(".")[2]
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
