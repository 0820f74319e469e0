"""Images of every kind come out as expected, and what cannot be read says why."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps
from torch import Tensor

from moonlib.data.content import Box
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


def cut(image: Image.Image, box: Box) -> Image.Image:
    """Crop with Pillow, to whole pixels."""
    return image.crop(tuple(round(edge * side) for edge, side in zip(box, image.size * 2, strict=True)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [None, 32, 128])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.25, 0.1, 0.75, 0.5), (0.9, 0.0, 1.0, 1.0)], ids=str)
def test_a_box_is_cut_out_before_resizing(kind: str, size: int | None, box: Box) -> None:
    data = encode(gradient(100, 60), kind, **({} if kind == "PNG" else {"quality": 95}))
    image, subject = decode_image(data, box, size=size), expected(cut(gradient(100, 60), box), size)
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert image.shape == subject.shape
    assert (image.float() - subject.float()).abs().mean() < 3
    if box == (0, 0, 1, 1):
        assert torch.equal(image, decode_image(data, size=size))


def test_a_box_in_a_large_jpeg_keeps_its_detail() -> None:
    """Stripes that are gone where the whole picture is first shrunk to the size of the crop."""
    x = np.arange(1024) // 8 % 2 * 255
    stripes = Image.fromarray(np.broadcast_to(x, (1024, 1024)).astype(np.uint8)).convert("RGB")
    data, box = encode(stripes, "JPEG", quality=95), (0.5, 0.25, 0.625, 0.375)
    image = decode_image(data, box, size=64)
    # Half of the way is the JPEG's own, so that edges are sharper than Pillow's; a stripe off would be 255.
    assert (image.float() - expected(cut(stripes, box), 64).float()).abs().mean() < 20
    assert decode_image(data, size=64).float().std() < image.float().std() / 4


def test_a_large_jpeg_is_shrunk_as_far_as_its_box_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, ...]] = []
    original = simplejpeg.decode_jpeg

    def decode_jpeg(*data: Any, **options: Any) -> Any:
        decoded.append(original(*data, **options).shape)
        return original(*data, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    data = encode(gradient(800, 800), "JPEG")
    for box in (None, (0.0, 0.5, 1.0, 1.0), (0.4, 0.4, 0.6, 0.6), (0.5, 0.5, 0.52, 0.51)):
        assert decode_image(data, box, size=64).shape == (3, 64, 64)
    assert decoded == [(100, 100, 3), (200, 200, 3), (400, 400, 3), (800, 800, 3)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [48, 480])
def test_a_box_is_of_the_upright_picture(orientation: int, side: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(2 * side, side), "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored)
        subject = cut(upright, (0.5, 0.25, 1.0, 0.5))
    assert (upright.size == (2 * side, side)) == (orientation < 5)
    image = decode_image(data, (0.5, 0.25, 1.0, 0.5), size=32)
    assert (image.float() - expected(subject, 32).float()).abs().mean() < 3


@pytest.mark.parametrize(
    ("box", "same"),
    [
        ((-0.5, -3.0, 1.5, 2.0), (0.0, 0.0, 1.0, 1.0)),
        ((0.5, 0.5, 9.0, 9.0), (0.5, 0.5, 1.0, 1.0)),
        ((0.5, 0.25, 0.5, 0.25), (0.5, 0.25, 0.51, 0.26)),
        ((0.501, 0.251, 0.502, 0.252), (0.5, 0.25, 0.51, 0.26)),
        ((1.0, 1.0, 1.0, 1.0), (0.99, 0.99, 1.0, 1.0)),
        ((0.8, 0.8, 0.2, 0.2), (0.8, 0.8, 0.81, 0.81)),
        ((2.0, -2.0, 3.0, -1.0), (0.99, 0.0, 1.0, 0.01)),
    ],
    ids=str,
)
def test_a_box_that_leaves_the_picture_or_has_no_area(box: Box, same: Box) -> None:
    for kind in ("PNG", "JPEG"):
        data = encode(gradient(100, 100), kind)
        assert torch.equal(decode_image(data, box), decode_image(data, same))
        assert decode_image(data, box, size=16).shape == (3, 16, 16)


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
