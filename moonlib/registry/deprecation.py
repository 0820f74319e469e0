"""Names that change: the old one goes on working, and says once what it is called now and until when it works.

A component's name in recipes is renamed in the metadata of its distribution, see `moonlib.registry`. Here is what
Python code needs: arguments, and what a module holds.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_told: set[str] = set()


def warn_once(message: str, stacklevel: int = 2) -> None:
    """Warn the first time in this process that ``message`` comes up; `FutureWarning` is shown to users by default."""
    if message not in _told:
        _told.add(message)
        warnings.warn(message, FutureWarning, stacklevel + 1)


def renamed_arguments(gone_in: str, **renamed: str) -> Callable[[Function], Function]:
    """Let a function or constructor take arguments under their old names too, in Python and in recipes.

    Args:
        gone_in: the release that takes the new names only.
        renamed: ``old="new"``.

    Returns:
        A decorator. Given under both names, an argument is a `TypeError`.

    Example:
        >>> class Hinge:
        ...     @renamed_arguments("0.4", width="margin")
        ...     def __init__(self, margin: float = 0.2) -> None:
        ...         self.margin = margin
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     Hinge(width=0.5).margin
        0.5
        >>> str(told[0].message)
        "argument 'width' is called 'margin' now; the old name works until release 0.4"
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def renaming(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **present_arguments(renaming, kwargs))

        renaming.__renamed_arguments__ = (gone_in, renamed)  # type: ignore[attr-defined]
        return renaming  # type: ignore[return-value]

    return decorate


def present_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments under the names that ``function`` gives them now, in the same order.

    Raises:
        TypeError: one is given under both names.
    """
    none: tuple[str, dict[str, str]] = ("", {})
    gone_in, renamed = getattr(function, "__renamed_arguments__", none)
    present: dict[str, Any] = {}
    for name, value in arguments.items():
        new = renamed.get(name, name)
        if new != name:
            if new in arguments:
                raise TypeError(f"'{name}' is called '{new}' now, and both are given: keep '{new}'")
            warn_once(
                f"argument '{name}' is called '{new}' now; the old name works until release {gone_in}", stacklevel=3
            )
        present[new] = value
    return present


def renamed_attributes(module: str, gone_in: str, **renamed: str) -> Callable[[str], Any]:
    """Make a module's ``__getattr__``, through which functions and classes are still found where they were.

    Args:
        module: ``__name__``.
        gone_in: the release in which the old names are gone.
        renamed: ``old="package.module:new"``.

    Example: ``__getattr__ = renamed_attributes(__name__, "0.4", nt_xent="moonlib.losses.info_nce:InfoNCE")`` keeps
    ``from module import nt_xent`` working, and a recipe's ``class_path: module.nt_xent`` too.
    """

    def __getattr__(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        place, _, attribute = renamed[name].partition(":")
        warn_once(f"{module}.{name} is {place}.{attribute} now; the old name works until release {gone_in}")
        return getattr(importlib.import_module(place), attribute)

    return __getattr__
