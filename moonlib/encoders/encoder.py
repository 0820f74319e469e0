"""The base class of encoders: content in, one representation per row out."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

import polars as pl
import torch
from PIL import Image
from torch import Tensor

from moonlib.data.content import Content, Side
from moonlib.data.images import UnreadableImage
from moonlib.data.pixels import to_rgb
from moonlib.data.reads import Declaring, Reads, TableReads
from moonlib.encoders.exportable import Exportable

ImageLike = bytes | str | os.PathLike[str] | Image.Image
"""The bytes of an image file, its path, or a decoded image."""

ContentBatch = dict[str, Tensor]
"""Input of an encoder: named tensors whose first dimension is the batch, so that any
batch can be concatenated, sliced and moved without knowing the encoder. Dual encoders use

- ``image`` uint8 [B, 3, H, W] (zeros where missing) and ``has_image`` bool [B]
- where they look at the main subject too, ``subject`` and ``has_subject`` alike: the crop, missing without a box
- ``text`` int64 [B, T] token ids and ``text_mask`` bool [B, T] (all False where missing)
"""


ALL_COLUMNS = Reads({"products": TableReads()}).before("train_until")
"""All columns of the products that training may see."""


class Preprocessor(Protocol):
    """Turns contents into tensors inside a loader worker; picklable and free of weights."""

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        """Preprocess a batch.

        Args:
            contents: B contents; any modality may be ``None``.
            side: ``"product"`` or ``"query"``: an encoder may treat the two differently.

        Returns:
            Named tensors with first dimension B.
        """
        ...


class Encoder(Exportable, Declaring, ABC):
    """Encodes the image and text of a product or a query into one vector.

    A constructor takes the recipe's arguments and stays cheap: no download, no weights. `setup` fits (or loads)
    the preprocessing and then makes the weights, so that vocabulary sizes are known by then.

    Attributes:
        dim: width of the representation.
        image_dim: width of the image tower's output, 0 without one.
        text_dim: width of the text tower's output, 0 without one.
        preprocessor: available after `setup`.
    """

    dim: int
    image_dim: int
    text_dim: int
    preprocessor: Preprocessor

    def reads(self) -> Reads:
        """Declare what `setup` fits the preprocessing to: columns of products listed before the end of training.

        A change of those fits it anew, and trains anew all that starts from it. By default it is all columns, also for
        a class that derives from another encoder and does not say it again. What the encoder is shown of products and
        queries later is no part of it.
        """
        return ALL_COLUMNS

    @abstractmethod
    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load the preprocessing from ``directory``, or fit it on ``products`` and write it there; make the weights.

        Args:
            products: the products table's rows listed before the end of training, with the columns that `reads`
                declares (as in `moonlib.data.tables`); read only when ``directory`` holds no fitted preprocessing.
            directory: where the fitted preprocessing (for instance ``tokenizer.json``) lives.
        """

    def extend(self, products: pl.DataFrame, directory: Path) -> Mapping[str, Sequence[Sequence[int]]]:
        """Add what fitted preprocessing lacks for these products, in place; asked before `setup`, of a warm start.

        What was there before stays as it is: an old row of the weights goes on to mean what it meant.

        Args:
            products: see `setup`.
            directory: holds the preprocessing, fitted on earlier products.

        Returns:
            By the name of a weight that has more rows from now on, for each new row the old ones whose mean it starts
            as; empty where nothing is added, as for a tokenizer that came with published weights.

        Raises:
            ValueError: what the directory holds is no preprocessing of this encoder.
        """
        return {}

    def augmented_inputs(self) -> Sequence[str]:
        """Names of the preprocessor's tensors that a stage may augment in training; asked after `setup`.

        Each is uint8 [B, 3, H, W], zeros where there is no image. Where the batch has ``image_size`` int64 [B, 2], an
        image fills its top left part alone. One that a batch lacks is passed over.

        Returns:
            ``image`` and ``subject`` (see `ContentBatch`) of an encoder that sees images, none otherwise.
        """
        return ("image", "subject") if self.image_dim else ()

    def logit_scale(self) -> tuple[float, float] | None:
        """Factor of a cosine, and what is added to it, that the weights were trained with; asked after `setup`.

        A loss can start from them, see `moonlib.losses.loss.Loss.start_from`.

        Returns:
            None for an encoder that has none, such as one with random weights.
        """
        return None

    def heads(self) -> Mapping[str, slice]:
        """Which of the representation's dimensions each of its heads makes, by the head's name; none by default.

        A loss can be restricted to those of one head, see `moonlib.losses.weighted.WeightedLoss`.
        """
        return {}

    def learning_rate_factor(self, name: str) -> float:
        """Factor on the learning rate of a parameter; the same for every call.

        Args:
            name: of one of this encoder's parameters, as ``named_parameters`` has it.

        Returns:
            At least 0; 1 for the stage's own learning rate.
        """
        return 1.0

    def is_published(self, name: str) -> bool:
        """Whether a weight is a published one, which others have trained and this encoder starts from.

        Asked after `setup`. A stage may freeze such weights at first, and average them with their start at the end.

        Args:
            name: of one of this encoder's parameters or buffers, as ``state_dict`` has it.
        """
        return False

    @abstractmethod
    def forward(self, batch: ContentBatch) -> Tensor:
        """Encode a batch.

        Args:
            batch: what `preprocessor` returned, B rows; any modality may be missing in any row.

        Returns:
            float [B, dim], not normalised. A row's value does not depend on the other rows in eval mode.
        """

    def encode(
        self,
        images: Sequence[ImageLike | None] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        side: Side = "product",
        batch_size: int = 64,
    ) -> Tensor:
        """Represent images, texts, or both together, with the weights as they are.

        Args:
            images: N images: the bytes of a JPEG, PNG or WebP file, its path, or a PIL image; None for a row without
                one. Omit it to encode texts alone.
            texts: N titles, or texts of queries; None for a row without one. Omit it to encode images alone.
            side: what they are: ``"product"`` or ``"query"``.
            batch_size: rows encoded at once; last bits may depend on it.

        Returns:
            float32 [N, dim] on the CPU, in eval mode and without gradient; not normalised: divide by their length for
            cosines.

        Raises:
            ValueError: neither is given, one is no list of what it should hold, there are more of one than of the
                other, or the encoder has no tower for one.
            UnreadableImage: an image cannot be decoded; the message names its row.

        Example: ``encoder.encode(images=["mug.jpg", None], texts=["red mug", "blue mug"])``
        """
        if images is None and texts is None:
            raise ValueError("encode: give images, texts, or both")
        if side not in get_args(Side):
            raise ValueError(f"encode: side: expected 'product' or 'query', got {side!r}")
        _check(
            "images", images, bytes | str | os.PathLike | Image.Image, "bytes, a path or a PIL image", self.image_dim
        )
        _check("texts", texts, str, "text", self.text_dim)
        rows = len(images if images is not None else texts or ())
        images, texts = images if images is not None else [None] * rows, texts if texts is not None else [None] * rows
        if len(images) != len(texts):
            raise ValueError(f"encode: {len(images)} images and {len(texts)} texts; give None where a row lacks one")
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        training = self.training
        self.eval()
        vectors = [torch.zeros(0, self.dim)]
        try:
            with torch.no_grad():
                for start in range(0, rows, batch_size):
                    part = slice(start, start + batch_size)
                    batch = self._preprocessed(images[part], texts[part], side, start)
                    vectors.append(self({name: each.to(device) for name, each in batch.items()}).float().cpu())
        finally:
            self.train(training)
        return torch.cat(vectors)

    def _preprocessed(
        self, images: Sequence[ImageLike | None], texts: Sequence[str | None], side: Side, start: int
    ) -> ContentBatch:
        contents = []
        for row, (image, text) in enumerate(zip(images, texts, strict=True), start):
            try:
                contents.append(Content(None if image is None else _encoded(image), text))
            except ValueError as error:
                raise UnreadableImage(f"images[{row}]: {error}") from error
        try:
            return self.preprocessor(contents, side)
        except UnreadableImage:
            for row, content in enumerate(contents, start):
                try:
                    self.preprocessor([content], side)
                except UnreadableImage as error:
                    raise UnreadableImage(f"images[{row}]: {error}") from error
            raise


def _check(name: str, rows: Sequence[Any] | None, of: Any, expected: str, width: int) -> None:
    """Refuse what is no list, or holds something else, or what an encoder has no tower for."""
    if rows is None:
        return
    if isinstance(rows, str | bytes | os.PathLike | Image.Image):
        raise ValueError(f"encode: {name}: expected a list, got one {type(rows).__name__}; put it into [ ]")
    for row, value in enumerate(rows):
        if value is not None and not isinstance(value, of):
            raise ValueError(f"encode: {name}[{row}]: expected {expected}, got {type(value).__name__}")
        if value is not None and not width:
            raise ValueError(f"encode: this encoder reads no {name}: leave them out")


def _encoded(image: ImageLike) -> bytes:
    """The bytes of an image file.

    Raises:
        ValueError: the range of a picture's pixels is not known, see `moonlib.data.pixels.to_rgb`.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        to_rgb(image).save(file, "PNG")
        return file.getvalue()
    return Path(image).read_bytes()
