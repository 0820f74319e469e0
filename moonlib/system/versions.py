"""Which versions of which distributions something was made with, and which of them are others now."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import moonlib
from moonlib.system.code_digest import imported_by

DISTRIBUTION = "moonlib-embedding"
"""Name of moonlib on the package index, where `moonlib` is another project's."""


MODEL_LIBRARIES = {"timm", "transformers", "tokenizers", "peft", "open_clip", "faiss"}
"""Libraries of models, tokenizers and neighbours beside torch and Lightning. One that only carries data, as polars, is
left out: it is released every week, and would have everything trained anew."""


def versions(classes: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that classes come from, of moonlib, torch, Lightning, and libraries of models.

    Args:
        classes: dotted paths of classes that have been imported.
    """
    classes = list(classes)
    modules = {"torch", "lightning"} | {path.partition(".")[0] for path in classes}
    return versions_of(modules | (MODEL_LIBRARIES & imported_by(classes)))


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that top-level modules come from, and of moonlib.

    Example:
        >>> list(versions_of(["numpy"]))
        ['moonlib-embedding', 'numpy']
    """
    # A folder's time changes with every distribution that is installed, upgraded or removed in it.
    times = tuple((path, Path(path).stat().st_mtime_ns) for path in sys.path if Path(path).is_dir())
    packages = _packages(times)
    names = {name for module in set(modules) - {"moonlib"} for name in packages.get(module, ())}
    return {name: installed(name) for name in sorted({DISTRIBUTION} | names)}


@lru_cache(maxsize=1)
def _packages(times: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    """Distributions of each top-level module; half a second where many are installed."""
    return metadata.packages_distributions()


def installed(distribution: str) -> str:
    """The version of an installed distribution.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    # Of an editable installation the metadata would tell the version that was checked out when it was made.
    return moonlib.__version__ if distribution == DISTRIBUTION else metadata.version(distribution)


def version_hint(made_with: Mapping[str, str], what: str) -> str:
    """Say what of the distributions that something was made with is not installed, or in another version.

    Args:
        made_with: version of each distribution.
        what: was made with them.

    Returns:
        The end of an error's line; empty where all is as it was.
    """
    lost, other = [], []
    for distribution, version in made_with.items():
        if distribution == "moonlib":  # what moonlib called itself before 0.5
            distribution = DISTRIBUTION
        try:
            now = installed(distribution)
        except metadata.PackageNotFoundError:
            lost.append(f"{distribution}=={version}")
            continue
        if now != version:
            other.append(f"{distribution} {version} (installed: {now})")
    if lost:
        return f"; {what} was made with what is not installed any more: pip install {' '.join(lost)}"
    return f"; {what} was made with {', '.join(other)}" if other else ""
