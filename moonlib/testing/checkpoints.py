"""Small random checkpoints of transformers, in folders that are laid out as published ones are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import moonlib.compat  # noqa: F401
import torch

Checkpoint = Literal["clip", "siglip", "siglip2", "dinov2", "vit", "convnext", "bert", "qwen2_5_vl"]

_NARROW: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.,!'?"
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, *(f"##{letter}" for letter in _LETTERS), "蓝", "色"]


def example_checkpoint(kind: Checkpoint, folder: Path, seed: int = 0) -> str:
    """Write a model with random weights, its tokenizer and its image processor.

    Args:
        kind: the class of the model; ``siglip2`` is one of a fixed resolution, ``bert`` a text model.
        folder: to write to; made if there is none.
        seed: of the weights.

    Returns:
        The folder, as a recipe names a model.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    random = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model, processor = _model(kind, transformers, folder)
        # Random weights are so small that a model hardly tells one input from another.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    finally:
        torch.random.set_rng_state(random)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


def _model(kind: Checkpoint, transformers: Any, folder: Path) -> tuple[Any, Any]:
    size = {"height": 32, "width": 32}
    cut: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": size}
    pictures: dict[str, Any] = {"image_size": 32, "patch_size": 8}
    if kind == "qwen2_5_vl":
        return _qwen(transformers, folder), None
    if kind == "bert":
        (folder / "vocab.txt").write_text("\n".join(_BERT), encoding="utf-8")
        transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        text = _NARROW | {"vocab_size": len(_BERT), "max_position_embeddings": 64}
        return transformers.BertModel(transformers.BertConfig(**text)), None
    if kind == "clip":
        words = _clip_tokenizer(folder)
        text = _NARROW | {
            "vocab_size": words,
            "max_position_embeddings": 77,
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            "pad_token_id": words - 1,
        }
        config = transformers.CLIPConfig(text_config=text, vision_config=_NARROW | pictures, projection_dim=24)
        return transformers.CLIPModel(config), transformers.CLIPImageProcessor(**cut)
    if kind in ("siglip", "siglip2"):
        words = _gemma_tokenizer(folder) if kind == "siglip2" else _plain_tokenizer(folder)
        text = _NARROW | {
            "vocab_size": words,
            "max_position_embeddings": 64,
            "projection_size": 32,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        }
        config = transformers.SiglipConfig(text_config=text, vision_config=_NARROW | pictures)
        resample = 2 if kind == "siglip2" else 3  # bilinear and bicubic, as they are published
        return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size=size, resample=resample)
    if kind == "dinov2":
        sides = _NARROW | pictures | {"mlp_ratio": 2, "image_size": 64}  # finer positions than the pictures it is given
        return transformers.Dinov2Model(transformers.Dinov2Config(**sides)), transformers.BitImageProcessor(**cut)
    if kind == "vit":
        return (
            transformers.ViTModel(transformers.ViTConfig(**_NARROW, **pictures)),
            transformers.ViTImageProcessor(size=size),
        )
    widths = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    return (
        transformers.ConvNextModel(transformers.ConvNextConfig(**widths)),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    )


def _qwen(transformers: Any, folder: Path) -> Any:
    """A Qwen2.5-VL of two narrow layers, with a tokenizer of letters and the marks that the family uses."""
    from moonlib.encoders.mllm.processor import IMAGE, SPECIAL
    from moonlib.testing.mllm import example_mllm_config

    _fast_tokenizer(folder, "PreTrainedTokenizerFast", byte_fallback=True)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.save_pretrained(folder)
    values = example_mllm_config("qwen2_5_vl_small")
    text = {**values.pop("text_config"), "vocab_size": len(tokenizer)}
    text |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = transformers.AutoConfig.for_model(
        values.pop("model_type"),
        **{**values, "text_config": text, "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE)},
    )
    return transformers.AutoModelForImageTextToText.from_config(config)


def _clip_tokenizer(folder: Path) -> int:
    """CLIP's byte-level BPE with a few merges, in its own two files; returns the size of the vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("m", "u"), ("mu", "g</w>")]
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 77,
        },
    )
    return len(words)


def _gemma_tokenizer(folder: Path) -> int:
    """Gemma's kind of BPE, which tells capitals from small letters; returns the size of the vocabulary."""
    return _fast_tokenizer(folder, "GemmaTokenizer", byte_fallback=True)


def _plain_tokenizer(folder: Path) -> int:
    """A tokenizer of letters; SigLIP's own needs sentencepiece. Returns the size of the vocabulary."""
    return _fast_tokenizer(folder, "PreTrainedTokenizerFast", byte_fallback=False)


def _fast_tokenizer(folder: Path, name: str, byte_fallback: bool) -> int:
    from tokenizers import Tokenizer, models, normalizers, processors

    special: Sequence[str] = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback), "▁", *_LETTERS, "re", "red"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[("r", "e"), ("re", "d")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {f"{mark}_token": f"<{mark}>" for mark in ("pad", "eos", "bos", "unk", "mask")}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": name, **marks, "padding_side": "right", "add_bos_token": False, "add_eos_token": True},
    )
    return len(words)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
