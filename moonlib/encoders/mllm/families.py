"""Families of vision-language models in transformers, and how they differ: pixels in, positions of tokens.

Sequences hold one image at most: the model's image token stands once per state that its vision tower makes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moonlib.encoders.mllm.vision_attention import attend_images_at_once

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


class Family(ABC):
    """How one family reads images.

    Attributes:
        unit: side in pixels of the square that becomes one token.
        largest: longest side of an image in pixels, None where any will do.
        square: whether images must be squares.
        image_token: id of the token that stands for a state of the vision tower.
        mean: of the channels, from 0 to 1, subtracted from them.
        std: what they are then divided by.
        vision_width: width of the vision tower's states.
    """

    unit: int
    largest: int | None
    square: bool
    image_token: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    vision_width: int

    @abstractmethod
    def __init__(self, config: PretrainedConfig) -> None: ...

    @abstractmethod
    def prepare(self, body: Any) -> None:
        """Change a model of transformers that was just made or read; what it computes stays."""

    @abstractmethod
    def vision_inputs(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Make what the model's ``forward`` reads of images.

        Args:
            images: float [n, 3, H, W], normalised; an image fills its top left part.
            sizes: int64 [n, 2], height and width of that part.
        """

    @abstractmethod
    def positions(self, is_image: Tensor, sizes: Tensor) -> Tensor:
        """Make the ``position_ids`` of padded rows.

        Args:
            is_image: bool [B, T], where a row's image tokens stand, one behind another.
            sizes: int64 [B, 2], height and width in pixels; 0 where there is no image.
        """


class QwenVL(Family):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of any grid, positions by time, height and width.

    Source: Wang et al., "Qwen2-VL" (arXiv 2409.12191), sections 2.1 and 2.2.
    """

    square = False
    largest = None

    def __init__(self, config: PretrainedConfig) -> None:
        vision = config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.frames = int(vision.temporal_patch_size)
        self.unit = self.patch * self.merge
        self.image_token = int(config.image_token_id)
        # The third generation left CLIP's constants.
        self.mean, self.std = (HALF, HALF) if config.model_type.startswith("qwen3") else (CLIP_MEAN, CLIP_STD)
        # In the first generation `hidden_size` is what the tower's merger puts out.
        self.vision_width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)

    def prepare(self, body: Any) -> None:
        """Let attention look at all images at once."""
        attend_images_at_once(body.base_model.visual)

    def vision_inputs(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Return the patches of all images, merged blocks together, and the grid of each."""
        grids = sizes // self.patch
        found: list[Tensor] = [images] * len(images)
        for size in sizes.unique(dim=0):
            rows = (sizes == size).all(dim=1).nonzero()[:, 0]
            height, width = size.tolist()
            patches = self._patches(images[rows, :, :height, :width])
            if len(rows) == len(images):
                return {"pixel_values": patches.flatten(0, 1), "image_grid_thw": _with_time(grids)}
            for row, of_row in zip(rows.tolist(), patches, strict=True):
                found[row] = of_row
        return {"pixel_values": torch.cat(found), "image_grid_thw": _with_time(grids)}

    def _patches(self, images: Tensor) -> Tensor:
        """Float [n, 3, H, W] → [n, patches, 3 · frames · patch²]; a still image is its own next frame."""
        n, channels, height, width = images.shape
        patch, merge = self.patch, self.merge
        blocks = images.view(n, channels, height // self.unit, merge, patch, width // self.unit, merge, patch)
        blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n, -1, channels, 1, patch, patch)
        return blocks.expand(-1, -1, -1, self.frames, -1, -1).flatten(2)

    def positions(self, is_image: Tensor, sizes: Tensor) -> Tensor:
        """Return int64 [3, B, T]: text counts on, an image's tokens have their row and column beside one time."""
        places = torch.arange(is_image.shape[1], device=is_image.device)
        start = is_image.int().argmax(dim=1, keepdim=True)
        count = is_image.sum(dim=1, keepdim=True)
        grid = sizes // self.unit
        within = places - start
        width = grid[:, 1:].clamp(min=1)
        # What follows an image counts on from its longer side.
        after = places - count + grid.amax(dim=1, keepdim=True)
        text = torch.where(within < 0, places, torch.where(count > 0, after, places))
        image = (start.expand_as(within), start + within // width, start + within % width)
        return torch.stack([torch.where(is_image, axis, text) for axis in image])


def _with_time(grids: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(grids[:, :1]), grids], dim=1)


class Idefics(Family):
    """Idefics3 and SmolVLM: one square per image, no larger than the vision tower was made for.

    Their processors also cut large images into tiles; here an image is one tile.

    Source: Laurençon et al., "Building and better understanding vision-language models" (arXiv 2408.12637), section 4.
    """

    square = True
    mean, std = HALF, HALF

    def __init__(self, config: PretrainedConfig) -> None:
        self.unit = int(config.vision_config.patch_size) * int(config.scale_factor)
        self.largest = int(config.vision_config.image_size)
        self.image_token = int(config.image_token_id)
        self.vision_width = int(config.vision_config.hidden_size)

    def prepare(self, body: Any) -> None:
        """Leave the model as it is: its tower takes images as a batch."""

    def vision_inputs(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Return one image per sequence; all are of one size."""
        return {"pixel_values": images[:, None]}

    def positions(self, is_image: Tensor, sizes: Tensor) -> Tensor:
        """Return int64 [B, T], which counts on."""
        return torch.arange(is_image.shape[1], device=is_image.device).expand(is_image.shape)


FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": QwenVL,
    "qwen2_5_vl": QwenVL,
    "qwen3_vl": QwenVL,
    "idefics3": Idefics,
    "smolvlm": Idefics,
}


def family_of(config: Any) -> Family:
    """Find how a model reads images.

    Raises:
        ValueError: no family here does, or its attention is of a kind that cannot be made bidirectional.
    """
    kind = FAMILIES.get(config.model_type)
    if kind is None:
        raise ValueError(
            f"mllm cannot drive a model of type '{config.model_type}'; it can: {', '.join(FAMILIES)}. Another one "
            "needs an encoder of its own: moonlib plugins new encoders NAME"
        )
    layers = set(getattr(config.text_config, "layer_types", None) or ()) - {"full_attention"}
    if layers:
        raise ValueError(f"mllm needs full attention in every layer, and this {config.model_type} has {sorted(layers)}")
    return kind(config)
