"""Random changes of view and light, so that what is learnt of a product holds in another photo of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Images handled at a time: at usual sizes they stay in the processor's cache, which is a third faster.
_CHUNK = 32


def augment(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change each image by a crop, turn, flip, light and blur of its own.

    At strength 1 a crop keeps between 40 % and all of the area, its proportions change by up to 4 : 3 and it is turned
    by up to 15 degrees; half of the images are mirrored and half are blurred (by halving and restoring their
    resolution); contrast changes by up to 40 %, brightness by up to 20 % of the range, each channel by up to 15 %.
    All of these shrink linearly with the strength.

    Args:
        images: uint8 [B, 3, H, W].
        generator: the only source of randomness.
        strength: from 0, which changes nothing, to 1.

    Returns:
        uint8 [B, 3, H, W].
    """
    if strength == 0 or not len(images):
        return images
    if len(images) > _CHUNK:
        return torch.cat([augment(part, generator, strength) for part in images.split(_CHUNK)])
    draws = torch.rand(len(images), 12, generator=generator)
    blurred = draws[:, 0] < strength / 2
    images = images.clone()
    images[blurred] = _blur(images[blurred])
    grid = _views(draws[:, 1:7], strength, *images.shape[2:])
    views = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    contrast, brightness, cast = (2 * draws[:, 7:, None, None] - 1).split([1, 1, 3], dim=1)
    gain = (1 + 0.4 * strength * contrast) * (1 + 0.15 * strength * cast)
    middle = 127.5 + 51 * strength * brightness
    # (view - 127.5) * gain + middle, in one pass; the half rounds, because the conversion to uint8 truncates.
    return torch.addcmul(middle - 127.5 * gain + 0.5, views, gain).clamp_(0, 255).to(torch.uint8)


def _views(draws: Tensor, strength: float, height: int, width: int) -> Tensor:
    """Turn six uniform draws per image into the places [B, H, W, 2] where its new pixels are read from."""
    area, shape, turn, flip, left, top = draws.unbind(dim=1)
    side = (1 - 0.6 * strength * area).sqrt()
    ratio = ((2 * shape - 1) * strength * math.log(4 / 3) / 2).exp()
    across, down = (side * ratio).clamp(max=1), (side / ratio).clamp(max=1)
    angle = (2 * turn - 1) * strength * math.radians(15)
    mirror = torch.where(flip < strength / 2, -1.0, 1.0)
    # Coordinates run from -1 to 1 over the image, so a crop of side s may move by 1 - s each way.
    centre_x, centre_y = (2 * left - 1) * (1 - across), (2 * top - 1) * (1 - down)
    x = ((2 * torch.arange(width) + 1) / width - 1) * (across * mirror)[:, None]
    y = ((2 * torch.arange(height) + 1) / height - 1) * down[:, None]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    grid = torch.empty(len(draws), height, width, 2)
    torch.add((cos * x + centre_x[:, None])[:, None, :], (-sin * y)[:, :, None], out=grid[..., 0])
    torch.add((sin * x + centre_y[:, None])[:, None, :], (cos * y)[:, :, None], out=grid[..., 1])
    return grid


def _blur(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    half = F.interpolate(images, size=(max(height // 2, 1), max(width // 2, 1)), mode="bilinear", antialias=True)
    return F.interpolate(half, size=(height, width), mode="bilinear", antialias=True)
