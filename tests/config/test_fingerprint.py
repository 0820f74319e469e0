"""What a stage's fingerprint covers: stages are made anew where what they compute may change, and reused elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from moonlib.config.fingerprint import made_with, material, material_recipe, named_files
from moonlib.system.versions import DISTRIBUTION

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

LOSS = """
from moonlib.losses.loss import Loss


class Own(Loss):
    def forward(self, scores, positive, ignore):
        return (scores * ~positive).exp().sum(1) - (scores * positive).sum(1)
"""


@pytest.fixture
def fit(cli: Cli, runs: Path, short_iter2: list[str], tmp_path: Path) -> Callable[..., dict[str, bool]]:
    """Fit the first stage of iter2 by the command line; return which stages were made, and not reused."""
    alone = [f"--stages.{stage}=null" for stage in ("posttrain", "represent", "application")]
    words = [word for word in short_iter2 if ".posttrain." not in word and ".represent." not in word]
    words = [word for word in words if ".application." not in word]

    def fit(*more: str, name: str = "run") -> dict[str, bool]:
        command = ["fit", "--config", "iter2", "--runs", runs, "--name", name, *words, *alone, *more]
        done = cli(*command, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        costs = json.loads((runs / name / "costs.json").read_text())
        return {stage: not costs[stage]["reused"] for stage in ("preprocessing", "pretrain")}

    return fit


def test_a_loss_edited_in_place_retrains_and_its_docstring_does_not(
    fit: Callable[..., dict[str, bool]], tmp_path: Path
) -> None:
    file = tmp_path / "own_loss.py"
    loss = "--stages.pretrain.module.init_args.loss=own_loss.Own"
    file.write_text(LOSS)
    assert fit(loss) == {"preprocessing": True, "pretrain": True}
    file.write_text(LOSS.replace("class Own(Loss):", 'class Own(Loss):\n    """Pulls and pushes."""  # as it is'))
    assert fit(loss) == {"preprocessing": False, "pretrain": False}
    file.write_text(LOSS.replace(".exp()", ".square()"))
    assert fit(loss) == {"preprocessing": False, "pretrain": True}


def test_a_callback_that_has_a_say_retrains_and_one_that_watches_does_not(
    fit: Callable[..., dict[str, bool]], runs: Path, short_iter2: list[str], cli: Cli
) -> None:
    callbacks = "--stages.pretrain.trainer.callbacks="
    assert fit(name="plain")["pretrain"]
    watching = "[{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]"
    assert not fit(f"{callbacks}{watching}", "--stages.pretrain.trainer.logger=true", name="watched")["pretrain"]
    scheduler = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    slower = f"[{{class_path: {scheduler}, init_args: {{scheduling: {{0: 2}}}}}}]"
    assert fit(f"{callbacks}{slower}", name="slower")["pretrain"]
    assert not fit(name="plain-again")["pretrain"]
    weights = [
        (runs / name / "pretrain/weights.safetensors").read_bytes() for name in ("plain", "slower", "plain-again")
    ]
    assert weights[0] == weights[2] != weights[1]


def test_a_run_with_other_callbacks_is_another_recipes(fit: Callable[..., dict[str, bool]]) -> None:
    fit()
    scheduler = (
        "{class_path: lightning.pytorch.callbacks.GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}}"
    )
    with pytest.raises(AssertionError, match=r"stages\.pretrain\.trainer\.callbacks: \(not set\) -> .*GradientAccum"):
        fit(f"--stages.pretrain.trainer.callbacks=[{scheduler}]")
    assert not fit("--stages.pretrain.trainer.callbacks=[{class_path: RichProgressBar}]")["pretrain"]


def test_moonlibs_own_version_and_code_are_part_of_it(fit: Callable[..., dict[str, bool]], runs: Path) -> None:
    fit()
    for stage in ("preprocessing", "pretrain"):
        identity = json.loads((runs / "run" / stage / "identity.json").read_text())
        assert {DISTRIBUTION, "torch", "lightning"} <= set(identity["versions"])
        assert "moonlib" in identity["code"]  # the suite runs in a checkout


def test_libraries_of_models_are_told_where_they_are_used() -> None:
    import moonlib.encoders.convnet
    import moonlib.encoders.timm_tower

    assert moonlib.encoders.timm_tower and moonlib.encoders.convnet
    assert "timm" in made_with({"class_path": "moonlib.encoders.timm_tower.TimmTower"})["versions"]
    assert "timm" not in made_with({"class_path": "moonlib.encoders.convnet.ConvNet"})["versions"]


def test_files_that_a_configuration_names_are_known_by_their_content(tmp_path: Path) -> None:
    checkpoint, model, folder = tmp_path / "tower.safetensors", tmp_path / "model", tmp_path / "photos"
    checkpoint.write_bytes(b"weights")
    for place in (model, folder):
        (place / "sub").mkdir(parents=True)
        (place / "sub/file").write_text("x")
    (model / "config.json").write_text("{}")
    config = {
        "init_args": {
            "image": {"init_args": {"checkpoint": str(checkpoint), "none": str(tmp_path / "gone")}},
            "texts": [str(model), str(folder), "/", "", "a" * 5000, "a\0b"],
        }
    }
    before = named_files(config)
    assert set(before) == {"init_args.image.init_args.checkpoint", "init_args.texts.0"}
    checkpoint.write_bytes(b"weightz")
    os.utime(checkpoint, (1, 1))
    after = named_files(config)
    assert after["init_args.image.init_args.checkpoint"] != before["init_args.image.init_args.checkpoint"]
    (model / "sub/file").rename(model / "sub/renamed")
    assert named_files(config)["init_args.texts.0"] != before["init_args.texts.0"]


@pytest.mark.parametrize(
    ("callback", "kept"),
    [
        ("RichProgressBar", False),
        ({"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}, False),
        ({"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "loss"}}, True),
        ({"class_path": "own.RichProgressBar"}, True),
        ("Timer", True),
    ],
)
def test_callbacks_that_only_watch_are_left_out(callback: object, kept: bool) -> None:
    found = material("trainer", {"max_steps": 1, "callbacks": [callback]})
    assert found == ({"max_steps": 1, "callbacks": [callback]} if kept else {"max_steps": 1})
    assert material("trainer", {"callbacks": callback}) == ({"callbacks": [callback]} if kept else {})


def test_workers_and_loggers_are_no_difference_between_recipes() -> None:
    def recipe(workers: int, **trainer: object) -> dict[str, object]:
        return {"seed": 0, "stages": {"train": {"data": {"workers": workers, "batch_size": 2}, "trainer": trainer}}}

    assert material_recipe(recipe(1, logger=False)) == material_recipe(recipe(4, profiler="simple", callbacks=None))
    assert material_recipe(recipe(1, max_steps=1)) != material_recipe(recipe(1, max_steps=2))
