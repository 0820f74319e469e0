"""The keys `encoder.from` and a stage's `from`: what they mean, and what is refused while a recipe is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.artifacts.directories import write_json
from moonlib.config.merge import RecipeError, merge
from moonlib.config.recipe import diff, load

ENCODER = {"class_path": "dual", "init_args": {"text": "transformer", "fusion": "sum", "dim": 64}}
TRAINED = {"module": {"class_path": "posttraining", "init_args": {"loss": "info_nce", "negatives": ["in_batch"]}}}
STAGES = {"posttrain": {**TRAINED, "data": {"tasks": {"text -> title": 1.0}}}, "represent": {"module": "represent"}}
RECIPE = {"data": "marketplace", "stages": STAGES}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe, or that of a run."""

    def to(place: str, **keys: Any) -> Path:
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({**RECIPE, **keys}), encoding="utf-8")
        return file

    return to


@pytest.fixture
def week1(write: Write) -> str:
    """A run directory, as far as a recipe is read."""
    return str(write("runs/week1/recipe.yaml", encoder=ENCODER).parent)


def problem_of(recipe: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(recipe, overrides)
    return str(caught.value)


def test_alone_it_takes_the_class_and_arguments_of_the_run(write: Write, week1: str) -> None:
    recipe = load(write("weekly.yaml", encoder={"from": week1}))
    assert recipe.encoder_source == week1
    assert recipe.config["encoder"] == {"from": week1, **load(Path(week1, "recipe.yaml")).config["encoder"]}
    encoder = recipe.encoder()
    assert encoder is not None and encoder.dim == 64


@pytest.mark.parametrize("encoder", [ENCODER, {**ENCODER, "init_args": {**ENCODER["init_args"], "crop": ["full"]}}])  # type: ignore[dict-item]
def test_what_the_recipe_declares_may_say_the_same_again(write: Write, week1: str, encoder: dict[str, Any]) -> None:
    recipe = load(write("weekly.yaml", encoder=encoder), ["--encoder.from", week1])
    assert recipe.config["encoder"]["from"] == week1


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        ({"init_args": {"dim": 32}}, "encoder.init_args.dim", "has 64, and this recipe 32: a warm start changes no"),
        (
            {"init_args": {"text": {"class_path": "transformer", "init_args": {"width": 96}}}},
            "encoder.init_args.text.init_args.width",
            "has 128, and this recipe 96",
        ),
        ({"init_args": {"fusion": "gated"}}, "encoder.init_args.fusion", "has moonlib.fusion.sum.Sum, and"),
        (
            {"class_path": "mllm", "init_args": {"dim": 64}},
            "encoder",
            "has moonlib.encoders.dual.DualEncoder, and this recipe moonlib.encoders.mllm.encoder.MLLM",
        ),
    ],
)
def test_the_first_argument_that_differs_is_named_with_both_values(
    write: Write, week1: str, change: dict[str, Any], key: str, problem: str
) -> None:
    told = problem_of(write("weekly.yaml", encoder=merge(ENCODER, change)), "--encoder.from", week1)
    assert told.startswith(f"command line: {key}: ") or f"weekly.yaml: {key}: " in told, told
    assert f"the encoder of {week1} {problem}" in told


def test_a_bare_name_of_the_encoder_goes_with_the_key(write: Write, week1: str) -> None:
    write("runs/plain/recipe.yaml", encoder={"class_path": "clip", "init_args": {"model": "a/b"}})
    recipe = write("weekly.yaml", encoder="dual")
    assert "encoder" in problem_of(
        recipe, "--encoder.from", week1
    )  # `fusion` is missing: not taken from week1 in silence


def test_an_export_brings_its_own_encoder(write: Write, tmp_path: Path) -> None:
    exported = {"class_path": "dual", "init_args": {**ENCODER["init_args"], "dim": 48}}  # type: ignore[dict-item]
    folder = write("shipped/recipe.yaml", encoder=exported).parent
    write_json(folder / "config.json", {"moonlib_export": 2, "encoder": exported})
    encoder = load(write("weekly.yaml", encoder={"from": str(folder)})).encoder()
    assert encoder is not None and encoder.dim == 48
    write_json(folder / "config.json", {"model_type": "clip"})
    assert "config.json was not written by `moonlib export`" in problem_of(tmp_path / "weekly.yaml")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("runs/nowhere", "encoder.from: runs/nowhere: there is no such run directory, seen from "),
        (
            ".",
            "encoder.from: . is neither a run directory, it has no recipe.yaml, nor an export, it has no config.json",
        ),
        (7, "encoder.from: expected a run directory such as runs/last_week, got 7"),
        ("", "encoder.from: expected a run directory such as runs/last_week, got ''"),
        (["a"], "encoder.from: expected a run directory such as runs/last_week, got ['a']"),
        ("https://me:secret@host/run", "a recipe is kept beside its results, and so holds no password"),
    ],
)
def test_what_is_no_run_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = problem_of(write("weekly.yaml", encoder={"from": source}))
    assert problem in told and "weekly.yaml: " in told and "secret" not in told


