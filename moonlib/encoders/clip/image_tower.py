"""The image half of CLIP, SigLIP or SigLIP2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
from torch import Tensor, nn

from moonlib.encoders.clip.checkpoint import clip_config, clip_model, projection
from moonlib.encoders.image_processor import ProcessImage, normalisation
from moonlib.encoders.pretrained import UnusableCheckpoint, options, read_image_processor
from moonlib.encoders.tower import ImageTower


class CLIPImage(ImageTower):
    """The image half of a CLIP, SigLIP or SigLIP2 of transformers, with its own image processor and projection.

    Of the same pixels it makes what transformers' ``get_image_features`` makes. Images are decoded by moonlib, which
    turns those that EXIF says to turn and lays transparency on white, and then resized and cropped by the processor's
    own steps. The mean and the standard deviation are applied on the device.

    Args:
        model: a name on the hub, or the path of a folder with ``config.json`` and ``preprocessor_config.json``.
        pretrained: read the weights; otherwise only the architecture and the image processor are taken.

    Raises:
        UnusableCheckpoint: the model cannot be had, is of another kind, or lacks its image processor.

    Source: Radford et al., 2021, section 2.4 (CLIP); Zhai et al., 2023 (SigLIP); Tschannen et al., 2025 (SigLIP2).

    Example:
        >>> tower = CLIPImage("google/siglip2-base-patch16-224")
    """

    body: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, model: str, pretrained: bool = True) -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained

    @property
    def is_published(self) -> bool:
        """See `ImageTower.is_published`."""
        return self.pretrained

    def setup(self) -> None:
        """Read the image processor, and make, read or download the weights; the text half is let go."""
        self.config = clip_config(self.model)
        self.processor = read_image_processor(self.model, options(self.model))
        self.image_size, scaling = normalisation(self.model, self.processor)
        self.load_image = ProcessImage(self.processor)
        self.register_buffer("mean", scaling.mean, persistent=False)
        self.register_buffer("std", scaling.std, persistent=False)
        vision = self.config.vision_config
        if self.image_size != vision.image_size:
            raise UnusableCheckpoint(
                f"the image processor of '{self.model}' makes images of {self.image_size} pixels, and its weights are "
                f"of {vision.image_size}: they do not belong together"
            )
        whole = clip_model(self.model, self.config, self.pretrained)
        # What is read comes in eval mode, where its dropout would stay off: the mode is the encoder's.
        self.body = whole.vision_model.train(self.training)
        self.projection = projection(whole, "visual").train(self.training)
        self.out_features = int(getattr(self.projection, "out_features", vision.hidden_size))

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write ``config.json`` and the image processor; see `Encoder.save_architecture`."""
        self.config.save_pretrained(directory)
        self.processor.save_pretrained(directory)
        return {"model": str(directory), "pretrained": False}

    def forward(self, image: Tensor) -> Tensor:
        """Return float [B, out_features], not normalised; see `ImageTower.forward`."""
        pooled: Tensor = self.body(pixel_values=(image - self.mean) / self.std).pooler_output
        projected: Tensor = self.projection(pooled)
        return projected
