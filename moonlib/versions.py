"""Which versions of which distributions something was made with, and which of them are others now."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any


def versions(config: Any, packages: Mapping[str, list[str]]) -> dict[str, str]:
    """Versions of the distributions that the classes of a configuration come from, of moonlib and of torch.

    Args:
        config: of a stage or an encoder, with classes as dotted paths.
        packages: distributions of each top-level module.
    """
    modules = {"torch", "moonlib"}

    def visit(node: Any) -> None:
        if isinstance(node, Mapping):
            if isinstance(node.get("class_path"), str):
                modules.add(node["class_path"].split(".")[0])
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    visit(config)
    return {
        name: metadata.version(name) for module in sorted(modules) for name in sorted(set(packages.get(module, [])))
    }


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
        try:
            installed = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            lost.append(f"{distribution}=={version}")
            continue
        if installed != version:
            other.append(f"{distribution} {version} (installed: {installed})")
    if lost:
        return f"; {what} was made with what is not installed any more: pip install {' '.join(lost)}"
    return f"; {what} was made with {', '.join(other)}" if other else ""
