"""What the tests of the documentation share: recipes cut short, and one store of the stages they run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from moonlib.config.merge import merge_layers, read_layers
from moonlib.testing.mllm import example_mllm_config

Shorten = Callable[[Path], list[str]]

SMALL = {
    "image": {"class_path": "convnet", "init_args": {"image_size": 32, "width": 8}},
    "text": {"class_path": "transformer", "init_args": {"vocab_size": 300, "width": 32, "depth": 1}},
}


@pytest.fixture(scope="session")
def stages(shared: Path) -> Path:
    """The finished stages of all runs of these tests, of all processes: what one has run, the others take over."""
    (shared / "stages").mkdir(exist_ok=True)
    return shared / "stages"


@pytest.fixture(scope="session")
def shorten() -> Shorten:
    """Overrides that make a recipe a matter of seconds: small towers, two small steps, the tiny marketplace."""

    def overrides(recipe: Path) -> list[str]:
        merged = merge_layers(read_layers(recipe))
        words = []
        for name, stage in merged["stages"].items():
            if "max_steps" in stage.get("trainer", {}):
                words += [f"--stages.{name}.trainer.max_steps", "2", f"--stages.{name}.trainer.log_every_n_steps", "1"]
                words += [f"--stages.{name}.data.batch_size", "16"]
            if "max_epochs" in stage.get("trainer", {}):  # two steps an epoch
                words += [f"--stages.{name}.data.batch_size", "4000"]
            if stage["module"] == "represent" or "tasks" in stage.get("data", {}):
                words += [f"--stages.{name}.data.workers", "0"]
            if stage.get("trainer", {}).get("accelerator") == "gpu":
                cpu = {"accelerator": "cpu", "devices": "1", "strategy": "auto", "precision": "32-true"}
                words += [word for key, value in cpu.items() for word in (f"--stages.{name}.trainer.{key}", value)]
        if merged.get("encoder", {}).get("class_path") == "mllm":
            config = json.dumps(example_mllm_config("qwen2_5_vl_small"))
            small = {"model": "null", "config": config, "vocab_size": "300", "max_length": "16", "image_tokens": "4"}
            words += [word for key, value in small.items() for word in (f"--encoder.init_args.{key}", value)]
        for tower, tiny in SMALL.items():
            if merged.get("encoder", {}).get("init_args", {}).get(tower) == tiny["class_path"]:
                words += [f"--encoder.init_args.{tower}", yaml.safe_dump(tiny, default_flow_style=True).strip()]
        if "marketplace" in yaml.safe_dump(merged["data"]):
            words += ["--data.init_args.size", "tiny"]
        return words

    return overrides
