"""`moonlib recipe` where the plugin of a shipped recipe is not installed, as it is with the wheel alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moonlib.cli import main
from moonlib.config.merge import shipped
from moonlib.registry import registry

REMEDY = (
    "sources/emoji comes with the plugin moonlib-emoji, which is not installed; in a checkout of moonlib: "
    "pip install ./plugins/moonlib-emoji"
)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moonlib without any plugin."""
    found = registry._installed()
    ours = [each for each in found.components if each.distribution.startswith("moonlib-embedding ")]
    monkeypatch.setattr(registry, "_installed", lambda: replace(found, components=ours))


@pytest.mark.usefixtures("alone")
def test_a_list_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    lacking = {lines[index - 2].split()[0] for index, line in enumerate(lines) if line.strip() == REMEDY}
    assert lacking == {name for name in shipped() if name.startswith("data/emoji")} and len(lacking) > 4


@pytest.mark.usefixtures("alone")
def test_a_check_of_all_skips_it_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moonlib.config import recipe

    monkeypatch.setattr(recipe, "shipped", lambda: {"iter1": None, "data/emoji": None})
    assert main(["recipe", "check"]) == 0
    checked, skipped = capsys.readouterr().out.splitlines()
    assert checked == "ok: iter1"
    assert skipped.startswith("skipped: ") and skipped.endswith(f"emoji.yaml: data: {REMEDY}")


@pytest.mark.usefixtures("alone")
def test_one_that_is_asked_for_by_name_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "check", "data/emoji"]) == 1
    assert REMEDY in capsys.readouterr().out
    assert main(["fit", "--config", "data/emoji"]) != 0
    assert REMEDY in capsys.readouterr().err
