"""The recipe for small catalogues, from a tower of published weights, on two processes that share the work."""

from __future__ import annotations

import json
from pathlib import Path

import moonlib.compat  # noqa: F401
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from moonlib.runs.iteration import fit
from moonlib.testing.processes import Program

MODEL = "test_resnet"


@pytest.fixture
def overrides(data_cache: Path, tmp_path: Path) -> list[str]:
    """A tower small enough for a test, whose weights are a file."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.data").symlink_to(data_cache)
    torch.manual_seed(0)
    checkpoint = tmp_path / "published.safetensors"
    save_file(timm.create_model(MODEL, num_classes=0).state_dict(), checkpoint)
    image = f"{{class_path: timm, init_args: {{model: {MODEL}, image_size: 32, checkpoint: {checkpoint}}}}}"
    return [
        "--data.init_args.size=tiny",
        f"--encoder.init_args.image={image.replace('{model', '{pretrained: false, model')}",
        "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
        "--stages.posttrain.module.init_args.freeze_towers_until=2",
        "--stages.posttrain.trainer.max_steps=4",
        "--stages.posttrain.trainer.accelerator=cpu",
        "--stages.posttrain.data.batch_size=16",
        "--stages.posttrain.data.workers=0",
        "--stages.posttrain.validate={every: 2, rows: 20, gallery: 30}",
        "--stages.represent.data.workers=0",
        "--stages.application=null",
    ]


def words(runs: Path, overrides: list[str]) -> list[str]:
    return ["fit", "--config", "small_catalogue", "--runs", str(runs), *overrides]


@pytest.mark.first
def test_two_processes_validate_freeze_and_keep_the_same_best(overrides: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shared = ["--stages.posttrain.trainer.devices=2", "--stages.posttrain.trainer.strategy=ddp"]
    command = [*words(runs, [*overrides, *shared, "--stages.represent=null"]), "--progress-seconds", "0"]
    process = Program(["-m", "moonlib", *command])
    said, told = process.communicate()
    assert process.returncode == 0, told
    # One process says how far the run is.
    assert [line.split(" · ")[0] for line in said.splitlines() if " step " in line] == [
        f"small_catalogue/posttrain  step {step} of 4" for step in (1, 2, 3, 4)
    ]
    stage = runs / "small_catalogue/posttrain"
    found = json.loads((stage / "validation.json").read_text())
    assert [row["step"] for row in found["history"]] == [0, 2, 4] and found["kept"]["start_share"] == 0.5
    best = max(found["history"], key=lambda row: (row["recall@10"], -row["step"]))
    assert found["kept"]["step"] == best["step"]
    assert not (stage / "best").exists() and not (stage / "checkpoint.ckpt").exists()


def test_training_begins_at_what_the_tower_knows_and_says_where_it_ends(overrides: list[str], tmp_path: Path) -> None:
    run = fit("small_catalogue", overrides, runs=tmp_path / "runs")
    results = json.loads((run / "results.json").read_text())
    assert results["valid/posttrain/start_share"] == 0.5
    assert {"valid/posttrain/step", "valid/posttrain/recall@10", "baseline/initial/image_search/recall@10"} <= set(
        results
    )
    # Statistics of batch normalisation are the published ones, whatever was trained.
    published = load_file(tmp_path / "published.safetensors")
    kept = load_file(run / "posttrain/weights.safetensors")
    means = {name: value for name, value in published.items() if name.endswith("running_mean")}
    assert means and all(torch.equal(kept[f"image.body.{name}"], value) for name, value in means.items())
