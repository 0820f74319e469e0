"""A run whose stage stays comparable with an earlier run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moonlib.runs.comparable import content_of, old_run
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run, RunError

SHORT = [
    "--data.init_args.size=tiny",
    "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
    "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
    "--encoder.init_args.dim=32",
    "--stages.pretrain.trainer.max_steps=3",
    "--stages.pretrain.data.batch_size=32",
    "--stages.pretrain.data.workers=0",
    "--stages.pretrain.data.tasks={image -> title+image: 1.0}",
    "--stages.represent=null",
    "--stages.application=null",
]


def compatible_with(run: Path) -> str:
    return f"--stages.pretrain.module.init_args.compatible_with={run}"


def test_a_fingerprint_covers_what_the_earlier_run_holds_and_not_where_it_lies(
    finished_run: Path, tmp_path: Path, runs: Path
) -> None:
    copied = shutil.copytree(finished_run.parent, tmp_path / "elsewhere", symlinks=True) / finished_run.name
    first = (fit("iter1", [*SHORT, compatible_with(finished_run)], runs=runs, name="a") / "pretrain").resolve()
    assert (fit("iter1", [*SHORT, compatible_with(copied)], runs=runs, name="b") / "pretrain").resolve() == first
    arguments = json.loads((first / "identity.json").read_text())["config"]["module"]["init_args"]
    assert arguments["compatible_with"] == content_of(old_run(str(finished_run)))
    without = (fit("iter1", SHORT, runs=runs, name="c") / "pretrain").resolve()
    heavier = [*SHORT, compatible_with(copied), "--stages.pretrain.module.init_args.compatibility=3"]
    weighted = (fit("iter1", heavier, runs=runs, name="d") / "pretrain").resolve()
    weights = {stage: (stage / "weights.safetensors").read_bytes() for stage in (first, without, weighted)}
    assert len(set(weights.values())) == 3


def test_a_finished_run_is_reused_when_the_earlier_one_is_gone(finished_run: Path, tmp_path: Path, runs: Path) -> None:
    copied = shutil.copytree(finished_run.parent, tmp_path / "elsewhere", symlinks=True) / finished_run.name
    stage = (fit("iter1", [*SHORT, compatible_with(copied)], runs=runs, name="a") / "pretrain").resolve()
    shutil.rmtree(copied)
    assert (fit("iter1", [*SHORT, compatible_with(copied)], runs=runs, name="a") / "pretrain").resolve() == stage
    shutil.rmtree(stage)
    with pytest.raises(RunError, match=r"compatible_with: .*iter1: there is no such run directory"):
        fit("iter1", [*SHORT, compatible_with(copied)], runs=runs, name="a")


def test_other_vectors_are_other_content(finished_run: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(finished_run.parent, tmp_path / "runs", symlinks=True)
    run = runs / finished_run.name
    before = old_run(str(run))
    stage = before.directory
    (stage / "moonlib.sha256").rename(tmp_path / "sums")  # as runs that are older than checksums
    assert content_of(before) == content_of(old_run(str(finished_run)))
    vectors = np.load(stage / "products.npy")
    np.save(stage / "products.npy", 2 * vectors)
    assert content_of(before) != content_of(old_run(str(finished_run)))


def test_runs_that_can_not_be_compared_with_are_told_before_anything_is_done(
    finished_run: Path, tmp_path: Path, runs: Path
) -> None:
    def refused(place: Path) -> str:
        with pytest.raises(RunError) as caught:
            fit("iter1", [*SHORT, compatible_with(place)], runs=runs, name="new")
        assert not (runs / "new").exists()
        return str(caught.value)

    key = "stages.pretrain.module.init_args.compatible_with"
    assert refused(tmp_path / "nothing") == f"{key}: {tmp_path / 'nothing'}: there is no such run directory"
    copied = shutil.copytree(finished_run.parent, tmp_path / "runs2", symlinks=True) / finished_run.name
    stage = (copied / "represent").resolve()
    (copied / "represent").unlink()
    assert "is not finished: represent is missing" in refused(copied)
    pruned = copied.parent / ".stages" / "0123456789abcdef"
    (copied / "represent").symlink_to(pruned)
    message = refused(copied)
    assert f"compatible_with: {copied} is not finished: represent is missing, {pruned} was deleted; `moonlib" in message
    (copied / "represent").unlink()
    (copied / "represent").symlink_to(stage)
    recipe = copied / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("moonlib.stages.represent.Represent", "moonlib.stages.probing.Probing")
    )
    assert Run(copied).config["stages"]["represent"]["module"]["class_path"].endswith("Probing")
    assert "its recipe has no represent stage" in refused(copied)


def test_a_cut_vector_file_ends_the_run_with_its_name(finished_run: Path, tmp_path: Path, runs: Path) -> None:
    copied = shutil.copytree(finished_run.parent, tmp_path / "runs2", symlinks=True) / finished_run.name
    file = (copied / "represent").resolve() / "products.npy"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"products\.npy"):
        fit("iter1", [*SHORT, compatible_with(copied)], runs=runs, name="new")


def test_another_dim_is_refused(finished_run: Path, runs: Path) -> None:
    narrow = [*SHORT, "--encoder.init_args.dim=16", compatible_with(finished_run)]
    with pytest.raises(ValueError, match="have 32 dimensions, and this encoder makes 16"):
        fit("iter1", narrow, runs=runs, name="new")
