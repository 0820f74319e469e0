"""Plugins that are broken in every way, installed at once, break only themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.config.recipe import RecipeError, load
from moonlib.data.dataset import Dataset
from moonlib.registry import API, components
from moonlib.system.versions import DISTRIBUTION

LOSS = """
from moonlib.losses.loss import Loss


class Fine(Loss):
    def forward(self, scores, positive, ignore):
        return scores.sum(1)
"""

#: distribution → (source of its module, its entry points)
BROKEN = {
    "importing": ("import no_such_module", {"importing": "{module}:Fine"}),
    "syntax": ("def :", {"syntax": "{module}:Fine"}),
    "missing": (LOSS, {"missing": "{module}:Finer"}),
    "function": ("def Fine(): ...", {"function": "{module}:Fine"}),
    "orphan": ("class Fine: ...", {"orphan": "{module}:Fine"}),
    "first": (LOSS, {"twice": "{module}:Fine"}),
    "second": (LOSS, {"twice": "{module}:Fine"}),
    "future": (LOSS, {"future": "{module}:Fine"}),
    "exiting": ("raise SystemExit(7)", {"exiting": "{module}:Fine"}),
    "malformed": (LOSS, {"malformed": "{module} Fine!"}),
    "throwing": ("print('noise')\nclass Odd(BaseException): ...\nraise Odd()", {"throwing": "{module}:Fine"}),
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with all of `BROKEN` installed, one that prints and works, and one whose metadata is damaged."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name, (source, points) in {**BROKEN, "chatty": ("print('noise')" + LOSS, {"chatty": "{module}:Fine"})}.items():
        module = f"moonlib_{name}"
        (folder / f"{module}.py").write_text(source)
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: moonlib-{name}\nVersion: 1.0\n")
        lines = ["[moonlib.losses]", *(f"{key} = {value.format(module=module)}" for key, value in points.items())]
        lines += ["[moonlib.api]", f"{99 if name == 'future' else API} = {module}"]
        (info / "entry_points.txt").write_text("\n".join(lines))
    damaged = folder / "moonlib_damaged-1.0.dist-info"
    damaged.mkdir()
    # Without METADATA. (Lines that are no entry points at all would keep torch itself from being imported.)
    (damaged / "entry_points.txt").write_text("[moonlib.losses]\ndamaged = moonlib_chatty:Fine")
    return folder


def test_check_names_each_and_everything_else_works(broken: Path, cli: Any, tiny: Dataset, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(broken)}
    assert cli("--help", **env).returncode == 0

    listed = cli("plugins", "list", "losses", **env)
    assert listed.returncode == 0 and listed.stderr == ""
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()[1:]}
    ours = {found.name for found in components("losses") if found.distribution.startswith(f"{DISTRIBUTION} ")}
    assert {*ours, "chatty", *(name for _, points in BROKEN.values() for name in points)} == set(lines)
    assert "claimed twice" in lines["twice"] and "is made for plugin API 99" in lines["future"]
    assert "noise" not in listed.stdout

    checked = cli("plugins", "check", **env)
    assert checked.returncode == 1
    *_, summary, metadata = checked.stdout.splitlines()
    assert f"{len(BROKEN)} broken" in summary
    for distribution, (_, points) in BROKEN.items():
        for name in points:
            assert f"losses/{name} (moonlib-{distribution} 1.0)" in summary
    assert metadata.startswith("metadata broken: ") and "moonlib_damaged-1.0" in metadata
    for cause in ("No module named 'no_such_module'", "SyntaxError", "SystemExit: 7", "Odd", "is not a class"):
        assert cause in checked.stdout
    assert "chatty" not in summary

    shown = cli("recipe", "show", "iter1", "--stages.pretrain.module.init_args.loss", "chatty", **env)
    assert yaml.safe_load(shown.stdout)["seed"] == 0 and "noise" in shown.stderr

    assert cli("recipe", "check", "iter1", **env).stdout == "ok: iter1\n"

    recipe = {
        "extends": "iter1",
        "data": {"class_path": "shards", "init_args": {"path": str(tiny.directory)}},
        "stages": {
            "pretrain": {"trainer": {"max_steps": 2}, "data": {"batch_size": 8, "workers": 0}},
            "represent": None,
            "application": {"module": {"init_args": {"adapter": "id_only"}}},
        },
    }
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(recipe))
    ran = cli("fit", "--config", "short.yaml", **env)
    assert ran.returncode == 0, ran.stderr
    assert "ctr/auc" in json.loads((tmp_path / "runs/short/results.json").read_text())


def test_a_recipe_that_uses_one_tells_which_key_and_why(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(broken)
    key = "stages.pretrain.module.init_args.loss"
    for name in {name for _, points in BROKEN.values() for name in points}:
        with pytest.raises(RecipeError, match=rf"^command line: {key}: losses/{name} ") as caught:
            load("iter1", [f"--{key}", name])
        assert "\n" not in str(caught.value)
    assert load("iter1", [f"--{key}", "chatty"]).stages["pretrain"].module().loss is not None
