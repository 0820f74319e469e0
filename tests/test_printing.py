"""Library functions return values and log; the command line prints."""

from __future__ import annotations

import ast
from pathlib import Path

import moonlib

PACKAGE = Path(moonlib.__file__).parent
PRINTERS = {"cli", "runs", "testing", "docs", "system/terminal.py", "system/console.py"}
"""Rooms and files that may print. A run prints its stages while they go."""


def prints(tree: ast.AST) -> list[int]:
    """Lines that call `print`, `say` or the ``print`` of something that is called a console or a terminal."""
    found = []
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in ("print", "say"):
            found.append(called.lineno)
        elif isinstance(called, ast.Attribute) and called.attr in ("print", "print_json", "log"):
            of = ast.unparse(called.value).lower()
            if "console" in of or "terminal" in of or of in ("rich", "bars"):
                found.append(called.lineno)
        elif isinstance(called, ast.Attribute) and ast.unparse(called) in ("sys.stdout.write", "sys.stderr.write"):
            found.append(called.lineno)
    return found


def test_prints_are_found() -> None:
    source = "print(1)\nsay(2)\nself.console.print(3)\nTerminal(120).print(4)\nlog.info(5)\nsys.stderr.write(6)\nlog(7)"
    assert prints(ast.parse(source)) == [1, 2, 3, 4, 6]


def test_only_the_command_line_and_a_run_print() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in PRINTERS and name.partition("/")[0] not in PRINTERS:
            found += [f"moonlib/{name}:{line}" for line in prints(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found, "return what is to be told, or log it; moonlib.cli prints"
