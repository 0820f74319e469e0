"""The recipes that start from published weights run offline, on small random checkpoints of the same classes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import moonlib.compat  # noqa: F401
import pytest
import torch

from moonlib.config.merge import merge_layers, read_layers, shipped
from moonlib.exports.folder import export, load
from moonlib.losses.info_nce import InfoNCE
from moonlib.losses.sigmoid import Sigmoid
from moonlib.runs.debug import debug
from moonlib.testing.checkpoints import Checkpoint, example_checkpoint

MODEL = "encoder.init_args.model"
CHECKPOINTS: dict[str, dict[str, Checkpoint]] = {
    "siglip2_base": {MODEL: "siglip2"},
    "clip": {MODEL: "clip"},
    "dinov2_minilm": {
        "encoder.init_args.image.init_args.model": "dinov2",
        "encoder.init_args.text.init_args.model": "bert",
    },
    "qwen": {MODEL: "qwen2_5_vl"},
}
"""By recipe, the keys that name checkpoints, and their class."""


def test_every_one_of_them_is_run() -> None:
    named = {name.removeprefix("pretrained/") for name in shipped() if name.startswith("pretrained/")}
    assert named == {*CHECKPOINTS, "openclip"}  # whose own test trains it, where open_clip is installed


@pytest.mark.parametrize("recipe", CHECKPOINTS)
def test_it_runs_offline(recipe: str, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, float] | None] = []
    for loss in (InfoNCE, Sigmoid):
        monkeypatch.setattr(loss, "start_from", _noting(loss, told))
    (tmp_path / ".data").symlink_to(data_cache)
    words = ["--data.init_args.size", "tiny"]
    for name, stage in merge_layers(read_layers(shipped()[f"pretrained/{recipe}"]))["stages"].items():
        if "max_steps" in stage.get("trainer", {}):  # ten steps of large batches would take minutes
            words += [f"--stages.{name}.trainer.max_steps", "2", f"--stages.{name}.data.batch_size", "8"]
            words += [f"--stages.{name}.data.workers", "0"]
    for key, kind in CHECKPOINTS[recipe].items():
        words += [f"--{key}", example_checkpoint(kind, tmp_path / "checkpoints" / kind)]
    run = debug("limit", f"pretrained/{recipe}", words, runs=tmp_path)
    results = json.loads((run / "results.json").read_text())
    assert "image_search/recall@10" in results
    assert all(math.isfinite(value) for value in results.values())
    if CHECKPOINTS[recipe].get(MODEL) in ("clip", "siglip2"):
        # The loss goes on from the checkpoint's own scale: exp(2.6592) and exp(0), as random ones are written.
        assert told and all(scale is not None and scale[0] > 0 for scale in told)

    if recipe == "qwen":
        return  # tests/exports has models of its kind
    # What is exported needs neither the checkpoint nor a network; the export itself tries it in a process of its own.
    exported = export(run, tmp_path / "exported")
    (tmp_path / "checkpoints").rename(tmp_path / "gone")
    vectors = load(exported).encode(texts=["red mug", "blue shirt"])
    assert torch.isfinite(vectors).all() and vectors.shape[0] == 2


def _noting(loss: type, told: list) -> object:  # type: ignore[type-arg]
    original = loss.start_from  # type: ignore[attr-defined]

    def start_from(self: object, logit_scale: tuple[float, float] | None) -> None:
        told.append(logit_scale)
        original(self, logit_scale)

    return start_from
