"""Code that is edited in place: what changes its digest, and what does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moonlib.system.code_digest import code_digest, imported_by

LOSS = """
import math

from own_parts.margin import margin


class Own:
    def __call__(self, x):
        return max(0, margin() - x)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules in place: a loss, what it imports from a package, and what it does not."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_loss.py").write_text(LOSS)
    parts = tmp_path / "own_parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("")
    (parts / "margin.py").write_text("from . import unit\n\ndef margin():\n    return unit.ONE\n")
    (parts / "unit.py").write_text("ONE = 1\n")
    (parts / "other.py").write_text("TWO = 2\n")
    return tmp_path


def digest(path: str = "own_loss.Own") -> dict[str, str]:
    return code_digest([path])


def test_it_covers_what_is_imported_and_names_the_top_level_modules(site: Path) -> None:
    assert set(digest()) == {"own_loss", "own_parts"}
    assert all(len(value) == 16 for value in digest().values())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Own:", "# what a class\nclass Own:"),
        ("class Own:\n", 'class Own:\n    """Docstring."""\n'),
        ("        return", '        "words in between"\n\n        return'),
        ("max(0, margin() - x)", "max(\n            0,\n            margin() - x,\n        )"),
        ("\nimport math", '"""Of the module."""\nimport math'),
    ],
)
def test_words_and_layout_change_nothing(old: str, new: str, site: Path) -> None:
    before = digest()
    assert old in LOSS
    (site / "own_loss.py").write_text(LOSS.replace(old, new))
    assert digest() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("margin() - x", "margin() + x"),
        ("max(0,", "max(0.0,"),
        ("def __call__(self, x):", "def __call__(self, x: float = 1):"),
        ("        return", '        print("a string that is used")\n        return'),
    ],
)
def test_another_formula_changes_it(old: str, new: str, site: Path) -> None:
    before = digest()
    (site / "own_loss.py").write_text(LOSS.replace(old, new))
    after = digest()
    assert after["own_loss"] != before["own_loss"] and after["own_parts"] == before["own_parts"]


@pytest.mark.parametrize("name", ["margin.py", "unit.py", "__init__.py"])
def test_what_is_imported_in_turn_changes_it(name: str, site: Path) -> None:
    before = digest()
    with (site / "own_parts" / name).open("a") as file:
        file.write("MORE = 1\n")
    assert digest()["own_parts"] != before["own_parts"]


def test_what_is_not_imported_changes_nothing(site: Path) -> None:
    before = digest()
    (site / "own_parts/other.py").write_text("TWO = 3\n")
    assert digest() == before


def test_imports_within_functions_count_and_those_for_type_checkers_do_not(site: Path) -> None:
    lazily = LOSS.replace("        return", "        from own_parts import other\n\n        return")
    typed = LOSS.replace(
        "\nimport math", "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import own_parts.other\n"
    )
    for text, counts in ((lazily, True), (typed, False)):
        (site / "own_loss.py").write_text(text)
        (site / "own_parts/other.py").write_text("TWO = 2\n")
        before = digest()
        (site / "own_parts/other.py").write_text("TWO = 4\n")
        assert (digest() != before) is counts, text


def test_what_a_package_hands_out_when_asked_is_not_followed(site: Path) -> None:
    (site / "own_parts/__init__.py").write_text(
        "def __getattr__(name):\n    from own_parts import other\n    return other\n"
    )
    before = digest()
    (site / "own_parts/other.py").write_text("TWO = 3\n")
    assert digest() == before


@pytest.mark.parametrize("path", ["own_loss.Own", "own_parts.margin"])
def test_what_a_package_offers_by_its_stub_is_followed_where_it_is_named(path: str, site: Path) -> None:
    (site / "own_parts/__init__.pyi").write_text("from .margin import margin\nfrom .other import TWO\n")
    (site / "own_parts/__init__.py").write_text("import lazy_loader\n")
    (site / "own_loss.py").write_text(LOSS.replace("own_parts.margin", "own_parts"))
    before = digest(path)
    (site / "own_parts/other.py").write_text("TWO = 3\n")
    assert digest(path) == before
    (site / "own_parts/unit.py").write_text("ONE = 2\n")
    assert digest(path) != before


def test_of_installed_distributions_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "own_installed.py").write_text("class Own: ...\n")
    monkeypatch.syspath_prepend(installed)
    assert code_digest(["own_installed.Own", "torch.nn.Linear", "json.JSONDecoder", "no_such.Thing"]) == {}


def test_a_class_of_an_interactive_session_is_told_by_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def define(body: str) -> str:
        namespace: dict[str, object] = {"__name__": "__main__"}
        code = compile(f"class Mine:\n{body}", "<stdin>", "exec")
        monkeypatch.setattr(sys.modules["__main__"], "Mine", _made(code, namespace), raising=False)
        return code_digest(["__main__.Mine"])["__main__"]

    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    plain = define("    def f(self, x):\n        return x + 1\n")
    assert define("\n\n    def f(self, x):\n        'Words.'\n        return x + 1\n") == plain
    assert define("    def f(self, x):\n        return x + 2\n") != plain
    assert define("    def f(self, x=3):\n        return x + 1\n") != plain


def _made(code: object, namespace: dict[str, object]) -> object:
    exec(code, namespace)  # type: ignore[arg-type]
    return namespace["Mine"]


def test_imported_names_are_those_of_the_module_itself() -> None:
    import moonlib.encoders.timm_tower

    assert moonlib.encoders.timm_tower.TimmTower
    found = imported_by(["moonlib.encoders.timm_tower.TimmTower"])
    assert "timm" in found and "transformers" not in found
