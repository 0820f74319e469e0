"""The keys `trainer` and `loggers` at the top of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.config.fingerprint import material_recipe, material_stage
from moonlib.config.loggers import read_loggers
from moonlib.config.recipe import RecipeError, diff, load


def written(tmp_path: Path, **content: Any) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": "iter2", **content}))
    return file


def test_the_trainer_of_all_stages_goes_below_a_stages_own(tmp_path: Path) -> None:
    trainer = {"precision": "bf16-mixed", "max_steps": 7, "gradient_clip_val": 1.0}
    stages = {"posttrain": {"trainer": {"max_steps": 3, "gradient_clip_val": None}}}
    recipe = load(written(tmp_path, trainer=trainer, stages=stages), ["--trainer.devices", "1"])
    own = {name: stage.written["trainer"] for name, stage in recipe.stages.items()}
    assert own["posttrain"] == {"precision": "bf16-mixed", "max_steps": 3, "devices": 1}  # null removes
    assert own["represent"] == {**trainer, "devices": 1}
    assert own["application"]["max_epochs"] == load("iter2").stages["application"].written["trainer"]["max_epochs"]


def test_a_run_s_recipe_says_it_in_every_stage_and_means_the_same(tmp_path: Path) -> None:
    recipe = load(written(tmp_path, trainer={"accelerator": "cpu"}, loggers=["csv", "wandb"]))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.config))
    again = load(tmp_path / "again.yaml")
    assert again.config == recipe.config and "trainer" not in again.config and again.loggers == ["csv", "wandb"]


def test_a_recipe_without_them_is_what_it_was(tmp_path: Path) -> None:
    assert not load("iter2").config.keys() & {"trainer", "loggers"}
    changed = diff(load("iter2").config, load(written(tmp_path, trainer={})).config)
    assert {key.partition(".")[0] for key, _, _ in changed} == {"changes"}  # which are of their own file


def test_a_trainer_on_the_command_line_says_where_a_stages_own_goes_over_it(caplog: pytest.LogCaptureFixture) -> None:
    load("iter2", ["--trainer.devices", "1", "--trainer.max_steps", "600"])
    (record,) = caplog.records  # pretraining takes 600 anyway
    assert record.getMessage() == (
        "--trainer.max_steps has no effect on stages.posttrain, whose own goes over it: give "
        "--stages.posttrain.trainer.max_steps"
    )


def test_loggers_change_no_fingerprint_and_no_run(tmp_path: Path) -> None:
    plain = load(written(tmp_path))
    logged = load(written(tmp_path, loggers=["mlflow"]))
    assert diff(material_recipe(plain.config), material_recipe(logged.config)) == []
    for name in plain.stages:
        assert material_stage(plain.stages[name].config) == material_stage(logged.stages[name].config)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"trainer": {"max_stepz": 3}}, r"mine\.yaml: trainer\.max_stepz: unknown key; did you mean 'max_steps'\?"),
        ({"trainer": {"max_steps": "many"}}, r"mine\.yaml: trainer\.max_steps: expected int, got 'many'"),
        ({"trainer": [1]}, r"mine\.yaml: trainer: expected a mapping of the arguments of Trainer, got \[1\]"),
        ({"loggers": "wandb"}, r"mine\.yaml: loggers: expected a list such as \[csv, wandb\], got 'wandb'"),
        ({"loggers": ["wandbb"]}, r"mine\.yaml: loggers\.0: no logger 'wandbb'; did you mean 'wandb'\?"),
        ({"loggers": ["csv", 3]}, r"loggers\.1: expected one of csv, tensorboard, wandb, mlflow, or class_path"),
        ({"loggers": [{"class_path": "wandb", "mode": "x"}]}, r"loggers\.0\.mode: unknown key; a logger has"),
        ({"loggers": [{"class_path": "wandb", "init_args": 3}]}, r"loggers\.0\.init_args: expected a mapping"),
        ({"loggers": ["csv", "csv"]}, r"loggers\.1: csv is named twice"),
        (
            {"loggers": ["csv", {"class_path": "mlflow", "init_args": {"tracking_uri": "http://me:hush@host:5000"}}]},
            r"loggers\.1\.init_args\.tracking_uri: a recipe is kept beside its results, and so holds no password",
        ),
    ],
)
def test_mistakes_name_the_file_and_the_key(content: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        load(written(tmp_path, **content))


def test_a_logger_may_log_to_a_folder(tmp_path: Path) -> None:
    for uri in ("file:./mlruns", "file:/tmp/mlruns", "sqlite:///mlruns.db", "http://host:5000"):
        mlflow = {"class_path": "mlflow", "init_args": {"tracking_uri": uri}}
        assert load(written(tmp_path, loggers=[mlflow])).loggers == [mlflow]


def test_a_bare_name_and_its_class_are_one_logger() -> None:
    (one,) = read_loggers([{"class_path": "lightning.pytorch.loggers.WandbLogger"}])
    assert [one] == read_loggers(["wandb"]) and one.name == "wandb"
    assert read_loggers(None) == []
