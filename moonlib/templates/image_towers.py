"""An image tower of patches."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from moonlib.data import decode_image
from moonlib.encoders import ImageTower


class Template(ImageTower):
    """Looks at square patches one by one and averages what it sees in them.

    Small and quick, and blind to where in the picture something is.

    Args:
        image_size: side of the images in pixels, a multiple of ``patch``.
        patch: side of a patch in pixels.
        width: width of the output.

    Raises:
        ValueError: if ``image_size`` is not a multiple of ``patch``.
    """

    def __init__(self, image_size: int = 64, patch: int = 8, width: int = 64) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"image_size {image_size} is not a multiple of patch {patch}")
        self.image_size = image_size
        self.patch = patch
        self.out_features = width

    def setup(self) -> None:
        """Make the weights."""
        self.load_image = partial(decode_image, size=self.image_size)
        self.patches = nn.Conv2d(3, self.out_features, self.patch, stride=self.patch)
        self.mix = nn.Conv2d(self.out_features, self.out_features, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return float [B, out_features]; see `ImageTower.forward`."""
        pixels = image.to(self.patches.weight.dtype) / 127.5 - 1
        seen: Tensor = self.mix(self.patches(pixels).relu()).relu()
        return seen.mean(dim=(2, 3))
