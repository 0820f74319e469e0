"""``costs.json``: what the stages of a run took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moonlib.artifacts.checksums import again
from moonlib.artifacts.reading import Unreadable, is_number, read_mapping

NUMBERS = ("seconds", "peak_gb", "peak_child_gb")


def read_costs(file: Path) -> dict[str, dict[str, Any]]:
    """Read ``costs.json``.

    Returns:
        By the stage, or reference of one: ``seconds``, ``peak_gb`` and ``peak_child_gb``, numbers; ``reused``, whether
        another run had finished it; and ``first_run``, of such a stage, with its ``seconds`` then. Any may be missing.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it holds something else; the message names the entry.
    """
    found = read_mapping(file)
    for stage, cost in found.items():
        _check(file, stage, cost)
        if "first_run" in cost:
            _check(file, f"{stage}: first_run", cost["first_run"])
    return found


def _check(file: Path, name: str, cost: object) -> None:
    if not isinstance(cost, dict):
        raise Unreadable(f"{file}: {name!r} is {str(cost)[:40]!r}, and should be an object; {again(file)}")
    for key in NUMBERS:
        if key in cost and not is_number(cost[key]):
            problem = f"{key!r} of {name!r} is {str(cost[key])[:40]!r}, and should be a number"
            raise Unreadable(f"{file}: {problem}; {again(file)}")
