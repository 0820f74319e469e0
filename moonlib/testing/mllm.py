"""Architectures of the encoder `mllm` that cost next to nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from moonlib.encoders.mllm.presets import PRESETS


def example_mllm_config(preset: str = "qwen2_vl_small") -> dict[str, Any]:
    """Shrink a preset to two layers of width 32; give it to `MLLM` as ``config``."""
    config = deepcopy(PRESETS[preset])
    text, vision = config["text_config"], config["vision_config"]
    narrow = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    text.update(narrow | {"num_key_value_heads": 1})
    if "rope_parameters" in text:
        text["rope_parameters"] = {**text["rope_parameters"], "mrope_section": [2, 3, 3]}
        text.update({"head_dim": 16} if "head_dim" in text else {})
        vision.update({"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 48})
        vision.update({name: 32 for name in ("embed_dim", "out_hidden_size") if name in vision})
        if "fullatt_block_indexes" in vision:
            vision["fullatt_block_indexes"] = [1]
    else:
        vision.update(narrow)
    return config
