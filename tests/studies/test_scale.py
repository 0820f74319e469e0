"""Scaling studies: what a study file may say, its points as ordinary runs, and what is gathered of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.cli import main
from moonlib.cli.scale import print_scaling
from moonlib.config.recipe import RecipeError, load, shipped
from moonlib.runs.run import Run
from moonlib.studies.scale import gather, scale
from moonlib.studies.study import Study, StudyError

STEPS = "stages.pretrain.trainer.max_steps"
SCALE: dict[str, Any] = {
    "axes": {"training samples": {"keys": {STEPS: [1, 2, 4, 8, 16]}, "times": 32, "unit": "pairs"}},
    "metrics": {"image_search/recall@10": "max"},
    "seeds": [3, 5],
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a study of iter1's pretraining, with changes of its section."""

    def write(name: str = "steps.yaml", **changes: Any) -> Path:
        section = {key: value for key, value in (SCALE | changes).items() if value is not None}
        content = {"extends": "iter1", "stages": {"represent": None, "application": None}, "scale": section}
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / name

    return write


def pretend(study: Study, of: Callable[[float, int], float]) -> None:
    """Write the runs of a study as if they had been run, with values from x and seed."""
    for point in study.points:
        run = study.directory / point.name
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(yaml.safe_dump(study.config_of(point)))
        value = of(next(iter(point.x.values())), point.seed)
        (run / "results.json").write_text(json.dumps({"image_search/recall@10": value, "other": 1.0}))


def test_points_are_the_grid_the_smallest_first(write: Write) -> None:
    axes = {
        "samples": {"keys": {STEPS: [8, 2]}, "times": 64},
        "width": {"keys": {"encoder.init_args.dim": [32, 64], "stages.pretrain.data.batch_size": [64, 128]}},
    }
    study = Study(
        write(axes=axes, seeds=[3], seed_keys=["seed", "data.init_args.seed"]), ["--data.init_args.size=tiny"]
    )
    assert [point.name for point in study.points] == ["128x32-seed3", "128x64-seed3", "512x32-seed3", "512x64-seed3"]
    assert [point.index for point in study.points] == [0, 1, 2, 3]
    assert study.points[1].x == {"samples": 128.0, "width": 64.0}
    config = study.config_of(study.points[1])
    assert config["stages"]["pretrain"]["trainer"]["max_steps"] == 2
    assert config["stages"]["pretrain"]["data"]["batch_size"] == 128
    assert config["encoder"]["init_args"]["dim"] == 64
    assert config["seed"] == 3 and config["data"]["init_args"] == {"size": "tiny", "seed": 3}


def test_x_may_be_given_and_values_be_anything(write: Write) -> None:
    keys = {"data.init_args.size": ["small", "tiny"], "stages.pretrain.data.tasks": [{"image -> title": 1}, None]}
    study = Study(write(axes={"products": {"keys": keys, "x": [8000, 300]}}))
    assert [point.x["products"] for point in study.points] == [300.0, 300.0, 8000.0, 8000.0]
    assert '--data.init_args.size="tiny"' in study.points[0].overrides
    assert "--stages.pretrain.data.tasks=null" in study.points[0].overrides


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"axes": None}, "scale.axes: missing"),
        ({"axes": {}}, "scale.axes: expected one axis or two, got 0"),
        ({"axes": {"a": {"key": {STEPS: [1]}}}}, "scale.axes.a.key: unknown key; did you mean 'keys'?"),
        ({"axes": {"a": {"keys": {}}}}, "scale.axes.a.keys: expected at least one key"),
        ({"axes": {"a": {"keys": {STEPS: 5}}}}, "scale.axes.a.keys"),
        ({"axes": {"a": {"keys": {STEPS: [1, 2], "seed": [1]}}}}, "scale.axes.a.keys.seed: 1 values, but"),
        ({"axes": {"a": {"keys": {STEPS: [1, 2]}, "x": [1]}}}, "scale.axes.a.x: 1 numbers, but"),
        ({"axes": {"a": {"keys": {STEPS: [0, 2]}}}}, "a number above 0, got 0; say in x where"),
        ({"axes": {"a": {"keys": {"data.init_args.size": ["tiny"]}}}}, "a number above 0, got 'tiny'; say in x where"),
        ({"axes": {"a": {"keys": {STEPS: [2, 2]}}}}, "two values lie at the same place"),
        ({"metrics": {"ctr/auc": "higher"}}, "scale.metrics"),
        ({"metrics": {}}, "scale.metrics: expected at least one metric"),
        ({"seeds": [1, 1]}, r"scale.seeds: expected one or more different seeds, got \[1, 1\]"),
        ({"seed_keys": []}, "scale.seed_keys: expected the keys"),
        ({"repeats": 2}, "scale.repeats: unknown key"),
    ],
)
def test_mistakes_in_the_section_name_file_and_key(write: Write, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told) as raised:
        Study(write(**changes))
    assert "steps.yaml: scale" in str(raised.value)


