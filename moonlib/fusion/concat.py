"""Fusion by concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.fusion.fusion import Fusion


class Concat(Fusion):
    """A linear map or a small MLP over [image; text; has_image; has_text], zeros standing for a missing modality.

    The most general head, and the one that needs the most of its training: nothing ties the vector of a product with
    both modalities to its vectors with one, so training must show it the combinations that it will be asked for. After
    training on single modalities only (image ↔ title), prefer `Sum` or `Gated` for products that have both.

    Args:
        hidden: width of a hidden GELU layer; ``None`` for a linear map.
    """

    def __init__(self, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden

    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        """Make the head."""
        width = image_dim + text_dim + 2
        self.head: nn.Module
        if self.hidden is None:
            self.head = nn.Linear(width, dim)
        else:
            self.head = nn.Sequential(nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, dim))

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Return float [B, dim]; see `Fusion.forward`."""
        present = torch.stack([has_image, has_text], dim=1)
        # Where, not multiplication: a missing row may hold NaN.
        values = [torch.where(present[:, :1], image, 0), torch.where(present[:, 1:], text, 0)]
        fused = self.head(torch.cat([*values, present.to(image.dtype)], dim=1))
        return torch.where(present.any(dim=1, keepdim=True), fused, 0)
