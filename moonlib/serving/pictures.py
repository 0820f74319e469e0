"""Pictures of strangers: what is read of them, and how much."""

from __future__ import annotations

import io

import simplejpeg
from PIL import Image

from moonlib.data.content import Box
from moonlib.data.images import UnreadableImage
from moonlib.data.pixels import open_image, to_rgb

KNOWN = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"RIFF": "WebP"}
"""Formats that a server reads, by their first bytes."""


def check_picture(data: bytes, max_pixels: int) -> None:
    """Refuse from its first bytes what is no picture of a known format, or a larger one than allowed.

    Args:
        data: an encoded picture.
        max_pixels: width × height, at most.

    Raises:
        UnreadableImage: the message says why. A picture that is cut off or damaged further on may pass.
    """
    if not data:
        raise UnreadableImage("it is empty")
    format = next((name for start, name in KNOWN.items() if data.startswith(start)), None)
    if format is None or (format == "WebP" and data[8:12] != b"WEBP"):
        raise UnreadableImage(f"not a picture that is read here: expected one of {', '.join(sorted(KNOWN.values()))}")
    try:
        if format == "JPEG":
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        else:
            width, height = open_image(data).size
    except Image.DecompressionBombError:
        raise UnreadableImage(f"more pixels than the {max_pixels:,} allowed") from None
    except Exception:  # the decoders raise almost anything on damaged files
        raise UnreadableImage(f"a broken {format}: its header can't be read") from None
    if width * height > max_pixels:
        raise UnreadableImage(f"{width} x {height} pixels are more than the {max_pixels:,} allowed")


def cropped(data: bytes, box: Box) -> bytes:
    """Cut a box out of a picture, as it stands upright; at least one pixel is kept.

    Args:
        data: an encoded picture that passed `check_picture`.
        box: what to keep.

    Returns:
        A PNG.

    Raises:
        UnreadableImage: the picture is damaged.
    """
    try:
        picture = to_rgb(open_image(data))
    except Exception as error:
        raise UnreadableImage(f"a broken picture: {error}") from None
    x0, y0, x1, y1 = box
    left, top = (
        min(int(edge * side), side - 1) for edge, side in zip((x0, y0), (picture.width, picture.height), strict=True)
    )
    right, bottom = max(round(x1 * picture.width), left + 1), max(round(y1 * picture.height), top + 1)
    file = io.BytesIO()
    picture.crop((left, top, right, bottom)).save(file, "PNG", compress_level=1)
    return file.getvalue()
