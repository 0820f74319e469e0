from __future__ import annotations

import importlib
import itertools
import re
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from torch import Tensor

from moonlib.config import recipe
from moonlib.losses.loss import Loss
from moonlib.registry import RegistryError, deprecation, registry
from moonlib.system.versions import DISTRIBUTION

Install = Callable[..., str]

GOOD = """
from moonlib.losses.loss import Loss


class Good(Loss):
    \"\"\"A loss of a third party.\"\"\"

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()

    def forward(self, scores, positive, ignore):
        return scores.sum(1)
"""


class Local(Loss):
    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return scores.sum(1)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one module, as pip leaves it; returns the module's name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(deprecation, "_told", set())
    numbers = itertools.count()

    def install(distribution: str, source: str, groups: dict[str, dict[str, str]] | None = None, **names: str) -> str:
        module = f"{distribution.replace('-', '_')}_{tmp_path.name.replace('-', '_')}_{next(numbers)}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = [f"{name} = {module}:{path}" for name, path in names.items()]
        for group, points in (groups or {}).items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(["[moonlib.losses]", *lines]))
        importlib.invalidate_caches()
        return module

    return install


def test_every_kind_with_a_base_class_finds_its_own_base() -> None:
    for kind, base in registry.KINDS.items():
        module, _, name = base.partition(":")
        found = getattr(importlib.import_module(module), name)
        assert registry.kind_of(found) == kind
        room, _, name = registry.base_class(kind).rpartition(".")
        assert getattr(importlib.import_module(room), name) is found, "plugins import it from its room"


def test_a_plugin_that_moonlib_has_become_is_left_out(install: Install) -> None:
    install("moonlib-openclip", "raise AssertionError('imported')", image_towers_openclip="Tower")
    listed = [component for component in registry.components("image_towers") if component.name == "openclip"]
    assert [component.value for component in listed] == ["moonlib.encoders.openclip.image_tower:OpenClipImage"]
    ((distribution, remedy),) = registry.superseded()
    assert distribution.startswith("moonlib-openclip ")
    assert "pip uninstall moonlib-openclip" in remedy and "pip install 'moonlib-embedding[openclip]'" in remedy
    assert not any("openclip" in problem for problem in registry.problems())


def test_moonlibs_own_components_are_sound() -> None:
    results = {found: error for found, error in registry.check() if found.distribution.startswith(f"{DISTRIBUTION} ")}
    assert {str(component) for component in results} >= {"losses/info_nce", "encoders/dual", "stages/represent"}
    assert not any(results.values()), results


def test_a_plugin_is_listed_without_import_and_imported_on_get(install: Install) -> None:
    module = install("moonlib-good", GOOD, good="Good")
    (component,) = [component for component in registry.components("losses") if component.name == "good"]
    assert component.distribution == "moonlib-good 1.2"
    assert component.value == f"{module}:Good"
    assert module not in sys.modules
    assert registry.get("losses", "good").__name__ == "Good"


def test_a_miss_answers_with_close_matches_and_their_distributions(install: Install) -> None:
    install("moonlib-good", GOOD, good="Good")
    with pytest.raises(RegistryError, match=r"unknown losses/goood; did you mean 'good' \(moonlib-good 1\.2\)"):
        registry.get("losses", "goood")
    with pytest.raises(RegistryError, match=r"unknown losses/xyz; known: .*'info_nce' \(moonlib-embedding "):
        registry.get("losses", "xyz")
    with pytest.raises(RegistryError, match="unknown kind 'loses'; did you mean 'losses'"):
        registry.components("loses")


def test_a_miss_is_not_remembered(install: Install) -> None:
    with pytest.raises(RegistryError, match="unknown"):
        registry.get("losses", "good")
    install("moonlib-good", GOOD, good="Good")
    assert registry.get("losses", "good").__name__ == "Good"


