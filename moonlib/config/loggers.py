"""The key ``loggers`` of a recipe: bare names that stand for Lightning's loggers, and classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moonlib.config.merge import RecipeError, hint

NAMED = {
    "csv": "lightning.pytorch.loggers.CSVLogger",
    "tensorboard": "lightning.pytorch.loggers.TensorBoardLogger",
    "wandb": "lightning.pytorch.loggers.WandbLogger",
    "mlflow": "lightning.pytorch.loggers.MLFlowLogger",
}
"""Loggers that a recipe may call by a bare name."""


@dataclass(frozen=True)
class LoggerRecipe:
    """A logger that a recipe names.

    Attributes:
        class_path: of its class.
        init_args: of its constructor, as the recipe says them.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in messages: its bare name if it has one."""
        return next((name for name, path in NAMED.items() if path == self.class_path), self.class_path)


def read_loggers(value: Any) -> list[LoggerRecipe]:
    """Read the key ``loggers``; nothing is imported.

    Args:
        value: what a recipe says: names, and mappings of ``class_path`` and ``init_args``.

    Raises:
        RecipeError: naming the entry that is none of these.

    Example:
        >>> [each.name for each in read_loggers(["csv", {"class_path": "wandb", "init_args": {"mode": "offline"}}])]
        ['csv', 'wandb']
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise RecipeError(f"expected a list such as [csv, wandb], got {value!r}", ("loggers",))
    found: list[LoggerRecipe] = []
    for i, each in enumerate(value):
        key = ("loggers", str(i))
        parts = {"class_path": each} if isinstance(each, str) else each
        path = parts.get("class_path") if isinstance(parts, dict) else None
        if not isinstance(parts, dict) or not isinstance(path, str):
            raise RecipeError(f"expected one of {', '.join(NAMED)}, or class_path and init_args; got {each!r}", key)
        for part in parts:
            if part not in ("class_path", "init_args"):
                raise RecipeError("unknown key; a logger has class_path and init_args", (*key, str(part)))
        arguments: Any = parts.get("init_args") or {}
        if "." not in path and path not in NAMED:
            raise RecipeError(f"no logger '{path}'; {hint(path, NAMED)}", key)
        if not isinstance(arguments, dict):
            raise RecipeError(f"expected a mapping of arguments, got {arguments!r}", (*key, "init_args"))
        one = LoggerRecipe(NAMED.get(path, path), {str(name): argument for name, argument in arguments.items()})
        if one in found:
            raise RecipeError(f"{one.name} is named twice", key)
        found.append(one)
    return found
