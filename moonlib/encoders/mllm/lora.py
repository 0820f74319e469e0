"""Low-rank adapters in place of full training."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass
class LoRA:
    """Freeze the model and train a low-rank addition to some of its matrices.

    Args:
        rank: of the addition.
        alpha: the addition is scaled by ``alpha / rank``.
        dropout: on the addition's input, in training.
        modules: last parts of the names of the linear layers that get one.

    Source: Hu et al., "LoRA: Low-rank adaptation of large language models" (2021), section 4.1.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


def add_lora(model: nn.Module, lora: LoRA) -> None:
    """Put adapters into ``model``, in place, and freeze everything else of it.

    At the start an addition is zero, so that the model's output is what it was.

    Raises:
        ValueError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"lora needs peft ({error}): pip install 'moonlib-embedding[mllm]'") from None
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.modules)
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
