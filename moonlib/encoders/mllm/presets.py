"""Small architectures to train from scratch, one per family; widths and depths for a few minutes on two cores."""

from __future__ import annotations

from typing import Any

_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
# Of the 16 frequencies of a head of 32: time, height, width.
_MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_PATCHES: dict[str, Any] = {"patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 1}

PRESETS: dict[str, dict[str, Any]] = {
    "qwen2_vl_small": {
        "model_type": "qwen2_vl",
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": {"depth": 3, "embed_dim": 128, "hidden_size": 128, "num_heads": 4, "mlp_ratio": 3, **_PATCHES},
        "tie_word_embeddings": True,
    },
    "qwen2_5_vl_small": {
        "model_type": "qwen2_5_vl",
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": {
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "out_hidden_size": 128,
            "num_heads": 4,
            "window_size": 32,
            "fullatt_block_indexes": [2],
            **_PATCHES,
        },
        "tie_word_embeddings": True,
    },
    "qwen3_vl_small": {
        "model_type": "qwen3_vl",
        "text_config": {**_TEXT, "head_dim": 32, "rope_parameters": {**_MROPE, "mrope_interleaved": True}},
        "vision_config": {
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "out_hidden_size": 128,
            "num_heads": 4,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1],
            **_PATCHES,
        },
        "tie_word_embeddings": True,
    },
    "smolvlm_small": {
        "model_type": "smolvlm",
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        "scale_factor": 2,
        "tie_word_embeddings": True,
    },
    "idefics3_small": {
        "model_type": "idefics3",
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        "scale_factor": 2,
        "tie_word_embeddings": True,
    },
}
"""Arguments of ``AutoConfig.for_model``, by name; the vocabulary and the special tokens are filled in later."""
