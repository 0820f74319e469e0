"""moonlib: learn product representations from images and text, and measure what they are worth downstream."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.5.0"

if TYPE_CHECKING:
    from moonlib.export import load
    from moonlib.iteration import fit
    from moonlib.registry import register
    from moonlib.run import Run
    from moonlib.studies.report import report
    from moonlib.verbs import embed, evaluate, index, search

__all__ = ["Run", "__version__", "embed", "evaluate", "fit", "index", "load", "register", "report", "search"]

_LIVES_IN = {
    "Run": "moonlib.run",
    "embed": "moonlib.verbs",
    "evaluate": "moonlib.verbs",
    "fit": "moonlib.iteration",
    "index": "moonlib.verbs",
    "load": "moonlib.export",
    "register": "moonlib.registry",
    "report": "moonlib.studies.report",
    "search": "moonlib.verbs",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``import moonlib`` itself stays free of torch."""
    if name not in _LIVES_IN:
        raise AttributeError(f"module 'moonlib' has no attribute {name!r}")
    return getattr(import_module(_LIVES_IN[name]), name)


def __dir__() -> list[str]:
    """What is for use from outside; the rest is found in its own module."""
    return sorted(__all__)
