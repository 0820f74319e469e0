"""Every command and every block of code in the READMEs and the documentation runs.

Each document is one session in a directory of its own, where recipes, plugins, benchmarks and tests lie as in a
checkout, and `tables/`, `photos/` and `photo.jpg` are a shop's data. Its blocks are taken in order:

- commands (indented lines, or a block marked ``sh``) run in bash, those of moonlib in this process; where a block has
  lines that start with ``$ ``, only those are commands. What would take too long is shortened by SUBSTITUTIONS, and
  nothing else is: every entry that matches is applied, in turn.
- ``python`` runs as a script; if it starts with ``# NAME.py`` it is written there first.
- ``yaml`` that starts with ``# FILE.yaml`` must be that file of the repository, or becomes it and must pass
  `moonlib recipe check`; any other is part of a recipe that extends iter2, and must pass too.
- ``toml`` must parse, and the classes of its entry points must be found and be of their kinds.
- ``text`` and ``mermaid`` are not run, and may hold no command.

Commands of moonlib in running text name a verb and its options, which must exist; all others run as those in blocks.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from moonlib.cli import main
from moonlib.config.merge import find
from moonlib.data.dataset import Dataset
from moonlib.testing.data import write_pictures
from moonlib.testing.processes import run_program

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
DOCUMENTS += sorted([*(ROOT / "moonlib/docs/pages").glob("*.md"), *ROOT.glob("plugins/*/README.md")])
COMMAND = re.compile(r"(\$ )?(\S*/)?(moonlib|make|pip|python3?|npm|git|pytest|mkdocs|ruff|mypy) ")

_TO_SITE = "pip install -q --no-index --no-deps --no-build-isolation --target site"
OF_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS", "RECIPE", "PYTHON")
"""What `make test ARGS=...` leaves in the environment, and a make within would take for its own."""

_NEEDS = "what it needs is here, and nothing of it stays in this environment"

SUBSTITUTIONS = [
    # (what a document says, what is run instead, why)
    (r"^make (.*)$", r"make --dry-run \1", "the fits that it would start are then run as commands of their own"),
    (r"^moonlib fit --config (.*recipes/data/emoji\w*.yaml)$", r"moonlib recipe check \1", "its pictures come by npm"),
    (r"^moonlib fit --config (.*recipes/data/taobao_mm\w*.yaml).*$", r"moonlib recipe check \1", "139 GB of data"),
    (
        r"^moonlib fit --config (.*recipes/data/completejourney.yaml).*$",
        r"moonlib recipe check \1",
        "32 MB come by pip",
    ),
    (r"^moonlib fit --config (\S*pretrained/\w+\.yaml).*$", r"moonlib recipe check \1", "weights come from the hub"),
    (
        r"^(moonlib scale .*--config \S+).*$",
        r"\1 --print-jobs",
        "every point is a run of its own; tests/studies runs some",
    ),
    (r"^moonlib fit (.*)--seeds \d+", r"moonlib fit \1--seeds 2", "two make a spread"),
    (r"(--stages\.pretrain\.checkpoint_evaluation\.every) \d+", r"\1 1", "in two steps there is one on the way"),
    (r"(--stages\.posttrain\.checkpoint_evaluation\.every) \d+", r"\1 1", "in two steps there is one on the way"),
    (r"^(moonlib fit .*--config .*)$", r"\1 {shorter}", "two steps a stage, the tiny marketplace"),
    (r"^(moonlib (?:evaluate|data make) .*)small", r"\1tiny", "seconds in place of a minute"),
    (
        r"^moonlib data build tables-of-week-2/ .*$",
        "moonlib data build --help",
        "no second week lies here; tests/data/test_append.py appends some",
    ),
    (
        r"^moonlib data map feed.tsv orders.csv > map.yaml$",
        "moonlib data map tables/products.parquet tables/searches.parquet",
        "no feed lies here",
    ),
    (
        r"^moonlib data build . --map map.yaml --out data/mine$",
        "moonlib data build tables/ --images photos/ --out data/mapped",
        "no feed lies here",
    ),
    (r"^moonlib data build week1/", "moonlib data build tables/", "the shop's tables"),
    (
        r"^moonlib data build week2/ .*$",
        "cp -r data/week1 data/week2",
        "no second week lies here; tests/data appends one",
    ),
    (r"^moonlib serve .*$", "moonlib serve --help", "it would serve for ever; tests/serving has servers"),
    (r"^(moonlib abtest .*)$", r"\1 --requests 60", "seconds in place of a minute"),
    (r"s3://shop/tables --images s3://shop/photos", r"tables --images photos", "tests/test_clouds.py has a bucket"),
    (r"^pip install (moonlib-embedding)$", r"pip install --no-index --dry-run \1", "it is installed; no network"),
    (r"^pip install 'moonlib-embedding\[(\w+)\]'$", r"grep -q '^\1 = ' pyproject.toml", "an extra; no network"),
    (r"^pip install -e (moonlib-\S+)$", rf"{_TO_SITE} ./\1", _NEEDS),
    (r"^pip install (\./plugins/\S+)$", rf"{_TO_SITE} \1", _NEEDS),
    (r"^pip install \.$", "test -f pyproject.toml", "said of a folder of the reader's"),
    (r"^(python benchmarks/\S+\.py)( .*)?$", r"\1 --help", "minutes to hours"),
    (r"^\S*python -m pytest (tests\S*).*$", r"pytest {root}/\1 --collect-only -q -p no:cacheprovider", "the suite"),
]

PYTHON_SUBSTITUTIONS = [
    (r'(moonlib\.fit\("(\w+)", \[[^\]]*)\]', r"\1, *{shorter}]", "as the command"),
]


@dataclass(frozen=True)
class Block:
    """A block of a document: its language, its text and the line it starts in."""

    language: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    """The blocks of code of a document; an indented one holds commands."""
    tokens = MarkdownIt().enable("table").parse(document.read_text(encoding="utf-8"))
    languages = {"console": "sh", "bash": "sh", "shell": "sh"}
    found = []
    for token in tokens:
        if token.type in ("code_block", "fence"):
            word = "sh" if token.type == "code_block" else (token.info.split() or [""])[0]
            assert token.map
            found.append(Block(languages.get(word, word), token.content, token.map[0] + 1))
    return found


def commands(text: str) -> list[str]:
    """The commands of a block, continued lines joined, comments cut off."""
    lines = text.replace("\\\n", "").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [command for line in lines if (command := re.sub(r"(^|\s)# .*", "", line).strip())]


def mentioned(document: Path) -> Iterator[str]:
    """The commands in the running text of a document."""
    for token in MarkdownIt().enable("table").parse(document.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and COMMAND.match(child.content):
                yield child.content


_helps: dict[str, str] = {}
"""What commands that end in --help have printed before."""


@dataclass
class Session:
    """A directory like a checkout in which a document's commands run one after the other."""

    directory: Path
    shorten: Callable[[Path], list[str]]

    @property
    def site(self) -> Path:
        """Where plugins are installed."""
        return self.directory / "site"

    def run(self, command: str) -> str:
        """Run a command, shortened where it must be; return what it printed."""
        instead = self.substituted(command)
        if instead.endswith(" --help") and instead in _helps:
            return _helps[instead]
        if re.match(r"moonlib [^|>&;]*$", instead):
            code, printed = self.moonlib(instead)
        elif re.match(r"\S*python3? ([^-]\S*\.py|-[cm]) [^|>&;$]*$", f"{instead} "):
            code, printed = self.program(shlex.split(instead)[1:])
        else:
            code, printed = self.bash(instead)
        assert code == 0, f"{command}\n{instead}\n{printed[-5000:]}"
        if instead.endswith(" --help"):
            _helps[instead] = printed
        if command.startswith("make "):
            for line in printed.splitlines():
                if re.match(r"\S*moonlib fit ", line):
                    self.run(line[line.index("moonlib fit") :].strip())
        return printed

    @property
    def environment(self) -> dict[str, str]:
        """What commands find in their environment."""
        return {
            **{name: value for name, value in os.environ.items() if name not in OF_MAKE},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.site),
            "COLUMNS": "160",
            # A package that a document's command installed would change what the tests after it find.
            "PIP_NO_INDEX": "1",
            "npm_config_offline": "true",
        }

    def program(self, words: list[str]) -> tuple[int, str]:
        """Run a Python program, which need not import again what takes seconds to import."""
        done = run_program(words, cwd=self.directory, env=self.environment, timeout=280)
        return done.returncode, done.stdout + done.stderr

    def bash(self, command: str) -> tuple[int, str]:
        """Run a command in bash; return the exit code and what it printed."""
        done = subprocess.run(
            ["timeout", "280", "bash", "-e", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def moonlib(self, command: str) -> tuple[int, str]:
        """Run a command of moonlib in this process, which has imported already what takes seconds to import."""
        printed = io.StringIO()
        sys.path.insert(0, str(self.site))
        importlib.invalidate_caches()
        with contextlib.chdir(self.directory), redirect_stdout(printed), redirect_stderr(printed):
            try:
                code = main(shlex.split(command)[1:])
            except SystemExit as leave:
                code = int(leave.code or 0)
            finally:
                sys.path.remove(str(self.site))
        return code, printed.getvalue()

    def substituted(self, command: str) -> str:
        """The command to run in place of a document's."""
        for pattern, replacement, _ in SUBSTITUTIONS:
            found = re.search(pattern, command)
            if found:
                command = command[: found.start()] + found.expand(replacement) + command[found.end() :]
        command = command.replace("{root}", str(ROOT))
        return command.replace("{shorter}", self.shorter(command)) if "{shorter}" in command else command

    def shorter(self, command: str) -> str:
        """The overrides that make a fit short."""
        words = shlex.split(command)
        recipe = words[words.index("--config") + 1]
        path = self.directory / recipe
        overrides = self.shorten(path if path.is_file() else find(recipe))
        if "--data" in words:  # it brings its own data
            overrides = overrides[: overrides.index("--data.init_args.size")]
        return shlex.join(overrides)

    def python(self, text: str) -> None:
        """Run a script."""
        for pattern, replacement, _ in PYTHON_SUBSTITUTIONS:
            found = re.search(pattern, text)
            if found:
                text = re.sub(pattern, replacement.replace("{shorter}", repr(self.shorten(find(found[2])))), text)
        named = re.match(r"# (\w+\.py)\n", text)
        file = self.directory / (named[1] if named else "block.py")
        file.write_text(text, encoding="utf-8")
        self.run(f"{shlex.quote(sys.executable)} {file.name}")

    def recipe(self, text: str) -> None:
        """Compare with the file of the repository that it says to be, or check it as a recipe of its own."""
        named = re.match(r"# (\S+\.yaml)\b", text)
        name = named[1] if named else "part.yaml"
        if (ROOT / name).is_file():
            assert yaml.safe_load(text) == yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        else:
            (self.directory / name).write_text(text if named else f"extends: iter2\n{text}", encoding="utf-8")
            self.run(f"moonlib recipe check {name}")

    def project(self, text: str) -> None:
        """Parse a pyproject.toml and find what its entry points name."""
        groups = tomllib.loads(text).get("project", {}).get("entry-points", {})
        for group, points in groups.items():
            kind = group.removeprefix("moonlib.")
            for value in points.values():
                module, _, name = value.partition(":")
                check = f"from moonlib import registry; from {module} import {name}; "
                self.run(f'python -c "{check}assert registry.kind_of({name}) == {kind!r}"')


@pytest.fixture(scope="module")
def shop(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop's own data: `tables/` of Parquet, `photos/`, and one `photo.jpg` of a query."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "tables").mkdir()
    for name in ("products", "queries"):
        table = write_pictures(tiny, name, tiny.table(name), folder / "photos")
        table.write_parquet(folder / f"tables/{name}.parquet")
    shutil.copy(next((folder / "photos").glob("queries*.jpg")), folder / "photo.jpg")
    for name in ("users", "searches", "impressions"):
        tiny.table(name).write_parquet(folder / f"tables/{name}.parquet")
    return folder


@pytest.fixture
def session(
    tmp_path: Path, shop: Path, data_cache: Path, stages: Path, shorten: Callable[[Path], list[str]]
) -> Session:
    for name in ("recipes", "plugins", "benchmarks", "tests", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("tables", "photos", "photo.jpg"):
        (tmp_path / name).symlink_to(shop / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.data").symlink_to(data_cache)
    (tmp_path / "runs/.stages").symlink_to(stages)
    return Session(tmp_path, shorten)


@pytest.mark.first
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_runs(document: Path, session: Session) -> None:
    for block in blocks(document):
        where = f"{document.relative_to(ROOT)}:{block.line}"
        try:
            if block.language == "sh":
                for command in commands(block.text):
                    session.run(command)
            elif block.language == "python":
                session.python(block.text)
            elif block.language == "yaml":
                session.recipe(block.text)
            elif block.language == "toml":
                session.project(block.text)
            elif block.language == "ini":  # a service's unit: what it starts has to exist
                for command in re.findall(r"^ExecStart=\S*/(moonlib .*)$", block.text, re.MULTILINE):
                    require_known(session, command)
            else:
                assert block.language in ("text", "mermaid", "csv", "json"), f"unknown language '{block.language}'"
                hidden = [line for line in block.text.splitlines() if COMMAND.match(line)]
                assert not hidden, f"a command in a block of {block.language}: {hidden[0]}"
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_running_text_exists(document: Path, session: Session) -> None:
    for command in mentioned(document):
        require_known(session, command)


def require_known(session: Session, command: str) -> None:
    """Require that there are a command's verb and options; run it where it is not moonlib's or make's."""
    words = command.replace("…", "").split()
    if words[0] == "moonlib":
        plain = [word for word in words[1:] if re.fullmatch(r"[a-z]+", word)]
        verb = plain[: 2 if plain and plain[0] in ("center", "data", "plugins", "recipe") else 1]
        shown = session.run(shlex.join(["moonlib", *verb, "--help"]))
        options = [re.split("[ =]", word)[0] for word in words if word.startswith("--") and "." not in word]
        assert all(option in shown for option in options), f"{command}: no such option"
        assert not verb or f"moonlib {' '.join(verb)}" in shown, f"{command}: no such verb"
    elif words[0] == "make":
        code, printed = session.bash(f"make --dry-run {shlex.join(words[1:])}")
        assert code == 0, printed
    else:
        session.run(command)


def test_the_commands_of_the_documents_are_found() -> None:
    """The extraction itself: a block that it misses would never be run."""
    readme = "\n".join(command for block in blocks(ROOT / "README.md") for command in commands(block.text))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"^    ((?:moonlib|make|pip) .*?)(?: +#.*)?$", text, re.MULTILINE):
        assert line in readme
    assert commands("$ make fit\nmoonlib output\n") == ["make fit"]
    assert commands("pip install a \\\n  b   # why\n# only a comment\n") == ["pip install a   b"]


def test_an_unknown_command_fails(session: Session) -> None:
    with pytest.raises(AssertionError, match="moonlib frobnicate"):
        session.run("moonlib frobnicate")
    with pytest.raises(AssertionError, match="did you mean 'max_steps'"):
        session.run("moonlib fit --config iter1 --stages.pretrain.trainer.max_step 3")
    with pytest.raises(AssertionError, match="make"):
        session.run("make nothing-like-this")


@pytest.mark.parametrize("command", ["pip install absent-package", "python -m pip install -q absent-package"])
def test_no_command_installs_a_package_from_the_index(command: str, session: Session) -> None:
    with pytest.raises(AssertionError, match="No matching distribution found for absent-package"):
        session.run(command)


def test_a_make_around_the_tests_is_none_of_theirs(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGS", "-n8")
    monkeypatch.setenv("RECIPE", "recipes/nothing.yaml")
    monkeypatch.setenv("MAKEFLAGS", " -- ARGS=-n8")
    code, printed = session.bash("make --dry-run fit")
    assert code == 0 and "--config recipes/iter3.yaml \n" in printed + "\n", printed
