"""The order of modules and rooms: no imports in a circle, but for those named here, which are to go."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import moonlib

PACKAGE = Path(moonlib.__file__).parent

CIRCLES = [
    {"moonlib.iteration", "moonlib.points"},
]
"""Of modules, with imports inside of functions and for type checkers."""

CIRCLES_OF_ROOMS = [
    {"data", "encoders", "negatives", "representations"},
    {"iteration", "points"},
]
"""Of folders, and of the loose modules beside them."""


@cache
def modules() -> dict[str, Path]:
    """Every module's file by its name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Which modules of moonlib a module imports, anywhere in it."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = {module_of(each) for each in named if each.startswith("moonlib.")} - {name, "moonlib"}
    return found


def module_of(name: str) -> str:
    """The module that a name is in, which may be a module itself."""
    while name not in modules():
        name = name.rpartition(".")[0]
    return name


def room(module: str) -> str:
    """The folder that a module is in, or its own name where it lies beside them."""
    return module.split(".")[1] if "." in module else "moonlib"


def circles(graph: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """The largest sets of nodes each of which leads to each other: what is reached both ways."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for node in graph.get(ahead.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    ahead.append(node)
        return seen

    reach = {node: reached(node) for node in graph}
    found = {frozenset(other for other in reach[node] if node in reach.get(other, ())) for node in graph}
    return sorted((set(each) for each in found if len(each) > 1), key=sorted)


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}
    assert circles(graph) == [{"a", "b", "c"}]


def test_modules_import_in_one_direction() -> None:
    assert circles(imports()) == sorted(CIRCLES, key=sorted), "a new circle, or one less: CIRCLES only ever shrinks"


def test_rooms_import_in_one_direction() -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in imports().items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others)
    assert circles({name: others - {name} for name, others in rooms.items()}) == sorted(CIRCLES_OF_ROOMS, key=sorted)


def test_nothing_imports_the_command_line() -> None:
    above = {"cli", "commands", "__main__", "docs"}
    breaches = {(module, other) for module, others in imports().items() for other in others if room(other) in above}
    assert {module for module, _ in breaches if room(module) not in above} == set()
