"""What every encoder promises: content in, one representation per row out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from torch import Tensor, nn

from moonlib.data.content import Content, Side

ContentBatch = dict[str, Tensor]
"""What a preprocessor hands to its encoder: named tensors whose first dimension is the batch, so that any
batch can be concatenated, sliced and moved without knowing the encoder. Dual encoders use

- ``image`` uint8 [B, 3, H, W] (zeros where missing) and ``has_image`` bool [B]
- where they look at the main subject too, ``subject`` and ``has_subject`` alike: the crop, missing without a box
- ``text`` int64 [B, T] token ids and ``text_mask`` bool [B, T] (all False where missing)
"""


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


class Encoder(nn.Module, ABC):
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

    @abstractmethod
    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load the preprocessing from ``directory``, or fit it on ``products`` and write it there; make the weights.

        Args:
            products: the products table's rows listed before the end of training (columns as in
                `moonlib.data.tables`); read only when ``directory`` holds no fitted preprocessing.
            directory: where the fitted preprocessing (for instance ``tokenizer.json``) lives.
        """

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write what `setup` reads from elsewhere, such as the hub or a folder of this machine, less the weights.

        `moonlib export` calls it, so that an export can be opened without that place. An encoder that reads nothing
        but what is in the directory of its preprocessing need not do anything.

        Args:
            directory: to write to, and to make if there is something to write; nobody else writes there.

        Returns:
            Arguments of the constructor that take the place of this encoder's: an encoder made with them makes the same
            architecture and preprocessor out of ``directory``, with weights of no consequence. Paths below
            ``directory`` are absolute.
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

    @abstractmethod
    def forward(self, batch: ContentBatch) -> Tensor:
        """Encode a batch.

        Args:
            batch: what `preprocessor` returned, B rows; any modality may be missing in any row.

        Returns:
            float [B, dim], not normalised. A row's value does not depend on the other rows in eval mode.
        """
