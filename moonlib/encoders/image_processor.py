"""An image processor of transformers as a tower's decoding step and its normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import moonlib.compat  # noqa: F401  (before torchvision, in a loader worker that unpickles `ProcessImage` too)
import numpy as np
import torch
from torch import Tensor

from moonlib.data.content import Box
from moonlib.data.images import decode_image
from moonlib.encoders.pretrained import UnusableCheckpoint


@dataclass(frozen=True)
class ProcessImage:
    """Decodes an image as moonlib does, then resizes, crops and pads it as the image processor does.

    Attributes:
        processor: of transformers.
    """

    processor: Any

    def __call__(self, data: bytes, box: Box | None = None) -> Tensor:
        """Return uint8 [3, size, size], of the box alone if one is given.

        Raises:
            UnreadableImage: see `moonlib.data.images.decode_image`.
        """
        pixels = _processed(self.processor, decode_image(data, box), do_rescale=False, do_normalize=False)
        return pixels.round().clamp(0, 255).to(torch.uint8).contiguous()


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of the pixels, 0 to 255, of an image that has its size already: ``(pixels - mean) / std``.

    Attributes:
        mean: float32 [3, 1, 1].
        std: float32 [3, 1, 1].
    """

    mean: Tensor
    std: Tensor


def normalisation(model: str, processor: Any) -> tuple[int, Normalisation]:
    """The size of the images that a processor makes, and its normalisation.

    Both are found by trying it on two pictures, so that a processor which does anything else is noticed.

    Args:
        model: for errors.
        processor: of transformers.

    Raises:
        UnusableCheckpoint: its images are not square or not of one size, or it does more than resize, crop, pad and
            normalise.
    """
    name = type(processor).__name__
    ramp = torch.arange(3 * 60 * 90).view(3, 60, 90).remainder(251).to(torch.uint8)
    pictures = [ramp, ramp[:, :50, :40].flip(1)]
    try:
        raw = [_processed(processor, picture, do_rescale=False, do_normalize=False) for picture in pictures]
        whole = [_processed(processor, picture) for picture in pictures]
    except Exception as error:  # a processor with other arguments, or with another kind of result
        reason = str(error).strip().split("\n")[0]
        raise UnusableCheckpoint(
            f"the image processor of '{model}', {name}, does not make one square picture of an image ({reason}); "
            "choose a checkpoint of one fixed resolution"
        ) from error
    shapes = {tuple(picture.shape) for picture in raw}
    if len(shapes) > 1 or raw[0].shape[1] != raw[0].shape[2]:
        raise UnusableCheckpoint(
            f"the image processor of '{model}', {name}, makes images of {' and '.join(map(str, sorted(shapes)))}; "
            "expected one square size"
        )
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    normalise = processor.do_normalize
    mean = torch.as_tensor(processor.image_mean if normalise else 0.0, dtype=torch.float32).expand(3).view(3, 1, 1)
    std = torch.as_tensor(processor.image_std if normalise else 1.0, dtype=torch.float32).expand(3).view(3, 1, 1)
    found = Normalisation(mean / scale, std / scale)
    for pixels, expected in zip(raw, whole, strict=True):
        if not torch.allclose((pixels.round() - found.mean) / found.std, expected, rtol=1e-4, atol=2 / 255):
            raise UnusableCheckpoint(
                f"the image processor of '{model}', {name}, does more to pixels than subtract a mean and divide by a "
                "standard deviation; moonlib cannot follow it"
            )
    return int(raw[0].shape[1]), found


def _processed(processor: Any, picture: Tensor, **options: bool) -> Tensor:
    """Process a picture uint8 [3, H, W] to float [3, S, S]."""
    # As an array of numbers with the channels last, which no processor takes for anything else.
    result: Mapping[str, Any] = processor(
        images=np.ascontiguousarray(picture.permute(1, 2, 0).numpy()),
        input_data_format="channels_last",
        return_tensors="pt",
        **options,
    )
    (pixels,) = result["pixel_values"]
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or len(pixels) != 3:
        raise ValueError(f"its pixel_values have shape {tuple(getattr(pixels, 'shape', ()))}")
    return pixels.float()
