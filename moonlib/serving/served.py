"""A served alias: a view and the encoder of its space, switched together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moonlib.center.view import View
from moonlib.data.content import Box, Content
from moonlib.data.images import UnreadableImage
from moonlib.serving.errors import Refused
from moonlib.serving.pictures import check_picture, cropped

if TYPE_CHECKING:
    from moonlib.encoders.encoder import ContentBatch, Encoder

log = logging.getLogger(__name__)

OpenEncoder = Callable[[Path], "Encoder"]
"""Opens the folder of a space's encoder."""


def open_encoder(folder: Path) -> Encoder:
    """The encoder of a space, in eval mode, on a GPU if there is one."""
    import torch

    from moonlib.exports.exported import Export

    return Export(folder).encoder().to("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Served:
    """A view of a center and the encoder of its space; a request stays with the one that it began with.

    Attributes:
        alias: that it is served under.
        view: to search.
        encoder: that encodes queries; the one that encoded the view's products.
    """

    alias: str
    view: View
    encoder: Encoder

    @classmethod
    def open(cls, center: Path, alias: str, open_encoder: OpenEncoder = open_encoder) -> Served:
        """Open what an alias leads to, and encode once, as the first call is slow.

        Raises:
            ValueError: there is no such alias.
        """
        view = View.open(center, alias)
        return cls(alias, view, _warmed(open_encoder(view.space.encoder)))

    def refreshed(self, open_encoder: OpenEncoder = open_encoder) -> Served:
        """Itself if nothing is new, or what the alias leads to now; an encoder of another space is opened and warm."""
        view = self.view.refreshed()
        if view is self.view:
            return self
        if view.name != self.view.name:
            log.info("alias %s leads to %s, no longer to %s", self.alias, view.name, self.view.name)
        if view.space.name == self.view.space.name:
            return replace(self, view=view)
        return replace(self, view=view, encoder=_warmed(open_encoder(view.space.encoder)))

    @property
    def reads(self) -> list[str]:
        """Modalities of a query: ``image``, ``text`` or both."""
        widths = {"image": self.encoder.image_dim, "text": self.encoder.text_dim}
        return [name for name, width in widths.items() if width]

    def prepared(self, image: bytes | None, text: str | None, crop: Box | None, max_pixels: int) -> ContentBatch:
        """Decode and preprocess one query, away from all others.

        Args:
            image: an encoded picture.
            text: what is searched for.
            crop: the part of the picture that counts; None for all of it.
            max_pixels: width × height of the picture, at most.

        Returns:
            What the encoder takes, of one row.

        Raises:
            Refused: naming the field that is wrong.
        """
        for name, given in (("image", image), ("text", text)):
            if given is not None and name not in self.reads:
                raise Refused(422, "not_read", f"the encoder of {self.view.space.name} reads no {name}", name)
        try:
            if image is not None:
                check_picture(image, max_pixels)
                image = image if crop is None else cropped(image, crop)
            return self.encoder.preprocessor([Content(image, text)], "query")
        except UnreadableImage as error:
            raise Refused(422, "unreadable_image", f"image: {error}", "image") from None

    def encode(self, batches: Sequence[ContentBatch]) -> NDArray[np.float32]:
        """Encode prepared queries together, float32 [n, D], as wide as the space's vectors."""
        import torch

        device = next((parameter.device for parameter in self.encoder.parameters()), torch.device("cpu"))
        shapes = {tuple((name, each.shape[1:]) for name, each in batch.items()) for batch in batches}
        if len(shapes) > 1:  # an encoder may pad to the longest text of a batch
            return np.concatenate([self.encode([batch]) for batch in batches])
        joined = {name: torch.cat([batch[name] for batch in batches]).to(device) for name in batches[0]}
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.encoder(joined).float().cpu().numpy()
        return vectors[:, : self.view.space.dim]


def _warmed(encoder: Encoder) -> Encoder:
    """Encode something, as an encoder's first call allocates and compiles what later ones find."""
    import io

    import torch
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "JPEG")
    content = Content(picture.getvalue() if encoder.image_dim else None, "warm" if encoder.text_dim else None)
    device = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        encoder({name: each.to(device) for name, each in encoder.preprocessor([content], "query").items()})
    return encoder
