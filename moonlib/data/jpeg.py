"""Any picture file becomes a JPEG that every decoder reads the same way."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from moonlib.data.pixels import open_image, orientation, to_rgb

MAX_PIXELS = 64_000_000
"""Pictures with more pixels than this are refused from their header alone: a small file may hold a huge picture."""

MAGIC = b"\xff\xd8\xff"
"""The first bytes of every JPEG."""

_QUALITY = 92


def to_jpeg(data: bytes, max_side: int | None = None) -> bytes:
    """Return a picture as a JPEG, decoding it once, so that a broken file shows.

    An upright RGB or grey JPEG that is small enough is returned byte for byte. Anything else is encoded again: other
    formats, CMYK, pictures that EXIF says to turn, and those larger than ``max_side``. Transparent pixels become white,
    and grey of 16 bits is scaled to 8.

    Args:
        data: an encoded picture in any format that Pillow reads by itself.
        max_side: the longest side allowed, in pixels; None keeps the size.

    Raises:
        ValueError: the data is no picture, is broken, has pixels of an unknown range, or has more than
            `MAX_PIXELS` pixels.
    """
    try:
        image = open_image(data)
    except UnidentifiedImageError:  # whose own text names an object in memory
        raise ValueError(f"not a readable picture: {len(data)} bytes of no known format") from None
    except Exception as error:  # Pillow's format plugins raise almost anything on damaged files
        raise ValueError(f"not a readable picture: {error}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} allowed")
    fits = max_side is None or max(width, height) <= max_side
    try:
        upright = orientation(image) == 1
        keep = image.format == "JPEG" and image.mode in ("RGB", "L") and fits and upright
        if not fits and max_side is not None:
            image.draft("RGB", (max_side, max_side))  # a JPEG decodes straight to a size near the one wanted
        image.load()
        if keep:
            return data
        picture = to_rgb(image)
    except Exception as error:
        raise ValueError(f"broken picture: {error}") from error
    if max_side is not None:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