def test_a_key_that_a_point_cannot_set_is_named_before_anything_runs(write: Write, runs: Path) -> None:
    axes = {"a": {"keys": {"stages.pretrain.trainer.max_step": [1, 2, 3, 4]}}}
    told = (
        r"steps\.yaml: scale: point 1-seed3: stages\.pretrain\.trainer\.max_step: unknown key; did you mean 'max_steps'"
    )
    with pytest.raises(RecipeError, match=told):
        scale(write(axes=axes), runs=runs)
    assert [path.name for path in runs.iterdir()] == [".data"]


def test_a_recipe_without_the_section_is_no_study() -> None:
    with pytest.raises(StudyError, match=r"iter1\.yaml is no scaling study: it has no section `scale`"):
        Study("iter1")


def test_a_run_takes_no_notice_of_the_section(write: Write) -> None:
    study = write()
    assert (
        load(study).config
        == load("iter1", ["--stages.represent=null", "--stages.application=null", "--changes=null"]).config
    )


def test_recipe_check_looks_at_the_section_and_at_every_point(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    right = write("right.yaml")
    wrong = write("wrong.yaml", seeds=[])
    unset = write("unset.yaml", axes={"a": {"keys": {STEPS: ["many"]}, "x": [1]}})
    assert main(["recipe", "check", str(right), str(wrong), str(unset)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"ok: {right}"
    assert second.startswith(f"broken: {wrong}: scale.seeds: ")
    assert third.startswith(f"broken: {unset}: scale: point 1-seed3: {STEPS}: expected int") and "'many'" in third


def test_every_shipped_study_has_six_points_of_two_seeds() -> None:
    studies = {name: load(name) for name in shipped() if name.startswith("studies/scaling/")}
    assert {name.split("/")[-1] for name in studies} == {"training_samples", "negatives", "behaviour_length"}
    for name, recipe in studies.items():
        study = Study(name)
        assert recipe.scale and len({point.seed for point in study.points}) == 2
        assert len(study.points) >= 12
        study.config_of(study.points[-1])  # can be set


def test_gather_fits_what_is_there(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(write(), runs=tmp_path / "runs")
    pretend(study, lambda x, seed: 1 - (0.2 + 2 * x**-0.5) * (0.999 if seed == 3 else 1.001))
    gathered = gather(study)
    print_scaling(gathered)
    file = gathered.file
    found = json.loads(file.read_text())
    assert file == tmp_path / "runs/steps/scale.json"
    assert found["study"] == "steps" and found["axes"] == ["training samples"]
    assert found["metric"] == "image_search/recall@10" and found["missing"] == found["more"] == []
    assert found["points"][0]["x"] == {"training samples": 32.0}
    assert found["points"][0]["seed"] == 3 and found["points"][0]["run"] == "steps/32-seed3"
    fit = found["fit"]
    assert fit["of"] == "1 - image_search/recall@10" and fit["form"] == "E + A·N^-alpha"
    assert fit["parameters"]["E"]["estimate"] == pytest.approx(0.2, rel=0.02)
    assert fit["parameters"]["alpha"]["low"] < 0.5 < fit["parameters"]["alpha"]["high"]
    assert fit["power_law"] is True and fit["held_out"]["x"] == {"training samples": 512.0}
    assert fit["held_out"]["errors"]["power law"] < fit["held_out"]["errors"]["line"]
    assert (file.parent / "scale.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "training samples [pairs]" in printed and "(held out)" in printed
    row = next(line for line in printed.splitlines() if line.strip().startswith("512 "))
    values = [point["y"] for point in found["points"][-2:]]
    assert f"{sum(values) / 2:.4f}" in row and all(f"{value:.4f}" for value in values)
    assert fit["verdict"] in printed and "a power law predicts the largest point best, in 100%" in printed


def test_gather_says_what_is_missing(write: Write, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(write(seeds=[3]), runs=runs)
    pretend(study, lambda x, seed: 0.5)
    first, second = study.points[0], study.points[4]
    (study.directory / first.name / "results.json").unlink()
    assert main(["scale", "--config", study.config, "--runs", str(runs), "--gather"]) == 0
    found = json.loads((study.directory / "scale.json").read_text())
    assert len(found["points"]) == 4 and "no power law here: a constant" in found["fit"]["verdict"]
    assert found["fit"]["parameters"]["E"]["low"] is None  # one seed
    assert [row["x"] for row in found["missing"]] == [{"training samples": 32.0}]
    printed = capsys.readouterr().out
    assert "missing: 32-seed3: " in printed and "has no results yet" in printed
    assert f"next: {study.command(first)}" in printed and study.command(first).endswith("--point 0")

    recipe = study.directory / second.name / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_steps: 16", "max_steps: 17"))
    gather(study)
    found = json.loads((study.directory / "scale.json").read_text())
    assert found["fit"]["verdict"] == "not fitted: a power law of 3 parameters needs at least 4 points, got 3"
    assert f"{STEPS} 17 (now 16)" in found["missing"][1]["why"]
    assert (study.directory / "scale.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", "[]"),
        ("results.json", '{"image_search/recall@10": "0.5"}'),
        ("results.json", '{"image_search/recall@10": {"test": 0.5}}'),
        ("results.json", '{"image_search/recall@10": NaN}'),
        ("results.json", ""),
        ("recipe.yaml", "stages: {pretrain: 3}"),
        ("recipe.yaml", "stages: [1]"),
    ],
)
def test_a_point_that_cannot_be_read_is_missing_and_the_others_are_fitted(
    write: Write, runs: Path, name: str, content: str
) -> None:
    study = Study(write(seeds=[3]), runs=runs)
    pretend(study, lambda x, seed: 1 - x**-0.5)
    (study.directory / study.points[0].name / name).write_text(content)
    gather(study)
    found = json.loads((study.directory / "scale.json").read_text())
    assert len(found["points"]) == 4
    (missing,) = found["missing"]
    assert missing["x"] == study.points[0].x and study.points[0].name in missing["why"]


def test_nothing_to_gather_is_said(write: Write, runs: Path) -> None:
    study = write()
    with pytest.raises(StudyError, match=r"no point is finished; the first: .*32-seed3"):
        scale(study, runs=runs, gather_only=True)


def test_a_grid_of_two_axes(write: Write, tmp_path: Path) -> None:
    axes = {
        "samples": {"keys": {STEPS: [1, 4, 16]}},
        "width": {"keys": {"encoder.init_args.dim": [32, 64]}},
    }
    study = Study(write(axes=axes, metrics={"other": "min"}, seeds=[3]), runs=tmp_path / "runs")
    for index, point in enumerate(study.points):
        run = study.directory / point.name
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(yaml.safe_dump(study.config_of(point)))
        (run / "results.json").write_text(json.dumps({"other": 1 / (2 + index)}))
    found = json.loads(gather(study).file.read_text())
    assert found["fit"]["variables"] == {"N": "samples", "D": "width"}
    assert set(found["fit"]["parameters"]) == {"E", "A", "alpha", "B", "beta"}
    assert found["fit"]["of"] == "other"  # one to be minimised is fitted as it is
    assert found["fit"]["held_out"]["x"] == {"samples": 16.0, "width": 64.0}


def test_print_jobs_prints_commands_that_name_each_point(
    write: Write, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write()
    words = ["scale", "--config", str(study), "--runs", str(runs), "--name", "mine", "--data.init_args.size", "tiny"]
    assert main([*words, "--print-jobs"]) == 0
    jobs = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(jobs) == 10
    for index, job in enumerate(jobs):
        assert job[:2] == ["moonlib", "scale"] and job[job.index("--point") + 1] == str(index)
        assert job[-2:] == ["--data.init_args.size", "tiny"] and job[job.index("--name") + 1] == "mine"
    assert main([*words, "--point", "10"]) == 2
    assert "no point 10: " in capsys.readouterr().err


def test_points_are_runs_and_one_that_fails_leaves_the_others(
    tmp_path: Path, runs: Path, short_iter2: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line on the tiny marketplace: three points, of which one cannot be trained, on one pretraining."""
    steps = "stages.posttrain.trainer.max_steps"
    section = {
        "axes": {"samples": {"keys": {steps: [1, 2, 0]}, "x": [1, 2, 4]}},
        "metrics": {"image_search/recall@10": "max"},
        "seeds": [1],
        "seed_keys": ["stages.posttrain.data.workers"],  # of no consequence: one marketplace, one training
    }
    content = {"extends": "iter2", "stages": {"application": None}, "scale": section}
    (tmp_path / "steps.yaml").write_text(yaml.safe_dump(content))
    short = [word for word in short_iter2 if ".application." not in word]
    words = ["scale", "--config", str(tmp_path / "steps.yaml"), "--runs", str(runs), *short]
    assert main([*words, "--point", "1"]) == 0
    assert [path.name for path in (runs / "steps").iterdir()] == ["2-seed1"]
    capsys.readouterr()

    assert main(words) == 2
    printed, err = capsys.readouterr()
    assert "1 of 3 points failed: 4-seed1: posttraining counts in steps" in err
    assert "--point 2" in err and err.rstrip().endswith("--traceback` shows where")
    assert f"{'posttrain':28s} {'reused':>10s}" in printed  # of the point that was run before
    found = json.loads((runs / "steps/scale.json").read_text())
    assert [point["run"] for point in found["points"]] == ["steps/1-seed1", "steps/2-seed1"]
    for point in found["points"]:
        run = Run(runs / point["run"])
        assert run.results["image_search/recall@10"] == point["y"]
        assert (run.directory / "pretrain").resolve() == (runs / "steps/1-seed1/pretrain").resolve()
        assert (run.directory / "pretrain").resolve().parent == (runs / ".stages").resolve()
        assert run.dataset().counts["products"] > 0  # found from a run that lies deeper
    assert found["fit"]["verdict"].startswith("not fitted: ")

    absent = [*words, "--scale.metrics={image_search/recal@10: max}"]
    assert main(absent) == 2
    printed, err = capsys.readouterr()
    assert "1-seed1 has no result 'image_search/recal@10'; did you mean 'image_search/recall@10'?" in err
    assert "point 1 of 3" not in printed  # the others would lack it too

    undefined = [*words, "--scale.metrics={valid/text_search/recall@10@new: max}"]
    assert main(undefined) == 2
    printed, err = capsys.readouterr()
    assert "steps/1-seed1: 'valid/text_search/recall@10@new' is not defined: there is no search" in err
    assert "point 1 of 3" in printed  # another point's data may define it

    (runs / "mine").mkdir()
    (runs / "mine/recipe.yaml").touch()
    assert main([*words, "--name", "mine", "--point", "0"]) == 2
    assert "mine is the directory of a run: give the study another --name" in capsys.readouterr().err
