"""The colour thumbnail: the baseline that a learned image representation has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from moonlib.data.content import Content, Side
from moonlib.data.images import decode_image
from moonlib.data.reads import NOTHING, Reads
from moonlib.encoders.encoder import ContentBatch, Encoder


@dataclass(frozen=True)
class ThumbnailPreprocessor:
    """Decodes an image straight to the size of the thumbnail."""

    size: int

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        """Return ``image`` uint8 [B, 3, size, size] and ``has_image`` bool [B]."""
        image = torch.zeros(len(contents), 3, self.size, self.size, dtype=torch.uint8)
        for i, content in enumerate(contents):
            if content.image is not None:
                image[i] = decode_image(content.image, size=self.size)
        return {"image": image, "has_image": torch.tensor([content.image is not None for content in contents])}


class Thumbnail(Encoder):
    """The pixels of a small colour thumbnail, centred per picture; no weights, no text.

    Args:
        size: side of the thumbnail in pixels.
    """

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.size = size
        self.dim = self.image_dim = 3 * size * size
        self.text_dim = 0

    def reads(self) -> Reads:
        """Nothing."""
        return NOTHING

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """There is nothing to fit."""
        self.preprocessor = ThumbnailPreprocessor(self.size)

    def forward(self, batch: ContentBatch) -> Tensor:
        """Return float [B, 3 * size * size]; zeros for a row without an image."""
        pixels = batch["image"].flatten(1).float() / 255
        pixels = pixels - pixels.mean(dim=1, keepdim=True)
        return pixels * batch["has_image"].unsqueeze(1)
