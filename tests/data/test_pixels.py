"""No picture is changed without a word: ranges, metadata, formats."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moonlib.data.images import UnreadableImage, decode_image
from moonlib.data.jpeg import to_jpeg

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)


def _encode(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _stored(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(to_jpeg(data))).convert("RGB")).astype(int)


def _decoded(data: bytes) -> np.ndarray[Any, Any]:
    return decode_image(data).permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_of_16_bits_is_scaled(format: str) -> None:
    options = {"irreversible": False} if format == "JPEG2000" else {}
    data = _encode(Image.fromarray(RAMP.astype(np.uint16)), format, **options)
    wanted = np.repeat((RAMP / 257)[..., None], 3, axis=2)
    assert np.abs(_decoded(data) - wanted).max() <= 1
    assert np.abs(_stored(data) - wanted).max() <= 3


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    pixels = np.full((8, 8), 1000, np.uint16)
    pixels[:4] = 40000
    data = _encode(Image.fromarray(pixels), "PNG")
    chunk = b"tRNS" + struct.pack(">H", 1000)
    data = data[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    assert (_decoded(data)[4:] == 255).all() and (_decoded(data)[:4] == 156).all()


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_pixels_of_an_unknown_range_are_refused(kind: type, mode: str) -> None:
    data = _encode(Image.fromarray(RAMP.astype(kind)), "TIFF")
    for read, error in ((to_jpeg, ValueError), (decode_image, UnreadableImage)):
        with pytest.raises(error, match=f"pixels of mode {mode} have no known range; save it with 8 or 16 bits"):
            read(data)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", [b"junk", b"Exif\0\0junk", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(64)])
def test_metadata_never_decides_on_pixels(format: str, exif: bytes) -> None:
    picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    plain = _encode(picture, format, **({"lossless": True} if format == "WEBP" else {}))
    data = _encode(picture, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert data != plain
    assert (_decoded(data) == _decoded(plain)).all()
    assert (_stored(data) == _stored(plain)).all()


@pytest.mark.parametrize("key", [b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"pHYs", b"gAMA", b"tIME"])
def test_a_png_with_a_broken_chunk_that_is_not_of_its_pixels(key: bytes) -> None:
    picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    plain = _encode(picture, "PNG")
    for junk in (b"", b"junk", b"a\0\0" + b"\xff" * 20, b"a\0\0" + zlib.compress(bytes(2**22))):
        chunk = key + junk
        for crc in (zlib.crc32(chunk), 7):
            data = plain[:33] + struct.pack(">I", len(junk)) + chunk + struct.pack(">I", crc) + plain[33:]
            assert (_decoded(data) == _decoded(plain)).all(), (junk, crc)
            assert to_jpeg(data) == to_jpeg(plain), (junk, crc)


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b"\xc5\xd0\xd3\xc6" + bytes(28)]
)
def test_a_picture_that_is_a_program_is_never_run(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a picture started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    data = head + b"%%EndComments\n(secret) run\nshowpage\n%%EOF\n"
    for read in (to_jpeg, decode_image):
        with pytest.raises(ValueError, match="of no known format"):
            read(data)
