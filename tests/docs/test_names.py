"""Names of modules, classes and functions in docstrings and documents: each is there, under its present path."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import moonlib
from moonlib.artifacts import SUMS
from moonlib.registry import KINDS
from moonlib.registry.moved import moved_to
from moonlib.serving.logs import ACCESS

PACKAGE = Path(moonlib.__file__).parent
ROOT = PACKAGE.parent
GROUPS = {f"moonlib.{name}" for name in (*KINDS, "api", "renamed")}
"""Groups of entry points."""
OF_OLD_PATHS = {PACKAGE / "registry/moved.py", PACKAGE / "config/earlier.py"}


def documents() -> list[Path]:
    """The code with its docstrings and comments, and what is written about it."""
    found = [path for suffix in ("py", "pyi", "md") for path in PACKAGE.rglob(f"*.{suffix}")]
    for folder in ("plugins", "benchmarks", "recipes"):
        found += [path for suffix in ("py", "md", "yaml", "toml") for path in (ROOT / folder).rglob(f"*.{suffix}")]
    found += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml") if (ROOT / name).exists()]
    return [path for path in found if path not in OF_OLD_PATHS]


def resolved(name: str) -> bool:
    """Whether a dotted name is that of a module, or of what is in one: an attribute that only objects have, too."""
    found: Any = moonlib
    parts = name.split(".")
    for number, part in enumerate(parts[1:], 2):
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, type):
            return any(part in vars(cls).get("__annotations__", {}) for cls in found.__mro__)
        else:
            try:
                found = import_module(".".join(parts[:number]))
            except ImportError:
                return False
    return True


def test_names_in_documents_are_there_under_their_present_paths() -> None:
    places: dict[str, set[str]] = {}
    for path in documents():
        for name in re.findall(r"(?<![\w./-])moonlib(?:\.[A-Za-z_]\w*)+", path.read_text(encoding="utf-8")):
            places.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    names = places.keys() - GROUPS - {SUMS, ACCESS, "moonlib.__main__"}  # a file and a logger are called so
    assert len(names) > 300
    wrong = {name: sorted(places[name]) for name in sorted(names) if moved_to(name) or not resolved(name)}
    assert not wrong
