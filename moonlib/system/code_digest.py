"""Digests of code that is edited in place, for fingerprints: what a version says of an installed distribution.

Code is in place if it lies neither in the standard library nor where pip copies distributions to: a script, a notebook,
an editable plugin, moonlib itself in a checkout. Its digest is of the syntax tree, without docstrings and any other
statement that is only a string, so that words and layout change nothing.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple


class _Module(NamedTuple):
    """Content of a file: the digest of its code, and the dotted names that it imports."""

    digest: str
    imports: tuple[str, ...]


def code_digest(classes: Iterable[str]) -> dict[str, str]:
    """Digest the code in place that classes consist of: that of their modules, and of all that these import.

    What stands under ``if TYPE_CHECKING`` does not run and is not followed; what is imported by a name that is only
    known when the code runs is not seen. Syntax trees, and so digests, differ between minor versions of Python.

    Args:
        classes: dotted paths.

    Returns:
        For each top-level module in place that is reached, 16 hexadecimal digits; empty where all is installed.

    Example:
        >>> code_digest(["torch.nn.Linear"])
        {}
    """
    digests: dict[str, str] = {}
    waiting: list[str] = []
    for path in classes:
        module, _, name = path.rpartition(".")
        if module == "__main__" and not getattr(sys.modules[module], "__file__", None):
            digests[path] = _digest_of_class(getattr(sys.modules[module], name, None))
        waiting += [module, path]
    seen = set(digests)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (file := _file(name)) is None:
            waiting += _offered(name)
            continue
        digests[name], imports = _read(file, file.stat().st_mtime_ns, name)
        waiting += imports
        if "." in name:  # importing a module imports the packages that it is in
            waiting.append(name.rpartition(".")[0])
    whole: dict[str, list[str]] = {}
    for name, digest in sorted(digests.items()):
        whole.setdefault(name.partition(".")[0], []).append(f"{name}={digest}")
    return {top: hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] for top, lines in whole.items()}


def imported_by(classes: Iterable[str]) -> set[str]:
    """Name the top-level modules that the modules of classes import, wherever they are.

    Args:
        classes: dotted paths of classes that have been imported.

    Example:
        >>> "json" in imported_by(["moonlib.data.reader.SampleReader"])
        True
    """
    found: set[str] = set()
    for name in {path.rpartition(".")[0] for path in classes}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and file.endswith(".py"):
            read = _read(Path(file), Path(file).stat().st_mtime_ns, name)
            found |= {path.partition(".")[0] for path in read.imports}
    return found


def _file(name: str) -> Path | None:
    """The file of a module in place; None for what is installed, not Python, or no module."""
    if name == "__main__":
        file = getattr(sys.modules[name], "__file__", None)
        return Path(file) if file and Path(file).suffix == ".py" and not _installed(Path(file)) else None
    top, _, below = name.partition(".")
    place = _place(top, tuple(sys.path))
    if place is None:
        return None
    if not below and place.is_file():
        return place
    # As strings: of an iteration's stages there are tens of thousands to look for.
    folder = f"{place}{os.sep}{below.replace('.', os.sep)}" if below else str(place)
    for file in (f"{folder}{os.sep}__init__.py", f"{folder}.py"):
        if os.path.isfile(file):  # noqa: PTH113
            return Path(file)
    return None


def _offered(name: str) -> list[str]:
    """The module behind what a package offers by its stub, and loads when it is asked for (lazy_loader)."""
    package, _, attribute = name.rpartition(".")
    file = _file(package) if package else None
    stub = file.with_name("__init__.pyi") if file and file.name == "__init__.py" else None
    if stub is None or not stub.is_file():
        return []
    return [
        f"{package}.{node.module}"
        for node in ast.parse(stub.read_bytes()).body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        if any((alias.asname or alias.name) == attribute for alias in node.names)
    ]


@lru_cache(maxsize=1024)
def _place(top: str, path: tuple[str, ...]) -> Path | None:
    """The folder or the file of a top-level module in place; None for any other."""
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return None
    spec = PathFinder.find_spec(top)
    found = spec and (next(iter(spec.submodule_search_locations or ()), None) or spec.origin)
    return Path(found) if found and not _installed(Path(found)) else None


def _installed(file: Path) -> bool:
    """Whether a file lies where Python or pip put it."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (
        any(file.is_relative_to(folder) for folder in folders)
        or {"site-packages", "dist-packages"} & set(file.parts) != set()
    )


@lru_cache(maxsize=4096)
def _read(file: Path, time: int, name: str) -> _Module:
    """Parse a file, unless it was parsed since it was last written."""
    tree = ast.parse(file.read_bytes(), file)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    _without_words(tree)
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], imports)


def _without_words(node: ast.AST) -> None:
    """Remove statements that are only a string, at any depth."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        statements = getattr(node, field, None)
        if isinstance(statements, list):
            statements[:] = [one for one in statements if not _is_words(one)]
            for one in statements:
                _without_words(one)


def _is_words(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that the statements of a tree may import: of ``from a import b``, both ``a`` and ``a.b``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package.split(".")[: -child.level + 1 or None] if child.level else []
            source = ".".join([*base, *([child.module] if child.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _imports(ast.Module([other], []), package)
        elif isinstance(child, ast.FunctionDef) and child.name == "__getattr__" and isinstance(node, ast.Module):
            continue  # what a package hands out when it is asked for, to whoever names it
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _imports(child, package)


def _digest_of_class(cls: object) -> str:
    """Digest a class of an interactive session, which has no file, by the code of its functions."""
    parts: list[str] = []

    def add(code: types.CodeType) -> None:
        parts.append(f"{code.co_name}{code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}")
        for step in dis.get_instructions(code):  # of constants those that are used, which a docstring is not
            if isinstance(step.argval, types.CodeType):
                add(step.argval)
            else:
                parts.append(f"{step.opname} {step.argval!r}")

    for owner in getattr(cls, "__mro__", ()):
        if owner.__module__ == "__main__":
            for name, member in sorted(vars(owner).items()):
                function = getattr(member, "__func__", member)
                if isinstance(function, types.FunctionType):
                    add(function.__code__)
                    parts.append(repr((function.__defaults__, function.__kwdefaults__)))
                elif not name.startswith("__"):
                    parts.append(f"{name}={member!r}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
