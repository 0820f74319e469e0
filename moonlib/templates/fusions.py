"""Fusion by one learned weight per modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.fusion import CommonSpace, Fusion


class Template(Fusion):
    """A weighted mean of the modalities' unit vectors; the two weights are learned and the same for every row.

    weights = softmax over the modalities present of w. With w = 0, where training begins, this is the plain mean.

    Args:
        image: w of the image at the start; that of the text is 0.
    """

    def __init__(self, image: float = 0.0) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([image, 0.0]))

    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        """Make the projections."""
        self.space = CommonSpace(image_dim, text_dim, dim)

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Return float [B, dim]; see `Fusion.forward`."""
        units = self.space(image, text, has_image, has_text)
        present = torch.stack([has_image, has_text], dim=1)
        # A row with neither keeps both weights: softmax over nothing is NaN, and its vectors are zero anyway.
        absent = ~present & present.any(dim=1, keepdim=True)
        weights = self.logits.expand(len(units), 2).masked_fill(absent, -torch.inf).softmax(dim=1)
        return (weights.unsqueeze(2) * units).sum(dim=1)
