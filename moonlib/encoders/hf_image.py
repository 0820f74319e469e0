"""An image tower from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import moonlib.compat  # noqa: F401
import torch
from torch import Tensor, nn

from moonlib.encoders.image_processor import ProcessImage, normalisation
from moonlib.encoders.pretrained import (
    UnusableCheckpoint,
    options,
    quiet,
    read_config,
    read_image_processor,
    read_weights,
    reading,
    used_parameters,
)
from moonlib.encoders.tower import ImageTower

FIRST_TOKENS = ("cls_token", "class_embedding")
"""Ends of the names that transformers gives to the embedding of a model's first token."""


class HFImage(ImageTower):
    """Any vision model of transformers with its own image processor: DINOv2, ViT, ConvNeXt, Swin, ResNet, …

    From the hub or a local folder. No code from the hub is run, and only safetensors weights are read. Images are
    decoded by moonlib, then resized, cropped and padded by the processor's own steps: of the same pixels, the tower
    makes what transformers makes. The mean and the standard deviation are applied on the device.

    Models with batch normalisation (``ResNet``, …) work, but in training a row then depends on its batch, which
    GradCache and several processes cannot reproduce.

    Args:
        model: a name on the hub, or the path of a folder with ``config.json`` and ``preprocessor_config.json``.
        pretrained: read the weights; otherwise only the architecture and the image processor are taken.
        pooling: ``cls``, the first token of the last layer; ``mean`` over its patches; or ``pooler``, the model's own
            pooled output.

    Raises:
        UnusableCheckpoint: the model cannot be had or is of another kind, lacks its image processor, or has no such
            pooling.

    Source: Dosovitskiy et al., 2021 (ViT); Oquab et al., 2023 (DINOv2, whose features are the first token's).

    Example:
        >>> tower = HFImage("facebook/dinov2-small", pooling="cls")
    """

    body: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, model: str, pretrained: bool = True, pooling: Literal["cls", "mean", "pooler"] = "cls") -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained
        self.pooling = pooling

    @property
    def is_published(self) -> bool:
        """See `ImageTower.is_published`."""
        return self.pretrained

    def setup(self) -> None:
        """Read the image processor, and make, read or download the weights."""
        from transformers import AutoModel

        place = options(self.model)
        config = read_config(self.model, place)
        if hasattr(config, "vision_config"):
            raise UnusableCheckpoint(
                f"'{self.model}' is a {config.model_type}, a model of images and text; the tower `clip` reads the "
                "image half of CLIP and SigLIP, and hf_image models of images alone"
            )
        self.processor = read_image_processor(self.model, place)
        self.image_size, scaling = normalisation(self.model, self.processor)
        self.load_image = ProcessImage(self.processor)
        self.register_buffer("mean", scaling.mean, persistent=False)
        self.register_buffer("std", scaling.std, persistent=False)
        if self.pretrained:
            # Checkpoints of classifiers come without a pooler, and it is not used but for its own pooling.
            self.body = read_weights(AutoModel, self.model, place, () if self.pooling == "pooler" else ("pooler.",))
        else:
            with reading(self.model, place), quiet():
                self.body = AutoModel.from_config(config, trust_remote_code=False).float()
        training = self.training
        self.eval()
        output = self._try()
        self.out_features = int(output.shape[1])
        used = used_parameters(output)
        for parameter in self.body.parameters():
            if id(parameter) not in used:  # such as the token that stands for masked patches
                parameter.requires_grad_(False)
        # What is read comes in eval mode, where its dropout would stay off: the mode is the encoder's.
        self.train(training)

    def _try(self) -> Tensor:
        """Encode an image, with its graph; what does not fit is noticed here and not in training."""
        config: Any = self.body.config
        size = self.image_size
        some = torch.arange(3 * size * size).remainder(251).to(torch.uint8).view(1, 3, size, size)
        try:
            with torch.enable_grad():
                encoded, again = self._encoded(some), self._encoded(some)
                states = encoded.last_hidden_state
                self.first_patch = _first_patch(states, getattr(config, "patch_size", None), self.image_size)
                output = self._pooled(encoded)
        except UnusableCheckpoint:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise UnusableCheckpoint(
                f"'{self.model}' ({config.model_type}) does not encode images of {self.image_size} x {self.image_size} "
                f"pixels: {reason}; hf_image takes models of images alone"
            ) from error
        if not torch.equal(states, again.last_hidden_state):
            raise UnusableCheckpoint(
                f"'{self.model}' ({config.model_type}) encodes one image differently each time, as models do that mask "
                "patches at random; choose one without masking"
            )
        return output

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write ``config.json`` and the image processor; see `Encoder.save_architecture`."""
        self.body.config.save_pretrained(directory)  # type: ignore[operator,union-attr]
        self.processor.save_pretrained(directory)
        return {"model": str(directory), "pretrained": False}

    def forward(self, image: Tensor) -> Tensor:
        """Return float [B, out_features]; see `ImageTower.forward`."""
        return self._pooled(self._encoded(image))

    def _encoded(self, image: Tensor) -> Any:
        return self.body(pixel_values=(image - self.mean) / self.std)

    def _pooled(self, encoded: Any) -> Tensor:
        if self.pooling == "pooler":
            pooled: Tensor | None = getattr(encoded, "pooler_output", None)
            if pooled is None:
                raise UnusableCheckpoint(f"'{self.model}' has no pooled output; choose cls or mean", ("pooling",))
            return pooled.flatten(1)
        states: Tensor = encoded.last_hidden_state
        if self.pooling == "mean":
            return states.mean(dim=(2, 3)) if states.ndim == 4 else states[:, self.first_patch :].mean(dim=1)
        if not any(name.endswith(FIRST_TOKENS) for name, _ in self.body.named_parameters()):
            problem = f"'{self.model}' has no first token of its own; choose mean or pooler"
            raise UnusableCheckpoint(problem, ("pooling",))
        return states[:, 0]


def _first_patch(states: Tensor, patch_size: Any, image_size: int) -> int:
    """How many tokens stand before those of the patches: the first token, registers, a distillation token.

    Where neighbouring patches are merged (Swin), there are fewer tokens than patches, and none before them.
    """
    if states.ndim == 4 or not isinstance(patch_size, int):
        return 0
    return max(states.shape[1] - (image_size // patch_size) ** 2, 0)
