"""What the tests of the documentation share: recipes cut short, and one store of the stages they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from moonlib.recipe_merge import merge_layers, read_layers
from moonlib.testing.mllm import example_mllm_config

Shorten = Callable[[Path], list[str]]

SMALL = {
    "image": {"class_path": "convnet", "init_args": {"image_size": 32, "width": 8}},
    "text": {"class_path": "transformer", "init_args": {"vocab_size": 300, "width": 32, "depth": 1}},
}


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished stages of all runs of these tests: what one has run, the others take over."""
    return tmp_path_factory.mktemp("stages")


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
            if stage["module"] == "represent" or "tasks" in stage.get("data", {}):
                words += [f"--stages.{name}.data.workers", "0"]
            if stage.get("trainer", {}).get("accelerator") == "gpu":  # two processes in place of eight GPUs
                processes = "1" if stage["module"] == "represent" else "2"
                cpu = {"accelerator": "cpu", "devices": processes, "strategy": "auto", "precision": "32-true"}
                words += [word for key, value in cpu.items() for word in (f"--stages.{name}.trainer.{key}", value)]
        if merged.get("encoder", {}).get("class_path") == "mllm":
            small = {"model": None, "config": example_mllm_config("qwen2_5_vl_small"), "vocab_size": 300}
            small |= {"max_length": 16, "image_tokens": 4}
            for key, value in small.items():
                words += [
                    f"--encoder.init_args.{key}",
                    yaml.safe_dump(value, default_flow_style=True).split("\n...")[0],
                ]
        for tower, small in SMALL.items():
            if merged.get("encoder", {}).get("init_args", {}).get(tower) == small["class_path"]:
                words += [f"--encoder.init_args.{tower}", yaml.safe_dump(small, default_flow_style=True).strip()]
        if "marketplace" in yaml.safe_dump(merged["data"]):
            words += ["--data.init_args.size", "tiny"]
        return words

    return overrides
