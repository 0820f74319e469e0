"""A checkpoint of CLIP, SigLIP or SigLIP2, whose halves encode images and texts to one space."""

from __future__ import annotations

from typing import Any

from torch import nn

from moonlib.encoders.pretrained import UnusableCheckpoint, options, quiet, read_config, read_weights, reading

KINDS = ("clip", "siglip")
"""Types of models that are read; SigLIP2's of one resolution say that they are a ``siglip``."""


def clip_config(model: str) -> Any:
    """The configuration of a checkpoint.

    Args:
        model: a name on the hub, or a folder.

    Raises:
        UnusableCheckpoint: it cannot be had, or is another kind of model.
    """
    config: Any = read_config(model, options(model))
    if config.model_type == "siglip2":
        raise UnusableCheckpoint(
            f"'{model}' is a NaFlex SigLIP2, which cuts each image into patches of its own proportions; choose a "
            "SigLIP2 of one resolution, such as google/siglip2-base-patch16-224"
        )
    if config.model_type not in KINDS:
        raise UnusableCheckpoint(
            f"'{model}' is a {config.model_type}; expected a CLIP, SigLIP or SigLIP2. Models of images alone are read "
            "by the tower hf_image, models of texts alone by hf_text"
        )
    return config


def clip_model(model: str, config: Any, pretrained: bool) -> Any:
    """The whole model, float32, with ``vision_model`` and ``text_model``.

    Args:
        model: a name on the hub, or a folder.
        config: what `clip_config` returned for it.
        pretrained: read the weights; otherwise they are random.

    Raises:
        UnusableCheckpoint: the weights cannot be had, see `moonlib.encoders.pretrained.read_weights`.
    """
    import moonlib.compat  # noqa: F401
    from transformers import AutoModel

    place = options(model)
    if pretrained:
        return read_weights(AutoModel, model, place)
    with reading(model, place), quiet():
        return AutoModel.from_config(config, trust_remote_code=False).float()


def projection(whole: nn.Module, half: str) -> nn.Module:
    """The map of a half's pooled output to the common space; SigLIP's halves do without."""
    found: nn.Module = getattr(whole, f"{half}_projection", None) or nn.Identity()
    return found
