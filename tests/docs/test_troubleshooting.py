"""The messages that the troubleshooting page explains are those that moonlib prints."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import moonlib

PACKAGE = Path(moonlib.__file__).parent
PAGE = (PACKAGE / "docs/pages/troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)
OTHERS = {"operator torchvision::nms does not exist"}
"""What other libraries print."""


def texts(module: Path) -> list[str]:
    """The strings of a module as a user meets them, each value that is filled in as a line of its own."""
    found = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\x00" for part in node.values]
            found.append("".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.fixture(scope="module")
def printed() -> list[str]:
    modules = [path for path in PACKAGE.rglob("*.py") if "docs" not in path.relative_to(PACKAGE).parts]
    return [text for module in modules for text in texts(module)]


def test_there_are_headings() -> None:
    assert len(HEADINGS) > 20
    assert len(set(HEADINGS)) == len(HEADINGS)


@pytest.mark.parametrize("heading", [heading for heading in HEADINGS if heading not in OTHERS])
def test_a_message_is_one_of_moonlib_s(heading: str, printed: list[str]) -> None:
    pattern = re.compile(".*".join(map(re.escape, heading.split("…"))), re.DOTALL)
    assert any(pattern.search(text) for text in printed)
