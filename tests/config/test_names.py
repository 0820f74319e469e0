"""Names of stages and of runs are names of directories, and lead nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from moonlib.cli import main
from moonlib.config import recipe as recipes
from moonlib.config.names import BadNameError, run_name, stage_problem
from moonlib.config.recipe import RecipeError
from moonlib.runs.debug import debug
from moonlib.runs.iteration import fit, fit_seeds
from moonlib.studies.scale import scale
from moonlib.studies.study import Study

LEADING_AWAY = [
    "../../x",
    "..",
    ".",
    "",
    "/tmp/x",
    "x/../y",
    "x/",
    "x//y",
    "a\\b",
    "a\nb",
    "a\0b",
    "-x",
    ".hidden",
    "é" * 51,
]
"""Names of neither a run nor a stage."""


def tree(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in LEADING_AWAY if name),
        *(
            "recipe.yaml",
            "results.json",
            "application.baseline",
            "costs.json",
            "a/b",
            "../../../victim.txt",
            "[x]",
            "a@b",
        ),
        *("preprocessing", "points", "evaluations", "abtest", "Points"),
        *(1, True, None, 1.5),
    ],
)
def test_a_stage_of_no_such_name_is_refused_where_the_recipe_is_loaded(name: object, tmp_path: Path) -> None:
    (tmp_path / "victim.txt").write_text("years of work")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": "iter1", "stages": {name: {"after": "pretrain", "module": "probing"}}}))
    before = tree(tmp_path)
    with pytest.raises(RecipeError) as caught:
        fit(file, runs=tmp_path / "runs/deep/down")
    told = str(caught.value)
    assert told.startswith(f"{file}: stages.") and repr(name) in told and "name of a stage" in told
    assert tree(tmp_path) == before


def test_a_stage_of_no_such_name_is_refused_in_the_first_recipe_and_on_the_command_line(tmp_path: Path) -> None:
    whole = yaml.safe_load(yaml.safe_dump(recipes.load("iter1").config))
    whole["stages"] = {"..": whole["stages"]["pretrain"]}
    file = tmp_path / "whole.yaml"
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(RecipeError, match=r"whole\.yaml: stages\.\.\.: '\.\.' cannot be the name of a stage"):
        recipes.load(file)
    with pytest.raises(RecipeError, match=r"command line: stages\.a/b: 'a/b' cannot be the name of a stage"):
        recipes.load("iter1", ["--stages.a/b.after=pretrain"])


@pytest.mark.parametrize("name", [*LEADING_AWAY, "[x]", "a b", "a=b"])
def test_a_run_of_no_such_name_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "a/b/runs"
    study = "studies/scaling/negatives"
    for call in (
        lambda: fit("iter1", runs=runs, name=name),
        lambda: fit_seeds("iter1", runs=runs, name=name, seeds=2),
        lambda: debug("limit", "iter1", runs=runs, name=name),
        lambda: scale(study, runs=runs, name=name),
        lambda: Study(study, runs=runs, name=name),
    ):
        with pytest.raises(BadNameError, match="cannot be the name of a run: expected letters"):
            call()
    for words in (
        ["fit", "--config", "iter1"],
        ["scale", "--config", study],
        ["fit", "--config", "iter1", "--seeds=2"],
    ):
        assert main([*words, "--runs", str(runs), f"--name={name}"]) == 2
        assert "cannot be the name of a run" in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_a_recipe_whose_file_has_no_such_name_asks_for_another(tmp_path: Path) -> None:
    file = tmp_path / "my [new] recipe.yaml"
    file.write_text("extends: iter1")
    with pytest.raises(BadNameError, match=r"'my \[new\] recipe' cannot be the name of a run: .*--name"):
        fit(file, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["iter3-small-11", "2.5+x", "_mine", "迭代1", "team/iter2", "a.partial", "x" * 100])
def test_what_runs_are_called_stays_their_name(name: str) -> None:
    assert run_name(name) == name


def test_recipes_and_studies_that_come_with_moonlib_keep_their_names() -> None:
    for name, path in recipes.shipped().items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert not [problem for stage in content.get("stages") or {} if (problem := stage_problem(stage))], name
        run_name(path.stem)
        if "scale" in content:
            study = Study(name)
            assert [run_name(f"{study.name}/{point.name}") for point in study.points]


def test_a_point_far_out_has_a_name_too(tmp_path: Path) -> None:
    axis = {"keys": {"stages.pretrain.trainer.max_steps": [1, 2]}, "x": [1e-30, 1.23456789e22]}
    section = {"axes": {"one": axis}, "metrics": {"ctr/auc": "max"}, "seeds": [-1]}
    file = tmp_path / "far.yaml"
    file.write_text(json.dumps({"extends": "iter1", "scale": section}))
    names = [point.name for point in Study(file).points]
    assert names == ["1e-30-seed-1", "1.23456789e+22-seed-1"] and [run_name(name) for name in names] == names