def test_metadata_that_has_not_changed_is_not_read_again(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("moonlib-good", GOOD, good="Good")
    before = registry.components()
    monkeypatch.setattr(PathDistribution, "read_text", lambda self, name: pytest.fail(f"{name} is read again"))
    assert registry.components() == before
    registry.problems().append(("moonlib-good", "what a caller does with a list is its own affair"))
    assert registry.problems() == []


@pytest.mark.parametrize("file", ["entry_points.txt", "METADATA"])
def test_metadata_that_is_edited_in_place_is_read_again(install: Install, tmp_path: Path, file: str) -> None:
    install("moonlib-good", GOOD, good="Good")
    assert str(registry.find("losses", "good").distribution) == "moonlib-good 1.2"
    path = tmp_path / "moonlib_good-1.2.dist-info" / file
    path.write_text(path.read_text().replace("1.2", "1.10").replace("good =", "better ="))
    known = {(component.name, component.distribution) for component in registry.components("losses")}
    expected = {"entry_points.txt": ("better", "moonlib-good 1.2"), "METADATA": ("good", "moonlib-good 1.10")}
    assert expected[file] in known


def test_two_claims_on_a_name_are_an_error_of_that_name_only(install: Install) -> None:
    one = install("moonlib-one", GOOD, good="Good", fine="Good")
    other = install("moonlib-other", GOOD, good="Good")
    with pytest.raises(RegistryError) as caught:
        registry.get("losses", "good")
    assert "moonlib-one 1.2" in str(caught.value) and one in str(caught.value)
    assert "moonlib-other 1.2" in str(caught.value) and other in str(caught.value)
    assert registry.get("losses", "fine").__name__ == "Good"
    rivals = registry.duplicates(registry.components())[("losses", "good")]
    assert [rival.distribution for rival in rivals] == ["moonlib-one 1.2", "moonlib-other 1.2"]
    claimed = [component.name for component, error in registry.check() if error]
    assert claimed == ["good", "good"]


def test_a_broken_plugin_breaks_only_itself_and_tells_why(install: Install, tmp_path: Path) -> None:
    module = install("moonlib-broken", "1 / 0", bad="Good")
    assert "bad" in [component.name for component in registry.components("losses")]
    assert registry.get("losses", "info_nce").__name__ == "InfoNCE"
    with pytest.raises(RegistryError, match=r"losses/bad of moonlib-broken 1\.2 .* ZeroDivisionError") as caught:
        registry.get("losses", "bad")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [str(component) for component, error in registry.check() if error] == ["losses/bad"]

    (tmp_path / f"{module}.py").write_text(GOOD + "# repaired\n")
    importlib.invalidate_caches()
    assert registry.get("losses", "bad").__name__ == "Good"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def Good(): ...", "is not a class"),
        ("class Good: ...", "does not derive from moonlib.losses.Loss"),
        ("class Better: ...", "AttributeError"),
    ],
)
def test_an_entry_point_must_be_a_class_of_its_kind(install: Install, source: str, problem: str) -> None:
    install("moonlib-odd", source, odd="Good")
    with pytest.raises(RegistryError, match=problem):
        registry.get("losses", "odd")


def test_register_serves_this_process_and_may_run_again(install: Install) -> None:
    assert registry.register("losses", "local")(Local) is Local
    registry.register("losses", "local")(Local)
    assert registry.get("losses", "local") is Local
    assert registry.find("losses", "local").distribution == "this process"


def test_register_refuses_a_name_that_is_taken_and_a_class_of_no_kind(install: Install) -> None:
    with pytest.raises(RegistryError, match=r"losses/info_nce is taken by moonlib\.losses\.info_nce:InfoNCE"):
        registry.register("losses", "info_nce")(Local)
    with pytest.raises(RegistryError, match=r"fusions/local does not derive from moonlib\.fusion\.Fusion"):
        registry.register("fusions", "local")(Local)


def test_describe_tells_signature_docstring_file_and_distribution(install: Install) -> None:
    module = install("moonlib-good", GOOD, good="Good")
    found = registry.describe("losses", "good")
    assert found.signature == "Good(margin: float = 0.2)"
    assert found.docstring == "A loss of a third party."
    assert found.location.endswith(f"{module}.py:5")
    assert found.component.distribution == "moonlib-good 1.2"


def test_kind_of_a_class_is_that_of_its_base() -> None:
    assert registry.kind_of(Local) == "losses"
    assert registry.kind_of(int) is None


