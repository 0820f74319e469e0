"""Every shipped recipe is parsed, constructed, and run for a few steps on the tiny marketplace."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from moonlib.cli import main
from moonlib.config.merge import shipped
from moonlib.registry import registry
from moonlib.runs.iteration import fit

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
EMOJI_PACKAGES = ROOT / "plugins/moonlib-emoji/node_modules"


def test_every_recipe_of_the_repository_is_shipped() -> None:
    assert sorted(shipped().values()) == RECIPES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_and_how_to_run_it(recipe: Path) -> None:
    first, *others = recipe.read_text(encoding="utf-8").splitlines()
    assert first.startswith(f"# {recipe.relative_to(ROOT)}  ")
    verb = "scale" if "scale:" in others else "fit"
    assert any(
        line.startswith("#") and f"moonlib {verb} --config {recipe.relative_to(ROOT)}" in line for line in others
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs(
    recipe: Path,
    data_cache: Path,
    stages: Path,
    shorten: Callable[[Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "emoji" in recipe.stem and not any(c.name == "emoji" for c in registry.components("sources")):
        pytest.skip("moonlib-emoji is not installed")
    assert main(["recipe", "check", str(recipe)]) == 0, capsys.readouterr().out
    if recipe.stem.startswith("taobao_mm"):
        return  # 139 GB; tests/data/taobao_mm runs it on a few users
    if "emoji" in recipe.stem and not EMOJI_PACKAGES.is_dir():
        return  # its pictures are not there: parsed and constructed is all that can be done
    if recipe.stem == "small_catalogue":
        return  # its weights come from the hub; tests/runs/test_small_catalogue.py runs it with a small tower
    if recipe.stem in ("emoji_pretrained", "emoji_small") and not (ROOT / "build/pretrained").is_dir():
        return  # nor are its weights
    if recipe.parent.name == "pretrained":
        return  # tests/docs/test_pretrained_recipes.py runs them on small checkpoints
    if recipe.stem == "completejourney":
        return  # tests/data/test_completejourney.py runs it on a miniature of the package
    (tmp_path / ".data").symlink_to(data_cache)
    (tmp_path / ".stages").symlink_to(stages)
    overrides = shorten(recipe)
    if recipe.stem == "weekly":  # it starts from last week's run
        last_week = fit(ROOT / "recipes/iter3.yaml", shorten(ROOT / "recipes/iter3.yaml"), runs=tmp_path)
        overrides += ["--encoder.from", str(last_week)]
    run = fit(recipe, overrides, runs=tmp_path)
    results = json.loads((run / "results.json").read_text())
    assert "image_search/recall@10" in results
    assert all(math.isfinite(value) for value in results.values())
    explained = set(re.findall(r"`([^`\n]+)`", (ROOT / "moonlib/docs/pages/data.md").read_text(encoding="utf-8")))
    for stage in run.iterdir():
        if stage.is_symlink():
            written = {f"{path.name}/" if path.is_dir() else path.name for path in stage.iterdir()}
            assert written <= explained, f"{stage.name} holds what the page on data formats does not explain"
