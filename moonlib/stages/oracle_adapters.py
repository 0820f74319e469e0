"""Adapters through which the oracle beside an application is read; the best of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORACLE_ADAPTERS: tuple[dict[str, Any], ...] = (
    {"class_path": "concat", "init_args": {"adapters": ["cube", "simtier", "interaction"]}},
)
"""Adapters through which the oracle is read, besides a run's own, where the recipe names none."""


def oracle_candidates(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Adapters of which the best is the oracle's, by name: the stage's own, then ``oracle_adapters``.

    Args:
        arguments: of the stage, as its recipe gives them.

    Returns:
        By name, the arguments in place of these. Of two adapters with one name, the first.

    Example:
        >>> list(oracle_candidates({"adapter": "vector"}))
        ['vector', 'cube + simtier + interaction']
    """
    found: dict[str, dict[str, Any]] = {adapter_name(arguments["adapter"]): {}}
    given = arguments.get("oracle_adapters")
    for adapter in ORACLE_ADAPTERS if given is None else given:
        found.setdefault(adapter_name(adapter), {"adapter": adapter})
    return found


def adapter_name(adapter: Any) -> str:
    """An adapter of a recipe in a few words.

    Example:
        >>> adapter_name({"class_path": "interaction", "init_args": {"width": 32}})
        'interaction(width=32)'
    """
    if not isinstance(adapter, Mapping):
        adapter = {"class_path": adapter}
    path, arguments = str(adapter["class_path"]), dict(adapter.get("init_args") or {})
    # A recipe that was read has the path of each class, whose module is called as the adapter.
    name = path.split(".")[-2] if "." in path else path
    if name == "concat":
        return " + ".join(adapter_name(each) for each in arguments.get("adapters", ()))
    told = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({told})" if told else name
