"""The base class of fusions, which join the modalities of a dual encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Fusion(nn.Module, ABC):
    """Joins an image and a text vector into one representation; either may be missing in any row.

    A constructor takes the recipe's arguments; `setup` makes the weights once the widths are known.
    """

    @abstractmethod
    def setup(self, image_dim: int, text_dim: int, dim: int) -> None:
        """Make the weights.

        Args:
            image_dim: width of the image vectors (0: this encoder has no image tower).
            text_dim: width of the text vectors (0: this encoder has no text tower).
            dim: width of the representation.
        """

    @abstractmethod
    def forward(self, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor) -> Tensor:
        """Fuse.

        Args:
            image: float [B, image_dim]; the values of rows without an image have no effect.
            text: float [B, text_dim]; the values of rows without a text have no effect.
            has_image: bool [B].
            has_text: bool [B].

        Returns:
            float [B, dim]; a row with neither modality is all zeros.
        """
