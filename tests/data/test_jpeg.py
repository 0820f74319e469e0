"""Which pictures are stored as they are, which are encoded again, which are refused."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from moonlib.data.jpeg import to_jpeg


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_fits_is_kept_byte_for_byte(encode: Callable[..., bytes], mode: str) -> None:
    data = encode(0, mode=mode)
    assert to_jpeg(data) == data
    assert to_jpeg(data, max_side=40) == data


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_become_jpeg(encode: Callable[..., bytes], format: str) -> None:
    image = _open(to_jpeg(encode(0, format)))
    assert (image.size, image.mode) == ((40, 30), "RGB")


def test_transparent_becomes_white() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert np.array(_open(to_jpeg(_saved(image, "PNG")))).min() >= 253


def test_a_large_picture_is_scaled_down_in_proportion(encode: Callable[..., bytes]) -> None:
    assert _open(to_jpeg(encode(0, size=(400, 100)), max_side=100)).size == (100, 25)
    assert _open(to_jpeg(encode(0, "PNG", size=(30, 90)), max_side=45)).size == (15, 45)


def test_the_rotation_of_a_camera_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    turned = _open(to_jpeg(_saved(image, "JPEG", exif=exif)))
    assert turned.size == (20, 40)
    red, _, blue = turned.getpixel((10, 5))  # type: ignore[misc]
    assert blue > 200 > 60 > red


def test_cmyk_becomes_rgb() -> None:
    assert _open(to_jpeg(_saved(Image.new("CMYK", (8, 8)), "JPEG"))).mode == "RGB"


def test_a_bomb_is_refused_by_its_header(bomb: Callable[[int, int], bytes]) -> None:
    with pytest.raises(ValueError, match="10000 x 7000 pixels are more than the 64,000,000 allowed"):
        to_jpeg(bomb(10_000, 7_000))
    with pytest.raises(ValueError, match=r"not a readable picture: Image size .* exceeds limit"):
        to_jpeg(bomb(100_000, 100_000))


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xe0 not a jpeg"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable picture"):
        to_jpeg(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_truncated_picture_is_refused(encode: Callable[..., bytes], format: str) -> None:
    with pytest.raises(ValueError, match="broken picture"):
        to_jpeg(encode(0, format)[:-200])