def test_a_run_without_an_encoder_and_one_that_can_t_be_read_are_refused(write: Write, tmp_path: Path) -> None:
    run = write("runs/given/recipe.yaml").parent
    recipe = write("weekly.yaml", encoder={"from": str(run)})
    assert f"encoder.from: {run} declares no encoder; give a run whose recipe has one" in problem_of(recipe)
    (run / "recipe.yaml").write_text("a: [")
    assert f"encoder.from: {run / 'recipe.yaml'} can't be read" in problem_of(recipe)
    (run / "recipe.yaml").write_text("a")
    assert f"encoder.from: {run / 'recipe.yaml'} is not the recipe of a run" in problem_of(recipe)


def test_a_misspelt_key_beside_it_is_told(write: Write, week1: str) -> None:
    assert "encoder.init_arg: unknown key" in problem_of(write("weekly.yaml", encoder={"from": week1, "init_arg": {}}))


def test_a_stage_names_a_run_or_a_stage_of_one(write: Write, week1: str) -> None:
    recipe = write("weekly.yaml", encoder=ENCODER)
    for source in (week1, f"{week1}/posttrain", f"{week1}/"):
        stage = load(recipe, ["--stages.posttrain.from", source]).stages["posttrain"]
        assert stage.source == stage.written["from"] == source
        assert "from" not in stage.config
    assert load(recipe).stages["posttrain"].source is None


@pytest.mark.parametrize(
    ("stage", "source", "problem"),
    [
        ("posttrain", "{week1}/pretrain", "{week1} has no stage 'pretrain': give RUN/STAGE of one; "),
        ("posttrain", "{week1}/represen", "has no stage 'represen': give RUN/STAGE of one; did you mean 'represent'?"),
        ("posttrain", "{week1}2", "{week1}2: there is no such run directory"),
        ("posttrain", "3", "expected a run directory such as runs/last_week, got 3"),
        ("represent", "{week1}", "Represent starts from no other run's stage; leave it out, or give it to a stage"),
    ],
)
def test_what_a_stage_can_t_start_from_is_refused(
    write: Write, week1: str, stage: str, source: str, problem: str
) -> None:
    source, problem = source.format(week1=week1), problem.format(week1=week1)
    told = problem_of(write("weekly.yaml", encoder=ENCODER), f"--stages.{stage}.from", source)
    assert told.startswith(f"command line: stages.{stage}.from: ") and problem in told


def test_the_recipe_of_a_run_is_read_without_what_it_started_from(write: Write, week1: str) -> None:
    recipe = load(write("weekly.yaml", encoder={"from": week1}), ["--stages.posttrain.from", week1])
    run = write("runs/week2/recipe.yaml", **recipe.config)
    Path(week1, "recipe.yaml").unlink()
    Path(week1).rmdir()
    assert load(run, started=True).config == recipe.config
    assert "there is no such run directory" in problem_of(run)


def test_a_difference_names_the_keys(write: Write, week1: str) -> None:
    recipe = write("weekly.yaml", encoder=ENCODER)
    changed = load(recipe, ["--encoder.from", week1, "--stages.posttrain.from", week1])
    assert diff(load(recipe).config, changed.config) == [
        ("encoder.from", "(not set)", week1),
        ("stages.posttrain.from", "(not set)", week1),
    ]


def test_a_share_of_new_days_is_typed(write: Write) -> None:
    recipe = write("weekly.yaml", encoder=ENCODER)
    key = "--stages.posttrain.data.recent"
    data = load(recipe, [f"{key}={{days: 7, share: 0.75}}"]).stages["posttrain"].data()
    assert (data.recent.days, data.recent.share) == (7, 0.75)
    assert "stages.posttrain.data.recent.shares: unknown key" in problem_of(recipe, f"{key}={{days: 7, shares: 0.75}}")
    with pytest.raises(RecipeError, match=r"recent\.share: expected a share above 0 and at most 1, got 2"):
        load(recipe, [f"{key}={{days: 7, share: 2}}"]).stages["posttrain"].data()
