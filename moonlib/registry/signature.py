"""Arguments of a component's constructor, which are the keys of a recipe."""

from __future__ import annotations

import inspect
import typing
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of a constructor by name, annotations evaluated.

    A constructor that ends in ``**options`` and passes these on takes what the next class's takes, less what it gives
    that class itself.

    Args:
        cls: any class with a constructor of its own or an inherited one.

    Raises:
        NameError: an annotation names what only a type checker can see.

    Example:
        >>> class Base:
        ...     def __init__(self, width: int, depth: int = 2) -> None: ...
        >>> class Flat(Base):
        ...     def __init__(self, **options: Any) -> None:
        ...         super().__init__(depth=1, **options)
        >>> parameters(Flat)
        {'width': <Parameter "width: int">}
    """
    found: dict[str, inspect.Parameter] = {}
    owners = [owner for owner in cls.__mro__ if "__init__" in vars(owner)]
    for owner in owners:
        init = vars(owner)["__init__"]
        hints = typing.get_type_hints(owner if is_dataclass(owner) else init)
        passes_on = False
        for parameter in list(inspect.signature(init).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                found.setdefault(parameter.name, parameter.replace(annotation=hints.get(parameter.name, Any)))
        if not passes_on:
            break
    if owner is not owners[0]:
        left = _open(cls)
        found = {name: parameter for name, parameter in found.items() if name in left}
    return found


@lru_cache(maxsize=1024)
def _open(cls: type) -> set[str]:
    """Names that a caller may give, as jsonargparse reads them from the source of constructors that call each other."""
    from jsonargparse import ArgumentParser

    added = ArgumentParser(exit_on_error=False).add_class_arguments(cls, "of", instantiate=False, fail_untyped=False)
    return {name.removeprefix("of.") for name in added}
