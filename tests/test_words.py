"""The words of code and messages: those that a user would search for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import moonlib

PACKAGE = Path(moonlib.__file__).parent

WORDS = {
    r"\b(taken|takes?|taking) over\b|\btakes \w+'s (\w+ )?over\b": "reused, or replaced",
    r"\bfor want of (memory|space)\b": "out of memory",
    r"\bby heart\b": "overfit, or memorised",
    r"\b(command|call) continues\b": "resumes",
}
"""Private idiom, and the field's own words in its place."""


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every string of the code, its docstrings among them, and every page of the documentation, by place."""
    found = {str(page): page.read_text(encoding="utf-8") for page in PACKAGE.joinpath("docs/pages").glob("*.md")}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found[f"{path}:{node.lineno}"] = node.value
    return found


@pytest.mark.parametrize("idiom", WORDS)
def test_messages_and_documentation_say_what_users_search_for(idiom: str, texts: dict[str, str]) -> None:
    places = [place for place, text in texts.items() if re.search(idiom, " ".join(text.split()))]
    assert not places, f"say {WORDS[idiom]}"


def test_docstrings_name_the_thing(texts: dict[str, str]) -> None:
    """A docstring begins with a verb, or with a noun that names the thing, and not with "What"."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    places = [
        f"{path}:{getattr(node, 'lineno', 1)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, documented) and (ast.get_docstring(node) or "").startswith("What ")
    ]
    assert not places
