from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import moonlib
from moonlib.cli import main

HEAVY = {"torch", "lightning", "polars", "pyarrow", "numpy", "transformers", "jsonargparse", "yaml", "rich"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["fit", "--help"], ["plugins", "list"]])
def test_help_and_lists_import_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from moonlib.cli import main
try:
    code = main({words})
except SystemExit as leave:
    code = leave.code
heavy = {HEAVY} & set(sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with an installed plugin that raises when it is imported."""
    (tmp_path / "moonlib_broken.py").write_text("raise RuntimeError('no such device')\n")
    info = tmp_path / "moonlib_broken-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moonlib-broken\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[moonlib.losses]\nbroken = moonlib_broken:Broken\n")
    return tmp_path


def test_plugins_check_names_a_broken_plugin_and_all_else_works(broken: Path, cli: Any) -> None:
    env = {"PYTHONPATH": str(broken)}
    listed = cli("plugins", "list", "losses", **env)
    assert listed.returncode == 0
    assert "moonlib-broken 0.3" in listed.stdout and "info_nce" in listed.stdout
    assert cli("--help", **env).returncode == 0
    assert cli("plugins", "show", "losses/info_nce", **env).returncode == 0
    assert cli("recipe", "list", **env).returncode == 0

    checked = cli("plugins", "check", **env)
    assert checked.returncode == 1
    assert "RuntimeError: no such device" in checked.stdout
    assert checked.stdout.splitlines()[-1].endswith(", 1 broken: losses/broken (moonlib-broken 0.3)")

    used = cli("recipe", "show", "iter1", "--stages.pretrain.module.init_args.loss", "broken", **env)
    assert used.returncode == 2
    assert used.stderr.splitlines() == [
        "moonlib: command line: stages.pretrain.module.init_args.loss: losses/broken of moonlib-broken 0.3 "
        "cannot be imported from moonlib_broken:Broken: RuntimeError: no such device"
    ]


def test_plugins_check_passes_where_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check"]) == 0
    assert capsys.readouterr().out.endswith(" components, 0 broken\n")


def test_plugins_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "losses/info_nce"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("losses/info_nce   moonlib-embedding ")
    assert (
        "info_nce.py:" in shown
        and "InfoNCE(temperature: Union[float, Literal['encoder']] = 0.07" in shown
        and "Args:" in shown
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["plugins", "show", "losses/infonce"], "unknown losses/infonce; did you mean 'info_nce' (moonlib-embedding "),
        (["plugins", "show", "info_nce"], "expected KIND/NAME such as losses/info_nce, got 'info_nce'"),
        (["plugins", "list", "loss"], "unknown kind 'loss'; did you mean 'losses'?"),
        (["recipe", "show", "iter9"], "iter9: no such recipe; did you mean 'iter"),
        (
            ["fit", "--config", "iter1", "--stages.pretrain.trainer.max_step", "3"],
            "command line: stages.pretrain.trainer",
        ),
        (["data", "check", "nowhere"], "nowhere"),
        (["data", "build", "nowhere", "--out", "out"], "nowhere"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOONLIB_TRACEBACK", raising=False)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moonlib: ") and problem in line
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_on_demand_and_for_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(moonlib.registry.RegistryError):
        main(["--traceback", "plugins", "show", "losses/infonce"])
    monkeypatch.setenv("MOONLIB_TRACEBACK", "1")
    with pytest.raises(moonlib.registry.RegistryError):
        main(["plugins", "show", "losses/infonce"])
    monkeypatch.delenv("MOONLIB_TRACEBACK")

    def bug(*_: object, **__: object) -> None:
        raise ValueError("not one of moonlib's own")

    monkeypatch.setitem(sys.modules, "moonlib.runs.iteration", SimpleNamespace(fit=bug))
    with pytest.raises(ValueError, match="not one of moonlib's own"):
        main(["fit", "--config", "iter1"])


def test_fit_hands_on_what_is_no_option_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    iteration = SimpleNamespace(fit=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setitem(sys.modules, "moonlib.runs.iteration", iteration)
    words = ["--seed", "1", "--config", "iter1", "--data.init_args.seed", "3", "--runs", "out", "--changes.b=c"]
    assert main(["fit", *words, "--name", "mine", "--replace", "--checkpoint-seconds", "5"]) == 0
    overrides = ["--seed", "1", "--data.init_args.seed", "3", "--changes.b=c"]
    options = {"runs": Path("out"), "name": "mine", "replace": True, "checkpoint_seconds": 5.0}
    assert calls == [(("iter1", overrides), options)]


def test_other_verbs_refuse_options_they_do_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["plugins", "list", "--all"])
    assert leave.value.code == 2
    assert "unrecognized arguments: --all" in capsys.readouterr().err


def test_recipe_list_names_every_shipped_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    listed = capsys.readouterr().out
    assert "iter1            A dual encoder" in listed
    assert str(Path("recipes", "iter2.yaml")) in listed or str(Path("_recipes", "iter2.yaml")) in listed


def test_recipe_cp_never_overwrites_and_the_copy_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", "cp", "iter2"]) == 0
    assert main(["recipe", "cp", "iter2", "mine.yaml"]) == 0
    assert main(["recipe", "check", "mine.yaml"]) == 0
    Path("mine.yaml").write_text("my own")
    capsys.readouterr()
    assert main(["recipe", "cp", "iter2", "mine.yaml"]) == 2
    assert capsys.readouterr().err == "moonlib: mine.yaml: File exists\n"
    assert Path("mine.yaml").read_text() == "my own"


def test_recipe_show_prints_a_recipe_that_extends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "iter2", "--seed", "5"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["seed"] == 5 and "extends" not in shown
    assert list(shown["stages"])[:2] == ["pretrain", "posttrain"]


def test_recipe_diff(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "diff", "iter1", "iter2"]) == 0
    changed = capsys.readouterr().out
    adapter = "stages.application.module.init_args.adapter.class_path"
    assert f"{adapter}: moonlib.adapters.vector.Vector -> moonlib.adapters.simtier.SimTier" in changed.splitlines()
    assert main(["recipe", "diff", "iter1", "iter1"]) == 0
    assert capsys.readouterr().out == ""


def test_recipe_check_tries_every_recipe_and_constructs_its_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, refused = tmp_path / "wrong.yaml", tmp_path / "refused.yaml"
    wrong.write_text("extends: iter1\nstages: {pretrain: {trainer: {max_step: 1}}}")
    refused.write_text("extends: iter1\ndata: {init_args: {seed: -1}}")
    assert main(["recipe", "check", str(wrong), "iter1", str(refused)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"broken: {wrong}: stages.pretrain.trainer.max_step: unknown key; did you mean 'max_steps'?"
    assert second == "ok: iter1"
    assert third.startswith("broken: ") and "seed -1 is negative" in third


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_an_output_that_is_not_utf_8_spells_what_it_lacks(locale: dict[str, str], tmp_path: Path) -> None:
    # An interpreter of its own, which reads the locale; one, as each takes seconds to start.
    both = "import sys; from moonlib.cli import main; print(*[main(words.split()) for words in sys.argv[1:]])"

    def cli(*commands: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", both, *commands]
        env = {**os.environ, "PYTHONCOERCECLOCALE": "0", **locale}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="ascii", check=False)

    (tmp_path / "eins.yaml").write_text("extends: iter1\nchanges: {training: 红 → größer}", encoding="utf-8")
    (tmp_path / "zwei.yaml").write_text('extends: iter1\nchanges: {training: "\\e[2J"}', encoding="utf-8")
    told = cli("recipe diff eins.yaml zwei.yaml", "recipe show eins.yaml", "fit --config missing-红\x1b[2J")
    assert told.returncode == 0
    diff, *shown, codes = told.stdout.splitlines(keepends=True)
    assert diff == "changes.training: \\u7ea2 \\u2192 gr\\xf6\\xdfer -> \\x1b[2J\n" and codes == "0 0 2\n"
    assert yaml.safe_load("".join(shown))["changes"] == {"training": "红 → größer"}
    assert "\\x1b[2J: no such recipe" in told.stderr and "\x1b" not in told.stderr
