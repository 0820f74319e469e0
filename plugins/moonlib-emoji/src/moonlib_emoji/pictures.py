"""Pictures of the two sets as a camera would give them: opaque, on white, of one size."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from moonlib_emoji.packages import DRAWINGS, RENDERS


@dataclass(frozen=True)
class Pictures:
    """Reads a picture of a table: a product's is the 3D render, a query's the other artist's drawing.

    Args:
        packages: the ``node_modules`` folder.
        size: side of the square that comes back, pixels.
    """

    packages: Path
    size: int

    def __call__(self, table: str, image: str) -> bytes:
        """Encoded bytes of a picture.

        Args:
            table: ``"products"`` or ``"queries"``.
            image: file name as the table has it.

        Returns:
            A PNG of ``size`` by ``size`` pixels, RGB.

        Raises:
            ValueError: the file is missing or not a picture; the message names it.
        """
        path = self.packages / {"products": RENDERS, "queries": DRAWINGS}[table] / image
        try:
            with Image.open(path) as file:
                picture = file.convert("RGBA")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: cannot be read as a picture ({error}); reinstall the packages") from error
        # White goes under the picture before it is resized: the colour of transparent pixels must not bleed in.
        opaque = Image.new("RGBA", picture.size, "white")
        opaque.alpha_composite(picture)
        square = ImageOps.pad(opaque.convert("RGB"), (self.size, self.size), Image.Resampling.LANCZOS, color="white")
        encoded = io.BytesIO()
        square.save(encoded, format="PNG")
        return encoded.getvalue()