def test_an_exit_at_import_is_an_error_like_others_and_ctrl_c_is_not(install: Install) -> None:
    install("moonlib-exit", "import sys; sys.exit(3)", leaving="Good")
    install("moonlib-base", "class Odd(BaseException): ...\nraise Odd('very')", odd="Good")
    install("moonlib-interrupted", "raise KeyboardInterrupt", interrupted="Good")
    with pytest.raises(RegistryError, match="SystemExit: 3"):
        registry.get("losses", "leaving")
    with pytest.raises(RegistryError, match="Odd: very"):
        registry.get("losses", "odd")
    with pytest.raises(KeyboardInterrupt):
        registry.get("losses", "interrupted")


def test_what_a_plugin_prints_at_import_stays_out_of_stdout(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("moonlib-chatty", "print('hello')\n" + GOOD, chatty="Good")
    assert registry.get("losses", "chatty").__name__ == "Good"
    out, err = capsys.readouterr()
    assert out == "" and err == "hello\n"


@pytest.mark.parametrize("value", ["", "no colon", "module:", ":Class", "a..b:C", "a-b:C", "m:C()"])
def test_an_entry_point_that_names_no_class_is_told_so(install: Install, value: str) -> None:
    install("moonlib-typo", GOOD, {"moonlib.fusions": {"typo": value}})
    with pytest.raises(RegistryError, match=f"expected module:Class, its entry point says '{re.escape(value)}'"):
        registry.get("fusions", "typo")


def test_metadata_that_cannot_be_read_spoils_nothing_else(install: Install, tmp_path: Path) -> None:
    install("moonlib-good", GOOD, good="Good")
    install("moonlib-line", GOOD, fine="Good")
    with (tmp_path / "moonlib_line-1.2.dist-info/entry_points.txt").open("a") as file:
        file.write("\na line without an equals sign")
    install("moonlib-bytes", GOOD, fine="Good")
    (tmp_path / "moonlib_bytes-1.2.dist-info/entry_points.txt").write_bytes(b"[moonlib.losses]\nx = \xff")
    install("moonlib-nameless", GOOD, fine="Good")
    (tmp_path / "moonlib_nameless-1.2.dist-info/METADATA").unlink()
    install("moonlib-kind", GOOD, {"moonlib.loses": {"x": "y:Z"}})
    install("moonlib-renaming", GOOD, {"moonlib.renamed.2.0": {"losses.old": "fusions.new", "old": "new"}})
    assert registry.get("losses", "good").__name__ == "Good"
    assert "fine" not in [component.name for component in registry.components("losses")]
    problems = registry.problems()
    assert len(problems) == 6
    text = " ".join(f"{distribution}: {problem}" for distribution, problem in problems)
    for part in ("moonlib_line", "moonlib_bytes", "moonlib_nameless"):
        assert re.search(rf"{part}\S*: its metadata cannot be read", text.replace("moonlib-line 1.2", "moonlib_line"))
    assert "moonlib-kind 1.2: entry-point group moonlib.loses is no kind; did you mean moonlib.losses?" in text
    assert 'moonlib-renaming 1.2: renaming old = new: expected "losses.old_name" = "losses.new_name"' in text


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        ([], None),
        ([2], None),
        ([2, 7], None),
        ([7], r"is made for plugin API 7, moonlib \S+ has API 3: upgrade moonlib, or install an older release"),
        ([0], r"is made for plugin API 0, moonlib \S+ has API 3: upgrade the plugin, or install an older moonlib"),
        (["new"], r"is made for plugin API new, which is no whole number"),
    ],
)
def test_a_plugin_for_another_api_says_so_where_it_is_used(
    install: Install, versions: list[object], problem: str | None
) -> None:
    module = install("moonlib-api", GOOD, {"moonlib.api": {str(v): "moonlib_api" for v in versions}}, good="Good")
    component = registry.find("losses", "good")
    assert component.api == tuple(map(str, versions))
    if problem is None:
        assert component.mismatch is None
        assert registry.get("losses", "good").__name__ == "Good"
    else:
        with pytest.raises(RegistryError, match=r"losses/good of moonlib-api 1\.2 " + problem):
            registry.get("losses", "good")
        assert module not in sys.modules


