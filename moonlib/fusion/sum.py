"""Fusion by adding unit vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moonlib.fusion.common_space import CommonSpace, Start
from moonlib.fusion.fusion import Fusion


class Sum(Fusion):
    """The mean of the unit vectors of the modalities that are present.

    Nothing but the two projections is learned, so a product with image and title lies between its image and its title
    even if training only contrasted the one with the other.

    Args:
        projection: project each modality into the common space first. False for towers that share one already, such as
            the two halves of a CLIP: then there are no weights, and a row with one modality keeps its direction.
        start: first weights of the projections: ``random``, or ``identity``, which leaves the towers' vectors as they
            are, see `moonlib.fusion.common_space.CommonSpace`.

    Raises:
        ValueError: without a projection, the modalities and the representation differ in width.

    Source: score-level fusion of UniIR (Wei et al., 2023, section 4), here with a projection per modality.
    """

    def __init__(self, projection: bool = True, start: Start = "random") -> None:
        super().__init__()
        self.projection = projection
        self.start: Start = start

    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        """Make the projections."""
        if self.projection:
            self.space = CommonSpace(image_dim, text_dim, dim, self.start)
        elif {image_dim, text_dim} - {0, dim}:
            raise ValueError(
                f"fusion: sum without a projection needs vectors of one width: image {image_dim}, text {text_dim}, "
                f"representation (dim) {dim}; choose a fusion with a projection (sum, gated, concat), or other widths"
            )

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Return float [B, dim]; see `Fusion.forward`."""
        if self.projection:
            total = self.space(image, text, has_image, has_text).sum(dim=1)
        else:
            given = ((image, has_image), (text, has_text))
            total = torch.stack([_unit(values, there) for values, there in given if values.shape[1]]).sum(dim=0)
        present = (has_image.int() + has_text.int()).clamp(min=1).unsqueeze(1)
        return total / present


def _unit(values: Tensor, present: Tensor) -> Tensor:
    """Vectors of unit length, zeros where there is none."""
    # Where, not multiplication: a missing row may hold NaN.
    return F.normalize(torch.where(present.unsqueeze(1), values, 0), dim=1)
