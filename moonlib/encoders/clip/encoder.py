"""A dual encoder whose halves come from one checkpoint of CLIP, SigLIP or SigLIP2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from moonlib.data.content import View
from moonlib.encoders.clip.image_tower import CLIPImage
from moonlib.encoders.clip.text_tower import CLIPText
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.pretrained import UnusableCheckpoint
from moonlib.fusion.fusion import Fusion
from moonlib.fusion.sum import Sum


class CLIP(DualEncoder):
    """A CLIP, SigLIP or SigLIP2 of transformers: both halves of one checkpoint, its tokenizer and image processor.

    Without an argument but ``model`` it keeps the checkpoint's own projections and their width, so that before any
    training its cosines between images and texts are the checkpoint's own (zero-shot). The loss can start from the
    checkpoint's logit scale, and SigLIP's bias, too: ``{class_path: info_nce, init_args: {temperature: encoder}}``.

    Args:
        model: a name on the hub, such as ``google/siglip2-base-patch16-224``, or a folder with ``config.json``,
            ``preprocessor_config.json``, a tokenizer and safetensors.
        pretrained: read the weights; otherwise only the architecture and the preprocessing are taken.
        fusion: joins the two vectors; null for the mean of their unit vectors, without weights of its own.
        dim: width of the representation; 0 for the checkpoint's own.
        crop: what the image tower sees, see `moonlib.encoders.dual.DualEncoder`.
        learning_rates: pattern → factor on the stage's learning rate, see there.

    Raises:
        UnusableCheckpoint: the checkpoint cannot be had, is of another kind, or lacks its tokenizer or image processor.
        ValueError: as of the dual encoder; or ``dim`` or ``crop`` ask for another width than the checkpoint's and there
            is no ``fusion`` to make it.

    Source: Radford et al., 2021, section 2.3 (CLIP); Zhai et al., 2023 (SigLIP); Tschannen et al., 2025 (SigLIP2).

    Example:
        >>> encoder = CLIP("google/siglip2-base-patch16-224", learning_rates={"embeddings": 0.0})
    """

    image: CLIPImage
    text: CLIPText
    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        model: str,
        pretrained: bool = True,
        fusion: Fusion | None = None,
        dim: int = 0,
        crop: Sequence[View] = ("full",),
        learning_rates: dict[str, float] = {},  # noqa: B006  (a recipe's default is read, never written)
    ) -> None:
        super().__init__(
            fusion or Sum(projection=False),
            image=CLIPImage(model, pretrained),
            text=CLIPText(model, pretrained),
            dim=dim,
            crop=crop,
            learning_rates=learning_rates,
        )
        self.model = model
        self.pretrained = pretrained

    reads = DualEncoder.reads

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Read the preprocessing and the weights; see `Encoder.setup`."""
        try:
            super().setup(products, directory)
        except UnusableCheckpoint as error:
            raise UnusableCheckpoint(error.problem) from error  # the key that names the checkpoint is this one's
        for name, value in (("scale", self.text.scale), ("bias", self.text.bias)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def logit_scale(self) -> tuple[float, float]:
        """The checkpoint's own."""
        return float(self.scale), float(self.bias)

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write ``config.json``, the tokenizer and the image processor; see `Encoder.save_architecture`."""
        return self.image.save_architecture(directory) | self.text.save_architecture(directory)
