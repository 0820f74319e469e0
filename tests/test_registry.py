from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from moonlib import registry
from moonlib.losses.loss import Loss
from moonlib.registry import RegistryError

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
    numbers = itertools.count()

    def install(distribution: str, source: str, **names: str) -> str:
        module = f"{distribution.replace('-', '_')}_{tmp_path.name.replace('-', '_')}_{next(numbers)}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = [f"{name} = {module}:{path}" for name, path in names.items()]
        (info / "entry_points.txt").write_text("\n".join(["[moonlib.losses]", *lines]))
        importlib.invalidate_caches()
        return module

    return install


def test_every_kind_with_a_base_class_finds_its_own_base() -> None:
    for kind, base in registry.KINDS.items():
        if base is not None:
            module, _, name = base.partition(":")
            assert registry.kind_of(getattr(importlib.import_module(module), name)) == kind


def test_moonlibs_own_components_are_sound() -> None:
    results = {
        component: error for component, error in registry.check() if component.distribution.startswith("moonlib ")
    }
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
    with pytest.raises(RegistryError, match=r"unknown losses/goood; did you mean 'good' \(moonlib-good 1\.2\)\?"):
        registry.get("losses", "goood")
    with pytest.raises(RegistryError, match=r"unknown losses/xyz; known: .*'info_nce' \(moonlib "):
        registry.get("losses", "xyz")
    with pytest.raises(RegistryError, match="unknown kind 'loses'; did you mean 'losses'"):
        registry.components("loses")


def test_a_miss_is_not_remembered(install: Install) -> None:
    with pytest.raises(RegistryError, match="unknown"):
        registry.get("losses", "good")
    install("moonlib-good", GOOD, good="Good")
    assert registry.get("losses", "good").__name__ == "Good"


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
        ("class Good: ...", "does not derive from moonlib.losses.loss.Loss"),
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
    with pytest.raises(RegistryError, match=r"fusions/local does not derive from moonlib\.fusion\.fusion\.Fusion"):
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
