"""A linear encoder: small pictures and hashed words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from moonlib.data import Content, Side, decode_image
from moonlib.encoders import ContentBatch, Encoder


@dataclass(frozen=True)
class Preprocess:
    """Turns contents into small pictures and hashes of pieces of words.

    Attributes:
        size: side of the pictures in pixels.
        buckets: how many hashes there are.
        max_length: pieces of a text beyond it are cut off.
    """

    size: int
    buckets: int
    max_length: int

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        """Return image uint8 [B, 3, size, size], has_image bool [B], text int64 [B, T], text_mask bool [B, T]."""
        image = torch.zeros(len(contents), 3, self.size, self.size, dtype=torch.uint8)
        text = torch.zeros(len(contents), self.max_length, dtype=torch.int64)
        mask = torch.zeros(len(contents), self.max_length, dtype=torch.bool)
        for row, content in enumerate(contents):
            if content.image is not None:
                image[row] = decode_image(content.image, size=self.size)
            pieces = self.pieces(content.text or "")
            text[row, : len(pieces)] = torch.tensor(pieces, dtype=torch.int64)
            mask[row, : len(pieces)] = True
        has_image = torch.tensor([content.image is not None for content in contents], dtype=torch.bool)
        return {"image": image, "has_image": has_image, "text": text, "text_mask": mask}

    def pieces(self, text: str) -> list[int]:
        """Hashes of the words of a text and of their neighbouring pairs of characters."""
        words = text.lower().split()
        pieces = words + [word[i : i + 2] for word in words for i in range(len(word) - 1)]
        return [zlib.crc32(piece.encode()) % self.buckets for piece in pieces[: self.max_length]]


class Template(Encoder):
    """One matrix for the pixels of a small picture, one vector per hashed piece of a word; their mean and sum.

    Nothing is fitted, so that it works for any catalogue and language at once. A row with neither modality is zeros.

    Args:
        dim: width of the representation.
        size: side of the pictures in pixels.
        buckets: how many pieces of words can be told apart.
        max_length: pieces of a text beyond it are cut off.

    Source: Weinberger et al., "Feature hashing for large scale multitask learning" (2009), section 2.
    """

    def __init__(self, dim: int = 64, size: int = 16, buckets: int = 4096, max_length: int = 64) -> None:
        super().__init__()
        self.dim = self.image_dim = self.text_dim = dim
        self.size = size
        self.buckets = buckets
        self.max_length = max_length

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Make the weights; there is no preprocessing to fit."""
        self.preprocessor = Preprocess(self.size, self.buckets, self.max_length)
        self.image = nn.Linear(3 * self.size**2, self.dim)
        self.text = nn.Embedding(self.buckets, self.dim)

    def forward(self, batch: ContentBatch) -> Tensor:
        """Return float [B, dim]; see `Encoder.forward`."""
        pixels = batch["image"].flatten(1).to(self.image.weight.dtype) / 127.5 - 1
        image = self.image(pixels).masked_fill(~batch["has_image"].unsqueeze(1), 0)
        mask = batch["text_mask"]
        pieces = self.text(batch["text"]).masked_fill(~mask.unsqueeze(2), 0)
        rows: Tensor = image + pieces.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return rows
