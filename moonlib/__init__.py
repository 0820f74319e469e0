"""moonlib: learn product representations from images and text, and measure what they are worth downstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.5.0"

if TYPE_CHECKING:
    from moonlib.iteration import fit
    from moonlib.registry import register
    from moonlib.run import load
    from moonlib.verbs import embed

__all__ = ["__version__", "embed", "fit", "load", "register"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``import moonlib`` itself stays free of torch."""
    if name == "fit":
        from moonlib.iteration import fit

        return fit
    if name == "load":
        from moonlib.run import load

        return load
    if name == "embed":
        from moonlib.verbs import embed

        return embed
    if name == "register":
        from moonlib.registry import register

        return register
    raise AttributeError(f"module 'moonlib' has no attribute {name!r}")
