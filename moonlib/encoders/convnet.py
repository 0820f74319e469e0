"""A small image tower, trained from scratch and fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from moonlib.data.images import decode_image
from moonlib.encoders.colours import colour_histogram
from moonlib.encoders.tower import ImageTower

COLOURS = 4.0
"""Length of the histogram of colours beside the states, which are of the order of 1 each: else it is learnt last."""


class ConvNet(ImageTower):
    """A network of plain 3×3 convolutions, each stage halving the resolution and doubling the channels.

    What it is made for: a few minutes of training on two CPU cores. Plain overlapping convolutions with stride 2 learn
    more in a few hundred steps than residual blocks behind a patch embedding, and CPUs multiply them at full speed
    (depthwise ones are bound by memory). Normalisation is by groups of channels within an image: no statistic crosses
    rows, so a row's output never depends on its batch, and exposure and contrast matter little.

    The last states are pooled by mean and by maximum: the mean tells how much of something there is, the maximum
    that there is a little of it (an ornament, a logo). Neither knows where. With ``grid``, a 1×1 convolution also
    reduces the last states to a few channels, which are kept place by place: proportions, and where an ornament sits.
    With ``colours``, a histogram of the colours in the middle of the image stands beside them: convolutions are slow to
    learn which colours there are, and how much of each.

    Args:
        image_size: side of the images in pixels, a multiple of 2 ** number of stages.
        width: channels of the first stage, a multiple of 8.
        depths: residual blocks after the halving, for each stage; more of them suit longer training.
        grid: channels that are kept of each place, which the output grows by: grid · (image_size / 2 ** number of
            stages)². None for mean and maximum alone.
        colours: bins of each channel in the histogram of colours, by whose third power the output grows. None for none.

    Raises:
        ValueError: ``image_size`` or ``width`` is not such a multiple, ``grid`` is below 1, or ``colours`` below 2.

    Source: Wu & He, 2018 (group normalisation); He et al., 2016, section 3 (residual blocks).
    """

    def __init__(
        self,
        image_size: int = 64,
        width: int = 32,
        depths: Sequence[int] = (0, 0, 0, 0),
        grid: int | None = None,
        colours: int | None = None,
    ) -> None:
        super().__init__()
        step = 2 ** len(depths)
        if not depths or image_size < step or image_size % step:
            raise ValueError(f"image_size {image_size} is not a multiple of {step}, as {len(depths)} stages need")
        if width < 8 or width % 8:
            raise ValueError(f"width {width} is not a multiple of 8")
        if grid is not None and grid < 1:
            raise ValueError(f"grid is {grid}; expected at least 1, or null for none")
        if colours is not None and colours < 2:
            raise ValueError(f"colours is {colours}; expected at least 2 bins of a channel, or null for no histogram")
        self.image_size = image_size
        self.width = width
        self.depths = tuple(depths)
        self.grid = grid
        self.colours = colours
        places = (grid or 0) * (image_size // step) ** 2
        self.out_features = 2 * width * 2 ** (len(depths) - 1) + places + (colours or 0) ** 3

    def setup(self) -> None:
        """Make the weights."""
        self.load_image = partial(decode_image, size=self.image_size)
        layers: list[nn.Module] = []
        before, channels = 3, self.width
        for depth in self.depths:
            layers += [_convolution(before, channels, stride=2), *(Residual(channels) for _ in range(depth))]
            before, channels = channels, 2 * channels
        self.body = nn.Sequential(*layers)
        self.places = None if self.grid is None else nn.Conv2d(before, self.grid, 1)
        # Nearly twice as fast as channels first on CPUs; the values are the same.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Return float [B, out_features]; see `ImageTower.forward`."""
        dtype = next(self.parameters()).dtype
        pixels = image.contiguous(memory_format=torch.channels_last).to(dtype) / 127.5 - 1
        states = self.body(pixels)
        pooled = [states.mean(dim=(2, 3)), states.amax(dim=(2, 3))]
        if self.places is not None:
            pooled.append(self.places(states).flatten(1))
        if self.colours is not None:
            pooled.append(COLOURS * colour_histogram(image, self.colours).to(states.dtype))
        return torch.cat(pooled, dim=1)


class Residual(nn.Module):
    """x + relu(norm(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = _convolution(channels, channels, stride=1)

    def forward(self, states: Tensor) -> Tensor:
        """Return states [B, C, H, W]."""
        return states + self.inner(states)


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU(inplace=True)
    )
