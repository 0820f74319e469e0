"""Runs as if an encoder had been trained in them, and models as others hand them over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import pytest
import torch
import yaml

from moonlib.config.typing import construct_component
from moonlib.encoders.encoder import Encoder
from moonlib.encoders.weights import save_weights
from moonlib.testing import example_products


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Make a run directory as if an encoder had been trained in it."""

    def make(config: dict[str, Any]) -> Path:
        run = tmp_path / "runs/made"
        (run / "preprocessing").mkdir(parents=True)
        (run / "pretrain").mkdir()
        encoder: Encoder = construct_component("encoders", config, ("encoder",)).build()
        encoder.setup(example_products(), run / "preprocessing")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        save_weights(encoder, run / "pretrain/weights.safetensors")
        recipe = {
            "seed": 0,
            "data": {"class_path": "moonlib.sources.shards.Shards", "init_args": {"path": "gone"}},
            "encoder": config,
            "stages": {"pretrain": {"module": {"class_path": "moonlib.stages.pretraining.Pretraining"}}},
        }
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return run

    return make


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Models as a hub or a colleague would hand them over: weights, configuration and tokenizer in folders."""
    from timm import create_model
    from timm.models import save_for_hf
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "elsewhere"
    bert = folder / "bert"
    bert.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cotton", "mug", "a", "红", "色"]
    (bert / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **narrow)).save_pretrained(bert)
    save_for_hf(create_model("test_convnext", num_classes=3), folder / "convnext", safe_serialization=True)
    return folder
