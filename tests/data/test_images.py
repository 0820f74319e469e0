"""Images of every kind come out as expected, and what cannot be read says why."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from moonlib.data.images import UnreadableImage, decode_image


def encode(pixels: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 96, height: int = 96) -> Image.Image:
    """Red grows to the right, green downwards, blue is constant."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([255 * x / (width - 1), 255 * y / (height - 1), np.full(x.shape, 60.0)], axis=-1)
    return Image.fromarray(planes.astype(np.uint8))


def expected(image: Image.Image, size: int | None = None) -> Tensor:
    if size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [None, 32, 64, 128])
def test_decodes_and_resizes(kind: str, size: int | None) -> None:
    data = encode(gradient(100, 60), kind, **({} if kind == "PNG" else {"quality": 95}))
    image = decode_image(data, size=size)
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert image.shape == (3, size or 60, size or 100)
    difference = (image.float() - expected(gradient(100, 60), size).float()).abs()
    assert difference.mean() < 3


def test_large_jpeg_keeps_its_content_when_shrunk_while_decoding() -> None:
    image = decode_image(encode(gradient(1600, 1200), "JPEG", quality=95), size=64)
    assert (image.float() - expected(gradient(1600, 1200), 64).float()).abs().mean() < 2


def test_camera_rotation_is_applied() -> None:
    upright = gradient(64, 48)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    data = encode(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    image = decode_image(data)
    assert image.shape == (3, 48, 64)
    assert (image.float() - expected(upright).float()).abs().mean() < 3


def test_transparent_pixels_become_white() -> None:
    picture = gradient(8, 8).convert("RGBA")
    picture.putalpha(0)
    assert (decode_image(encode(picture, "PNG")) == 255).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_other_colour_modes_are_read_as_pillow_reads_them(mode: str) -> None:
    picture = gradient(32, 32).convert(mode)
    data = encode(picture, "JPEG" if mode in ("L", "CMYK") else "PNG")
    with Image.open(io.BytesIO(data)) as reference:
        difference = (decode_image(data).float() - expected(reference).float()).abs()
    assert difference.max() <= 2


def test_stray_bytes_in_a_jpeg_are_read_over() -> None:
    data = encode(gradient(), "JPEG")
    start = data.index(b"\xff\xdb")
    assert decode_image(data[:start] + b"\x00\x00" + data[start:]).shape == (3, 96, 96)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_image(kind: str) -> None:
    data = encode(gradient(), kind)
    with pytest.raises(UnreadableImage, match="not a readable image"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"<html>404</html>"])
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=f"not a readable image \\({len(data)} bytes\\)"):
        decode_image(data, size=64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bomb_is_refused_by_its_header(kind: str) -> None:
    header_only = encode(Image.new("L", (5000, 4000)), kind)[:2000]
    with pytest.raises(UnreadableImage, match="5000 x 4000 pixels exceeds the limit of 1000000"):
        decode_image(header_only, size=64, max_pixels=1_000_000)
