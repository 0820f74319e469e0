"""The space in which an image and a text vector of one product can be compared and added."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Start = Literal["random", "identity"]
"""The first weights of projections: drawn at random, or such that the towers' vectors pass through unchanged."""


class CommonSpace(nn.Module):
    """Projects each modality linearly into one space and scales it to unit length.

    Because contrastive training pulls the two unit vectors of a product together, any weighted mean of them is a
    sensible representation, even where training only ever showed one modality at a time.

    Args:
        image_dim: width of the image vectors (0: no image tower).
        text_dim: width of the text vectors (0: no text tower).
        dim: width of the common space.
        start: ``random``, or ``identity``: each tower's vector stands in the first dimensions, followed by zeros, so
            that the cosines of two images, and of two texts, are those of the towers until training moves them.

    Raises:
        ValueError: ``identity``, and a tower is wider than the space.
    """

    def __init__(self, image_dim: int, text_dim: int, dim: int, start: Start = "random") -> None:
        super().__init__()
        self.dim = dim
        self.image = nn.Linear(image_dim, dim) if image_dim else None
        self.text = nn.Linear(text_dim, dim) if text_dim else None
        if start == "identity":
            for name, width, projection in (("image", image_dim, self.image), ("text", text_dim, self.text)):
                if width > dim:
                    raise ValueError(
                        f"fusion: start: identity passes the {name} tower's {width} dimensions on, and the encoder's "
                        f"dim is {dim}: set encoder.init_args.dim to at least {max(image_dim, text_dim)}, or start: "
                        "random"
                    )
                if projection is not None:
                    nn.init.eye_(projection.weight)
                    nn.init.zeros_(projection.bias)

    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Project.

        Args:
            image: float [B, image_dim].
            text: float [B, text_dim].
            has_image: bool [B].
            has_text: bool [B].

        Returns:
            float [B, 2, dim], the unit vectors of image and text; zeros where one is missing.
        """
        return torch.stack(
            [self._project(self.image, image, has_image), self._project(self.text, text, has_text)], dim=1
        )

    def _project(self, projection: nn.Linear | None, values: Tensor, present: Tensor) -> Tensor:
        if projection is None:
            return values.new_zeros(values.shape[0], self.dim)  # len() would fix the size in an exported program
        present = present.unsqueeze(1)
        # Where, not multiplication: a missing row may hold NaN. Both ways, because the projection has a bias.
        unit = F.normalize(projection(torch.where(present, values, 0)), dim=1)
        return torch.where(present, unit, 0)
