"""Opens pictures of the user's with Pillow, and makes RGB of whatever is in them without a loss."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import ExifTags, Image

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "MPO", "DIB", "ICO", "ICNS", "PPM", "PSD"),
    *("PCX", "TGA", "SGI", "DDS", "QOI", "MSP", "SPIDER", "SUN", "XBM", "XPM", "IM", "BLP", "DCX", "FLI", "PIXAR"),
)
"""Image formats that are read. Not EPS, for which Pillow starts Ghostscript, and none that needs another program."""

_PNG = b"\x89PNG\r\n\x1a\n"

_PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
"""The modes of 8 bits per channel, which Pillow converts without clipping."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(data: bytes) -> Image.Image:
    """Open an encoded picture; its pixels are decoded when they are asked for.

    Raises:
        Exception: Pillow's format plugins raise almost anything on damaged files.
    """
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except Exception:
        if not data.startswith(_PNG):
            raise
        # Pillow refuses a PNG for a broken chunk of its metadata.
        return Image.open(io.BytesIO(_without_metadata(data)), formats=("PNG",))


def _without_metadata(png: bytes) -> bytes:
    """Keep the chunks of a PNG that its pixels need."""
    kept, at = [_PNG], len(_PNG)
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(png[at : at + size + 12])
        at += size + 12
    return b"".join(kept)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF, for one, is not in every Pillow


def orientation(image: Image.Image) -> int:
    """Return how EXIF says that a camera was held, 1 for upright; 1 also where EXIF can't be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata never decides on pixels
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture upright and bring it to RGB, transparent pixels to white.

    Grey of 16 bits is scaled to 8 bits, as Pillow scales colours of 16 bits.

    Raises:
        ValueError: the pixels are of 32 bits or floats, whose range nobody knows, and which Pillow would clip.
    """
    image.load()
    picture = _on_white(image) if image.mode in _PLAIN else _scaled(image)
    turn = _TURNS.get(orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    # Pillow before 12 opens a PNG of 16 bits as one of 32.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it with 8 or 16 bits per channel")
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