def test_a_renamed_component_is_found_under_its_old_name_with_one_warning(install: Install) -> None:
    groups = {"moonlib.renamed.2.0": {"losses.ancient": "losses.old", "losses.old": "losses.good"}}
    install("moonlib-good", GOOD, groups, good="Good")
    with pytest.warns(FutureWarning) as told:
        assert registry.get("losses", "old").__name__ == "Good"
        assert registry.get("losses", "old").__name__ == "Good"
        assert registry.get("losses", "ancient").__name__ == "Good"
    assert [str(warning.message) for warning in told] == [
        "losses/old is called losses/good now; moonlib-good 1.2 knows the old name until its release 2.0",
        "losses/ancient is called losses/old now; moonlib-good 1.2 knows the old name until its release 2.0",
    ]
    assert [str(renaming) for renaming in registry.renamings()] == [
        "losses/ancient -> losses/old",
        "losses/old -> losses/good",
    ]
    assert "old" not in [component.name for component in registry.components("losses")]


def test_names_that_were_renamed_in_a_circle_are_unknown(install: Install) -> None:
    groups = {"moonlib.renamed.2.0": {"losses.one": "losses.two", "losses.two": "losses.one"}}
    install("moonlib-good", GOOD, groups, good="Good")
    with pytest.warns(FutureWarning), pytest.raises(RegistryError, match="unknown losses/one"):
        registry.get("losses", "one")


def test_a_component_that_took_an_old_name_has_it(install: Install) -> None:
    install("moonlib-good", GOOD, {"moonlib.renamed.2.0": {"losses.info_nce": "losses.good"}}, good="Good")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.get("losses", "info_nce").__name__ == "InfoNCE"


MOVED = """
from moonlib.registry.deprecation import renamed_arguments, renamed_attributes
from moonlib.losses.info_nce import InfoNCE


class Good(InfoNCE):
    @renamed_arguments("2.0", tau="temperature")
    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__(temperature)


__getattr__ = renamed_attributes(__name__, "2.0", Bad="moonlib.losses.info_nce:InfoNCE")
"""


def test_a_recipe_with_old_names_keeps_working(install: Install, tmp_path: Path) -> None:
    module = install("moonlib-good", MOVED, {"moonlib.renamed.2.0": {"losses.old": "losses.good"}}, good="Good")
    (tmp_path / "base.yaml").write_text(
        "extends: iter1\nstages: {pretrain: {module: {init_args: {"
        "loss: {class_path: good, init_args: {temperature: 0.5}}}}}}"
    )
    (tmp_path / "mine.yaml").write_text(
        "extends: base.yaml\nstages: {pretrain: {module: {init_args: {loss: {class_path: old}}}}}"
    )
    key = "--stages.pretrain.module.init_args.loss"
    with pytest.warns(FutureWarning) as told:
        found = recipe.load(tmp_path / "mine.yaml").config["stages"]["pretrain"]["module"]["init_args"]["loss"]
        assert found == {"class_path": f"{module}.Good", "init_args": {"temperature": 0.5}}
        loss = recipe.load("iter1", [key, "{class_path: old, init_args: {tau: 0.3}}"]).stages["pretrain"].written
        assert loss["module"]["init_args"]["loss"]["init_args"] == {"temperature": 0.3}
        recipe.load("iter1", [key, f"{module}.Bad"])
    messages = [str(warning.message) for warning in told if warning.category is FutureWarning]
    assert len(messages) == 3
    assert "argument 'tau' is called 'temperature' now; the old name works until release 2.0" in messages
    assert f"{module}.Bad is moonlib.losses.info_nce.InfoNCE now; the old name works until release 2.0" in messages
    with pytest.raises(recipe.RecipeError, match="'tau' is called 'temperature' now, and both are given"):
        recipe.load("iter1", [key, "{class_path: good, init_args: {tau: 0.3, temperature: 0.2}}"])
    with pytest.raises(recipe.RecipeError, match=r"moonlib_good\S+\.Worse cannot be imported: AttributeError"):
        recipe.load("iter1", [key, f"{module}.Worse"])
