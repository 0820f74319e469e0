"""Encoded images → uint8 tensors, fast for JPEG, careful with everything."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from moonlib.data.jpeg import MAX_PIXELS


class UnreadableImage(ValueError):
    """The bytes are not an image that can be decoded within the limits; the message says why."""


def decode_image(data: bytes, *, size: int | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image and resize it.

    A resized image is squashed to a square rather than cropped: the whole product stays in view, whatever its
    proportions, and boxes given as fractions of width and height stay valid. Camera rotation (EXIF) is applied,
    transparency is laid on white.

    Args:
        data: JPEG, PNG, WebP or whatever else Pillow reads.
        size: side of the result in pixels; ``None`` keeps the image's own size.
        max_pixels: larger images are refused by their header, before any memory is taken.

    Returns:
        uint8 [3, H, W], RGB, contiguous; H = W = ``size`` if given.

    Raises:
        UnreadableImage: empty, truncated, of unknown format, or larger than ``max_pixels``.
    """
    pixels = _decode_jpeg(data, size or 0, max_pixels) if data[:2] == b"\xff\xd8" else None
    if pixels is None:
        pixels = _decode_any(data, size or 0, max_pixels)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if size is not None and image.shape[1:] != (size, size):
        image = F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return image.contiguous()


def _decode_jpeg(data: bytes, size: int, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode an ordinary JPEG to [H, W, 3], or return ``None`` where Pillow should have a try."""
    try:
        # Only files that carry EXIF at all pay for the look at the camera's rotation.
        if b"Exif\0\0" in data[:4096] and _rotation(Image.open(io.BytesIO(data))):
            return None
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        if colorspace not in ("YCbCr", "RGB", "Gray"):
            return None
        # The decoder's own downscaling pays from a factor of 2 on; between 1 and 2 it is slower than a full decode.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size, min_factor=2)
    except UnreadableImage:
        raise
    except Exception:
        return None  # libjpeg-turbo stops at faults, such as stray bytes, that Pillow reads over
    return pixels


def _decode_any(data: bytes, size: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode with Pillow to [H, W, 3]."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        _check_size(*image.size, max_pixels)
        if size:
            image.draft("RGB", (size, size))  # a JPEG's own downscaling; nothing for other formats
        if _rotation(image):
            image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.new("RGBA", rgba.size, "white")
            image.alpha_composite(rgba)
        return np.array(image.convert("RGB"))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:  # whose own text names an object in memory
        raise UnreadableImage(f"not a readable image ({len(data)} bytes): of no known format") from None
    except Exception as error:  # Pillow's format plugins raise almost anything on damaged files
        raise UnreadableImage(f"not a readable image ({len(data)} bytes): {error}") from error


def _rotation(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnreadableImage(f"image of {width} x {height} pixels exceeds the limit of {max_pixels} pixels")
