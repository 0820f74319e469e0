"""Towers of a dual encoder, one per modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import polars as pl
from torch import Tensor

from moonlib.data.content import Box
from moonlib.data.reads import Declaring, Reads, TableReads
from moonlib.encoders.exportable import Exportable

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Texts → (ids int64 [B, T], mask bool [B, T]), T = the longest text of the batch up to a limit,
at least 1; picklable. A blank text has an all-False mask."""


@runtime_checkable
class Scripted(Protocol):
    """A `Tokenize` that can be written as Python that runs without moonlib, for a program of `moonlib export --to`.

    One that keeps a tokenizer of the library tokenizers as its attribute ``tokenizer`` need not be: that travels.
    """

    def script(self) -> str:
        """Return a module that needs the standard library alone.

        Its function ``tokenize(texts)`` gives ids and mask as the tokenizer does, as lists of lists.
        """
        ...


class LoadImage(Protocol):
    """Decodes and resizes one image inside a loader worker; picklable."""

    def __call__(self, data: bytes, box: Box | None = None, /) -> Tensor:
        """Decode.

        Args:
            data: an encoded image: JPEG, PNG or WebP.
            box: the part to look at, which then stands for the image; ``None`` for all of it. `decode_image` takes the
                same argument.

        Returns:
            uint8 [3, image_size, image_size].

        Raises:
            UnreadableImage: the data cannot be decoded.
        """
        ...


class ImageTower(Exportable, ABC):
    """Encodes images. `setup` makes the weights.

    Attributes:
        out_features: width of the output, available after `setup`.
        image_size: height and width of what `load_image` returns, available after `setup`.
        load_image: decodes and resizes one encoded image, or a box of it, available after `setup`.
    """

    out_features: int
    image_size: int
    load_image: LoadImage

    @property
    def is_published(self) -> bool:
        """Whether `setup` reads weights that others have trained, rather than making new ones."""
        return False

    @abstractmethod
    def setup(self) -> None:
        """Make (or load) the weights and `load_image`."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Encode.

        Args:
            image: uint8 [B, 3, image_size, image_size] as `load_image` made it; the tower does its own
                scaling and normalisation.

        Returns:
            float [B, out_features].
        """


class TextTower(Exportable, Declaring, ABC):
    """Encodes texts. `setup` fits or loads the tokenizer, then makes the weights.

    Attributes:
        out_features: width of the output, available after `setup`.
        tokenize: runs inside a loader worker, available after `setup`.
    """

    out_features: int
    tokenize: Tokenize

    @property
    def is_published(self) -> bool:
        """Whether `setup` reads weights that others have trained, rather than making new ones."""
        return False

    def reads(self) -> Reads:
        """Declare what the tokenizer is fitted to; see `moonlib.encoders.encoder.Encoder.reads`."""
        return Reads({"products": TableReads()}).before("train_until")

    @abstractmethod
    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load the tokenizer from ``directory`` or fit it on ``products`` and write it there; then make the weights.

        Args:
            products: the products listed before the end of training.
            directory: where fitted preprocessing lives.
        """

    def extend(self, products: pl.DataFrame, directory: Path) -> Mapping[str, Sequence[Sequence[int]]]:
        """Add words to a fitted tokenizer that it lacks for these products; see `Encoder.extend`.

        Returns:
            New rows by the name of one of this tower's weights; empty where the tokenizer stays as it is.
        """
        return {}

    @abstractmethod
    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Encode.

        Args:
            text: int64 [B, T] token ids.
            mask: bool [B, T], False for padding; a row may be all False (its output is then finite and unused).

        Returns:
            float [B, out_features].
        """
