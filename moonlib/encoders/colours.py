"""Histograms of colours."""

from __future__ import annotations

import torch
from torch import Tensor

BORDER = 0.1875
"""Share of an image's side that is left out at each edge, where the surroundings are, or another product."""


def colour_histogram(image: Tensor, bins: int) -> Tensor:
    """Square roots of the shares of colours in the middle of images; a vector of length 1 each.

    The cosine of two of them is the Bhattacharyya coefficient of the histograms. They are constant: no gradient flows
    back to the pixels.

    Args:
        image: uint8 [B, 3, H, W], RGB; 5/8 of each side are looked at.
        bins: of each channel, of equal width.

    Returns:
        float32 [B, bins ** 3]; the bin of red r, green g and blue b is at (r · bins + g) · bins + b.

    Source: Swain and Ballard, "Color indexing" (IJCV 1991); the square root as in Arandjelović and Zisserman, "Three
    things everyone should know to improve object retrieval" (CVPR 2012), section 3.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> image[:, 0, :, :3] = 255  # red at the left; columns 2 to 5 are in the middle
        >>> colour_histogram(image, bins=2)
        tensor([[0.8660, 0.0000, 0.0000, 0.0000, 0.5000, 0.0000, 0.0000, 0.0000]])
    """
    top, left = (round(BORDER * side) for side in image.shape[2:])
    middle = image[:, :, top : image.shape[2] - top, left : image.shape[3] - left].long() * bins // 256
    red, green, blue = middle.flatten(2).unbind(dim=1)
    places = (red * bins + green) * bins + blue
    ones = torch.ones_like(places, dtype=torch.float32)
    # Not len(image), which would fix the size in an exported program.
    counts = ones.new_zeros(image.shape[0], bins**3).scatter_add(1, places, ones)
    return (counts / places.shape[1]).sqrt()
