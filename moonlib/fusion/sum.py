"""Fusion by adding unit vectors."""

from __future__ import annotations

from torch import Tensor

from moonlib.fusion.common_space import CommonSpace, Start
from moonlib.fusion.fusion import Fusion


class Sum(Fusion):
    """The mean of the unit vectors of the modalities that are present.

    Nothing but the two projections is learned, so a product with image and title lies between its image and its title
    even if training only contrasted the one with the other.

    Args:
        start: first weights of the projections: ``random``, or ``identity``, which leaves the towers' vectors as they
            are, see `moonlib.fusion.common_space.CommonSpace`.

    Source: score-level fusion of UniIR (Wei et al., 2023, section 4), here with a projection per modality.
    """

    def __init__(self, start: Start = "random") -> None:
        super().__init__()
        self.start: Start = start

    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        """Make the projections."""
        self.space = CommonSpace(image_dim, text_dim, dim, self.start)

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Return float [B, dim]; see `Fusion.forward`."""
        units = self.space(image, text, has_image, has_text)
        present = (has_image.int() + has_text.int()).clamp(min=1).unsqueeze(1)
        return units.sum(dim=1) / present
