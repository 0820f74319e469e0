"""Stages that learn from vectors: of a stage before them, of another run, of a folder or of a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.artifacts.layout import IDENTITY, LOG, RunLayout
from moonlib.representations.store import Representations, write_array
from moonlib.runs.iteration import fit
from moonlib.runs.parents import named_parents
from moonlib.runs.run import Run, RunError

RECIPE = """
seed: 1
data: {class_path: marketplace, init_args: {size: tiny}}
encoder: {class_path: dual, init_args: {dim: 16, image: {class_path: convnet, init_args: {image_size: 16, width: 8}}, fusion: sum}}
trainer: {accelerator: cpu, devices: 1}
stages:
  collaborative:
    module: {class_path: collaborative, init_args: {dim: 8, iterations: 2}}
    data: {min_actions: 2}
  posttrain:
    module:
      class_path: posttraining
      init_args:
        losses:
          info_nce: 1
          distill: {weight: 0.5, init_args: {teacher: collaborative}}
          relational: {weight: 0.25, init_args: {teacher: collaborative}}
        negatives: [in_batch]
    data: {tasks: {image -> image: 1}, batch_size: 16, workers: 0}
    trainer: {max_steps: 3, log_every_n_steps: 1}
"""  # noqa: E501
PLACE = "--stages.posttrain.module.init_args.losses"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "taught.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def taught(recipe: Path, data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose post-training has a stage before it for a teacher."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / ".data").symlink_to(data_cache)
    return fit(recipe, runs=runs)


def made(run: Path, stage: str = "posttrain") -> str:
    return RunLayout.of(run).fingerprint(stage)


def test_a_stage_learns_from_the_vectors_of_one_before_it(taught: Path) -> None:
    log = pl.read_csv(taught / "posttrain" / LOG).drop_nulls("loss")
    assert len(log) == 3
    for row in log.iter_rows(named=True):
        expected = row["loss/info_nce"] + 0.5 * row["loss/distill"] + 0.25 * row["loss/relational"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
        assert row["loss/distill"] > 0 and 0 < row["loss/relational"] < 2
    results = json.loads((taught / "results.json").read_text())
    assert 0 < results["collaborative/coverage"] <= 1
    assert 0 <= results["collaborative/recall@10"] <= 1
    products = Representations.open((taught / "collaborative").resolve(), "products")
    assert products.dim == 8 and np.isfinite(products.vectors).all()


def test_the_fingerprint_follows_the_teacher(taught: Path, recipe: Path) -> None:
    again = fit(recipe, runs=taught.parent, name="again")
    assert made(again) == made(taught)
    other = fit(recipe, ["--stages.collaborative.module.init_args.alpha", "3"], runs=taught.parent, name="alpha")
    assert made(other, "collaborative") != made(taught, "collaborative") and made(other) != made(taught)
    heavier = fit(recipe, [f"{PLACE}.distill", "0.75"], runs=taught.parent, name="heavier")
    assert made(heavier, "collaborative") == made(taught, "collaborative") and made(heavier) != made(taught)


def by_file(run: Path, teacher: Path, recipe: Path, name: str) -> str:
    """The fingerprint of the stage with a teacher outside of the run."""
    words = ["--stages.collaborative", "null", f"{PLACE}.relational", "null"]
    words += [f"{PLACE}.distill.init_args.teacher", str(teacher)]
    return made(fit(recipe, words, runs=run.parent, name=name))


def test_vectors_and_ids_of_a_folder_or_a_file_are_in_the_fingerprint(
    taught: Path, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    for end in ("npy", "ids.npy"):
        shutil.copyfile((taught / "collaborative").resolve() / f"products.{end}", folder / f"products.{end}")
    found = {"folder": by_file(taught, folder, recipe, "folder")}
    assert by_file(taught, folder / "products.npy", recipe, "file") == found["folder"]
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert by_file(taught, moved, recipe, "moved") == found["folder"]
    # Other ids of the same vectors, and other vectors of the same ids, are other teachers.
    for file in ("products.ids.npy", "products.npy"):
        content = np.load(moved / file)
        changed = content.copy()
        changed[[0, 1]] = changed[[1, 0]] if file == "products.npy" else (changed[0] - 1, changed[1])
        write_array(moved / file, changed)
        found[file] = by_file(taught, moved, recipe, file.replace(".", "-"))
        write_array(moved / file, content)
    assert len(set(found.values())) == 3


def test_a_finished_run_is_reused_where_its_teacher_is_gone(taught: Path, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    for end in ("npy", "ids.npy"):
        shutil.copyfile((taught / "collaborative").resolve() / f"products.{end}", folder / f"products.{end}")
    first = by_file(taught, folder, recipe, "gone")
    assert [str(parent) for parent in Run(taught.parent / "gone").parents] == [str(folder)]
    shutil.rmtree(folder)
    assert by_file(taught, folder, recipe, "gone") == first
    with pytest.raises(RunError, match="is no stage of this recipe, and no run or folder of vectors"):
        by_file(taught, folder, recipe, "anew")


def test_teachers_outside_of_the_run_are_its_parents(taught: Path) -> None:
    config = Run(taught).config
    assert list(named_parents(config)) == []
    losses = config["stages"]["posttrain"]["module"]["init_args"]["losses"]
    losses["distill"]["loss"]["init_args"]["teacher"] = "runs/old"
    assert list(named_parents(config)) == [("posttrain taught distill by", "runs/old")]
    assert "teachers" in json.loads((taught / "posttrain" / IDENTITY).read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{PLACE}.distill.init_args.teacher", "colaborative"], "did you mean 'collaborative'"),
        ([f"{PLACE}.distill.init_args.teacher", "posttrain"], "posttrain is no stage before this one"),
        (["--stages.collaborative.after", "posttrain"], "collaborative is no stage before this one: move it"),
        ([f"{PLACE}.distill.init_args.teacher", "s3://shop/vectors"], "is a URL: copy"),
        (
            [f"{PLACE}.distill.init_args.teacher", "/nowhere"],
            "/nowhere is no stage of this recipe, and no run or folder",
        ),
    ],
)
def test_a_teacher_that_is_not_there_is_refused_before_anything_is_made(
    recipe: Path, runs: Path, words: list[str], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        fit(recipe, words, runs=runs)
    assert not (runs / "taught").exists()


def test_a_stage_that_leaves_no_vectors_is_no_teacher(recipe: Path, runs: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        f"extends: {recipe}\nstages: {{refine: {{after: posttrain, module: {{class_path: posttraining, "
        "init_args: {loss: {class_path: distill, init_args: {teacher: posttrain}}, negatives: [in_batch]}}, "
        "data: {tasks: {image -> image: 1}}, trainer: {max_steps: 1}}}\n"
    )
    with pytest.raises(RunError, match=r"stages\.refine: teacher: the stage posttrain leaves no vectors"):
        fit(extra, runs=runs)
