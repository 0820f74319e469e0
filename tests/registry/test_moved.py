"""Old paths of modules: each leads to the module itself, and says where it is."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path

import pytest

import moonlib
from moonlib.config.recipe import load
from moonlib.registry import deprecation
from moonlib.registry.moved import GONE_IN, MOVED, RENAMED, _Alias
from moonlib.testing.processes import run_program

PARTED = ("runner", "step", "lineage")
"""Modules of what was one."""


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the function in its place, which an import of the old module takes."""
    monkeypatch.setattr(moonlib, "export", moonlib.export)


@pytest.mark.parametrize("old", MOVED)
@pytest.mark.filterwarnings("ignore:.*the old path works until.*:FutureWarning")
def test_an_old_path_is_the_module_itself(old: str) -> None:
    new, found = import_module(MOVED[old]), import_module(old)
    if not isinstance(found, _Alias):
        pytest.skip(f"a distribution brings a {old} of its own")  # an older plugin, which moonlib leaves out
    names = [name for name in dir(new) if not name.startswith("_")]
    assert names == [name for name in dir(found) if not name.startswith("_")]
    assert all(getattr(found, name) is getattr(new, name) for name in names)


def test_a_module_within_a_package_that_moved_is_found_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deprecation, "_told", set())
    code = (
        "from moonlib.data.marketplace.source import Marketplace\nfrom moonlib.data.marketplace import source\n"
        "import moonlib.sources.marketplace.source as now\nassert Marketplace is now.Marketplace is source.Marketplace"
    )
    done = run_program(["-c", code])
    assert done.returncode == 0, done.stderr
    told = "moonlib.data.marketplace.source is moonlib.sources.marketplace.source now; the old path works until release"
    assert done.stderr.count(f"{told} {GONE_IN}") == 1


@pytest.mark.filterwarnings("ignore:.*the old (path|name) works until.*:FutureWarning")
def test_what_a_module_has_handed_to_others_is_found_under_its_old_path_too() -> None:
    old, runner, step, lineage = map(import_module, ("moonlib.iteration", *(f"moonlib.runs.{n}" for n in PARTED)))
    assert (old.StageError, old.Step, old.Lineage) == (runner.StageError, step.Step, lineage.Lineage)
    assert old.seed_of is step.seed_of and old.fit is import_module("moonlib.runs").fit


@pytest.mark.filterwarnings("ignore:.*the old path works until.*:FutureWarning")
def test_a_module_whose_name_is_a_functions_now_is_found_and_can_be_called() -> None:
    function = moonlib.export
    old = import_module("moonlib.export")
    assert old.export is function and old.load is moonlib.load
    with pytest.raises(ValueError, match="there is no such run directory"):
        moonlib.export("nowhere", "out")


@pytest.mark.filterwarnings("ignore:.*the old path works until.*:FutureWarning")
def test_what_a_module_that_was_split_offered_to_others_is_offered_by_its_room() -> None:
    old = import_module("moonlib.verbs")
    assert {"embed", "evaluate", "index", "query_vector", "search"} <= set(dir(old))
    assert {"read_array", "read_table", "read_json", "Unreadable"} <= set(dir(import_module("moonlib.artifacts")))
    assert callable(import_module("moonlib.cli").main) and import_module("moonlib.registry").get


@pytest.mark.filterwarnings("ignore:.*the old path works until.*:FutureWarning")
@pytest.mark.parametrize(("old", "name"), [(old, name) for old, names in RENAMED.items() for name in names])
def test_a_name_that_changed_with_the_move_is_found_and_told(
    old: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deprecation, "_told", set())
    module, _, new = RENAMED[old][name].partition(":")
    old_module = import_module(old)
    with pytest.warns(FutureWarning, match=f"{old}.{name} is {module}.{new} now"):
        assert getattr(old_module, name) is getattr(import_module(module), new)


def test_what_never_was_is_not_found() -> None:
    for name in ("moonlib.datta", "moonlib.data.marketplace.nothing", "moonlib.iteration.nothing"):
        with pytest.raises(ModuleNotFoundError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(name)


def test_a_recipe_may_name_a_class_by_its_old_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deprecation, "_told", set())
    recipe = tmp_path / "old.yaml"
    recipe.write_text(
        "extends: iter1\ndata: {class_path: moonlib.data.marketplace.source.Marketplace, init_args: {size: tiny}}\n"
    )
    with pytest.warns(FutureWarning, match=r"^moonlib\.data\.\S+\.Marketplace is moonlib\.sources\.\S+ now") as told:
        found = load(recipe).config["data"]
    assert len(told) == 1
    assert found == {
        "class_path": "moonlib.sources.marketplace.source.Marketplace",
        "init_args": {**load("iter1").config["data"]["init_args"], "size": "tiny"},  # the same class keeps these
    }
