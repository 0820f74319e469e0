"""The architecture: rooms lie on one another as CONTRIBUTING lists them, and imports lead down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import moonlib

PACKAGE = Path(moonlib.__file__).parent

LOOSE = {"__init__", "__main__", "compat"}
"""Modules of no room. `moonlib.compat` must come before whatever it makes importable."""


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
    """Which modules of moonlib a module imports, anywhere in it: within functions and for type checkers too.

    What a package's stub offers for import is no import: it is loaded when it is asked for.
    """
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
        named = {each for each in named if each.startswith("moonlib.")}
        found[name] = {module for each in named for module in module_of(each)} - {name, "moonlib"}
    return found


def module_of(name: str) -> set[str]:
    """The module that a name is in, which may be a module itself; of what a room re-exports, the module behind it."""
    owner, attribute = name, ""
    while owner not in modules():
        owner, _, attribute = owner.rpartition(".")
    return {owner, offered(owner).get(attribute, owner)}


@cache
def offered(package: str) -> dict[str, str]:
    """What a package's stub offers: the module of each name."""
    stub = modules()[package].with_name("__init__.pyi")
    if modules()[package].name != "__init__.py" or not stub.is_file():
        return {}
    nodes = ast.parse(stub.read_text(encoding="utf-8")).body
    return {
        alias.name: f"{package}.{node.module}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def room(module: str) -> str:
    """The folder that a module is in, or its own name where it lies beside them."""
    return module.split(".")[1] if "." in module else "__init__"


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


@cache
def listed() -> dict[str, str]:
    """The rooms of CONTRIBUTING's table with what they are for, the lowest first."""
    text = PACKAGE.parent.joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `moonlib/(\w+)/` \| (.*) \|$", text, re.MULTILINE))


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}
    assert circles(graph) == [{"a", "b", "c"}]


def test_what_a_room_offers_counts_as_an_import_of_the_module_behind_it() -> None:
    assert module_of("moonlib.losses.InfoNCE") == {"moonlib.losses", "moonlib.losses.info_nce"}
    assert module_of("moonlib.losses.loss.Loss") == {"moonlib.losses.loss"}


def test_every_room_is_listed_with_what_its_package_says_of_itself() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if any(path.rglob("*.py"))} - {"docs"}
    assert set(listed()) == rooms | {"docs"}
    for name in sorted(rooms):
        said = (import_module(f"moonlib.{name}").__doc__ or "").partition("\n")[0]
        assert f"{listed()[name]}" == said, f"CONTRIBUTING and moonlib/{name}/__init__.py differ"


def test_few_modules_have_no_room() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


def test_no_module_leads_back_to_itself() -> None:
    assert circles(imports()) == []


def test_a_room_imports_only_rooms_below_it() -> None:
    order = ["compat", *listed(), "__main__"]
    up = {
        f"{module} imports {other}"
        for module, others in imports().items()
        if room(module) != "__init__"
        for other in others
        if order.index(room(other)) > order.index(room(module))
    }
    assert up == set()


def test_only_main_imports_the_command_line() -> None:
    importers = {module for module, others in imports().items() if any(room(other) == "cli" for other in others)}
    assert {room(module) for module in importers} == {"__main__", "cli", "docs"}


def test_what_rooms_offer_is_there() -> None:
    packages = [name for name, path in modules().items() if path.with_name("__init__.pyi").is_file() and offered(name)]
    assert len(packages) > 20
    for name in packages:
        package = import_module(name)
        assert set(offered(name)) <= set(package.__all__), name
        hidden = [each for each in offered(name) if f"{name}.{each}" in modules()]
        assert not hidden, f"{name}: importing the module would hide what the room offers"
        for attribute in offered(name):
            assert hasattr(package, attribute), f"{name}.{attribute}"


def floors() -> tuple[int, int, int, int]:
    """Rooms, floors (the longest way down), circles of modules and of rooms."""
    graph: dict[str, set[str]] = {}
    for module, others in imports().items():
        graph.setdefault(room(module), set()).update(room(other) for other in others)
    graph = {name: others - {name, "__init__"} for name, others in graph.items() if name != "__init__"}
    of_rooms = circles(graph)

    @cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in graph.get(name, ())), default=0)

    return len(graph), max(map(height, graph)) if not of_rooms else 0, len(circles(imports())), len(of_rooms)


if __name__ == "__main__":
    print("rooms {}, floors {}, circles of modules {}, circles of rooms {}".format(*floors()))
