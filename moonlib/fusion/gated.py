"""Fusion by a gate per dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moonlib.fusion.common_space import CommonSpace, Start
from moonlib.fusion.fusion import Fusion


class Gated(Fusion):
    """A mean of the modalities' unit vectors whose weights, per dimension, depend on both.

    weights = softmax over the modalities present of W [image; text] + b, for each dimension apart.

    W and b start at zero, where the gate is `Sum`'s plain mean; rows with one modality do not move it. So after
    training on single modalities only, a product with both is still represented sensibly.

    Args:
        start: first weights of the projections: ``random``, or ``identity``, which leaves the towers' vectors as they
            are, see `moonlib.fusion.common_space.CommonSpace`.

    Source: gated multimodal units (Arevalo et al., 2017, section 3.1), with unit vectors in place of tanh and a softmax
    in place of the sigmoid, so that a missing modality leaves all the weight to the other.
    """

    def __init__(self, start: Start = "random") -> None:
        super().__init__()
        self.start: Start = start

    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        """Make the projections and the gate."""
        self.space = CommonSpace(image_dim, text_dim, dim, self.start)
        self.gate = nn.Linear(2 * dim, 2 * dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Return float [B, dim]; see `Fusion.forward`."""
        units = self.space(image, text, has_image, has_text)
        logits = self.gate(units.flatten(1)).view_as(units)
        present = torch.stack([has_image, has_text], dim=1)
        # A row with neither keeps both weights: softmax over nothing is NaN, and its units are zero anyway.
        absent = ~present & present.any(dim=1, keepdim=True)
        weights = logits.masked_fill(absent.unsqueeze(2), -torch.inf).softmax(dim=1)
        return (weights * units).sum(dim=1)
