"""Encoded images → uint8 tensors, fast for JPEG, careful with everything."""

from __future__ import annotations

import math

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from torch import Tensor

from moonlib.data.content import Box
from moonlib.data.jpeg import MAX_PIXELS
from moonlib.data.pixels import open_image, orientation, to_rgb


class UnreadableImage(ValueError):
    """The bytes are not an image that can be decoded within the limits; the message says why."""


def decode_image(
    data: bytes, box: Box | None = None, *, size: int | None = None, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Decode an image, crop it and resize it.

    A resized image is squashed to a square rather than cropped: the whole product stays in view, whatever its
    proportions, and boxes given as fractions of width and height stay valid. Camera rotation (EXIF) is applied,
    transparency is laid on white.

    Args:
        data: JPEG, PNG, WebP or whatever else Pillow reads by itself.
        box: the part to keep, of the image as it stands upright; its edges are rounded to whole pixels. What lies
            outside of the image is left out, and at least one pixel is kept. ``None`` keeps the whole image.
        size: side of the result in pixels; ``None`` keeps the image's (or the box's) own size.
        max_pixels: larger images are refused by their header, before any memory is taken.

    Returns:
        uint8 [3, H, W], RGB, contiguous; H = W = ``size`` if given.

    Raises:
        UnreadableImage: empty, truncated, of unknown format, with pixels of an unknown range, or larger than
            ``max_pixels``.
    """
    # JPEGs may be shrunk while they are decoded, as long as what is kept of them has all the pixels asked for.
    least = _least_side(size, box) if size else 0
    pixels = _decode_jpeg(data, least, max_pixels) if data[:2] == b"\xff\xd8" else None
    if pixels is None:
        pixels = _decode_any(data, least, max_pixels)
    if box is not None:
        pixels = _crop(pixels, box)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if size is not None and image.shape[1:] != (size, size):
        image = F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return image.contiguous()


def _least_side(size: int, box: Box | None) -> int:
    """Return the side in pixels that an image needs for its box to have sides of ``size``."""
    x0, y0, x1, y1 = box or (0, 0, 1, 1)
    return math.ceil(size / min(max(x1 - x0, 1e-5), max(y1 - y0, 1e-5), 1))


def _crop(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Cut a box out of [H, W, 3]."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    left, top = (min(max(round(edge * side), 0), side - 1) for edge, side in ((x0, width), (y0, height)))
    return pixels[top : max(round(y1 * height), top + 1), left : max(round(x1 * width), left + 1)]


def _decode_jpeg(data: bytes, least: int, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode an ordinary JPEG to [H, W, 3], or return ``None`` where Pillow should have a try.

    Args:
        data: the JPEG.
        least: neither side is shrunk below this, in pixels; 0 for no shrinking.
        max_pixels: see `decode_image`.
    """
    try:
        # Only files that carry EXIF at all pay for the look at the camera's rotation.
        if b"Exif\0\0" in data[:4096] and orientation(open_image(data)) != 1:
            return None
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        if colorspace not in ("YCbCr", "RGB", "Gray"):
            return None
        # The decoder's own downscaling pays from a factor of 2 on; between 1 and 2 it is slower than a full decode.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, min_factor=2)
    except UnreadableImage:
        raise
    except Exception:
        return None  # libjpeg-turbo stops at faults, such as stray bytes, that Pillow reads over
    return pixels


def _decode_any(data: bytes, least: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode with Pillow to [H, W, 3]; the arguments are `_decode_jpeg`'s."""
    try:
        image = open_image(data)
        _check_size(*image.size, max_pixels)
        if least:
            image.draft("RGB", (least, least))  # a JPEG's own downscaling; nothing for other formats
        return np.array(to_rgb(image))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:  # whose own text names an object in memory
        raise UnreadableImage(f"not a readable image ({len(data)} bytes): of no known format") from None
    except Exception as error:  # Pillow's format plugins raise almost anything on damaged files
        raise UnreadableImage(f"not a readable image ({len(data)} bytes): {error}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnreadableImage(f"image of {width} x {height} pixels exceeds the limit of {max_pixels} pixels")
