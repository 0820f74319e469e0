"""What is said of the distribution is true: its name, its versions, and what pip is told to install."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import moonlib
from moonlib.registry import RegistryError
from moonlib.system import versions
from moonlib.system.versions import DISTRIBUTION, version_hint, versions_of
from moonlib.templates.new_plugin import new_plugin

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WHAT_USERS_READ = [
    *ROOT.glob("*.md"),
    *ROOT.glob("*.toml"),
    ROOT / "Makefile",
    *(path for folder in (".ci", "moonlib", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*")),
    *(path for path in (ROOT / "plugins").rglob("*") if "node_modules" not in path.parts),
]
TEXTS = (".md", ".toml", ".py", ".yaml", ".yml", ".txt", ".html", ".css", ".js", "")
# The name alone, or with extras or a version: as a word after `pip install`, or as a requirement in quotes.
BARE = r"moonlib(?=\[|[=<>~!]=|[<>]|@|[\s'\"`]|$)"
INSTALLED = re.compile(rf"pip install(?: +-\S+)*(?: +['\"]?(?!moonlib)[\w.\[\]<>=-]+['\"]?)* +['\"]?{BARE}")
REQUIRED = re.compile(
    r"""["']moonlib(\[[^\]]*\]|\s*([<>=~!]=|[<>@])[^"']*)["']|dependencies = \[[^\]]*["']moonlib["']"""
)
INDEX = re.compile(r"pypi\.org/(project|simple)/moonlib(?!-)")


def stranger(text: str) -> list[str]:
    """What in a text would install, or leads to, the project that the package index calls moonlib."""
    return [found[0] for pattern in (INSTALLED, REQUIRED, INDEX) for found in pattern.finditer(text)]


def test_nothing_tells_anybody_to_install_the_project_of_a_stranger() -> None:
    found = {}
    for path in WHAT_USERS_READ:
        text = path.read_text(encoding="utf-8") if path.is_file() and path.suffix in TEXTS else ""
        if names := stranger(text):
            found[str(path.relative_to(ROOT))] = names
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "pip install moonlib",
        "pip install --upgrade moonlib",
        "run pip install 'moonlib[mllm]' and",
        "`pip install moonlib==1.0`",
        "pip install torch moonlib",
        'dependencies = ["moonlib", "torch"]',
        'dependencies = ["torch", "moonlib"]',
        '"moonlib>=0.4"',
        '"moonlib[dev]"',
        "https://pypi.org/project/moonlib/",
    ],
)
def test_what_would_install_it_is_found(text: str) -> None:
    assert stranger(text)
    assert not stranger(re.sub(r"moonlib\b", "moonlib-embedding", text))


@pytest.mark.parametrize(
    "text", ["pip install -e moonlib-hinge", "pip install ./plugins/moonlib-emoji", "pip install ."]
)
def test_a_plugin_or_a_folder_is_not_it(text: str) -> None:
    assert not stranger(text)


def test_a_new_plugin_depends_on_moonlib_by_its_name(tmp_path: Path) -> None:
    made = new_plugin("losses", "own", tmp_path)
    project = tomllib.loads((made / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == [f"moonlib-embedding>={moonlib.__version__}"]
    with pytest.raises(RegistryError, match=r"moonlib-embedding \S+ is installed: choose another name"):
        new_plugin("encoders", "embedding", tmp_path)


def test_the_installed_metadata_is_ours() -> None:
    assert PROJECT["name"] == DISTRIBUTION == "moonlib-embedding"
    points = metadata.distribution(DISTRIBUTION).entry_points
    assert any(point.group == "console_scripts" and point.name == "moonlib" for point in points)


def test_versions_name_moonlib_first_however_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions_of(["moonlib", "torch"]) == {DISTRIBUTION: moonlib.__version__, "torch": metadata.version("torch")}
    monkeypatch.setattr(versions, "_packages", lambda times: {"moonlib": ["moonlib"], "torch": []})  # a stranger's
    assert versions_of(["moonlib"]) == {DISTRIBUTION: moonlib.__version__}


def test_a_distribution_that_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert list(versions_of(["later"])) == [DISTRIBUTION]
    info = tmp_path / "later-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 3.1\n")
    (info / "top_level.txt").write_text("later\n")
    assert versions_of(["later"])["later"] == "3.1"


def test_what_an_older_run_was_made_with_is_told_by_todays_name() -> None:
    hint = version_hint({"moonlib": "0.3.0"}, "it")
    assert hint == f"; it was made with moonlib-embedding 0.3.0 (installed: {moonlib.__version__})"
    assert version_hint({"moonlib": moonlib.__version__}, "it") == ""


def locked(name: str) -> dict[str, str]:
    """Versions by name, as a file of `.ci` has them."""
    lines = (ROOT / ".ci" / name).read_text(encoding="utf-8").splitlines()
    return {
        key.lower().replace("_", "-"): version
        for line in lines
        for key, _, version in [line.partition("==")]
        if version
    }


def declared() -> dict[str, str]:
    """The lowest version of each dependency that pyproject.toml declares; every one has a bound."""
    found = {}
    for requirement in PROJECT["dependencies"]:
        match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)(?:,<\w+)?", requirement)
        assert match, requirement
        found[match[1].lower()] = match[2]
    return found


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared() -> None:
    tested = locked("lowest.txt")
    for name, version in declared().items():
        zeros = tested[name].removeprefix(version)
        assert tested[name].startswith(version) and set(zeros) <= set(".0"), f"{name}: make lock-lowest"


def test_the_newest_versions_that_are_tested_name_every_dependency() -> None:
    tested = locked("newest.txt")
    assert set(declared()) <= set(tested)
    assert int(tested["torch"].split(".")[1]) >= 14 and "torchvision" in tested


def test_the_python_versions_that_are_claimed_are_those_that_are_tested() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    tested = [
        re.search(r"for Python (3\.\d+)", (ROOT / f".ci/{name}.txt").read_text()) for name in ("lowest", "newest")
    ]
    assert claimed == [found[1] for found in tested if found]
    assert PROJECT["requires-python"] == f">={claimed[0]}"
