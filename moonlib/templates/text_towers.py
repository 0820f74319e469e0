"""A text tower that reads a text as a bag of words."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from torch import Tensor, nn

from moonlib.encoders import BPETokenize, TextTower, load_or_fit_tokenizer


class Template(TextTower):
    """The mean of the embeddings of a text's tokens, whatever their order.

    Args:
        vocab_size: upper limit of the vocabulary of the tokenizer, which is fitted on the catalogue.
        width: width of the output.
        max_length: tokens beyond it are cut off.
    """

    def __init__(self, vocab_size: int = 2048, width: int = 64, max_length: int = 48) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.out_features = width
        self.max_length = max_length

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load or fit the tokenizer, then make the weights; see `TextTower.setup`."""
        tokenizer = load_or_fit_tokenizer(products, directory, self.vocab_size)
        self.tokenize = BPETokenize(tokenizer, self.max_length)
        self.tokens = nn.Embedding(tokenizer.get_vocab_size(), self.out_features)
        self.norm = nn.LayerNorm(self.out_features)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return float [B, out_features]; see `TextTower.forward`."""
        vectors = self.tokens(text).masked_fill(~mask.unsqueeze(2), 0)
        mean: Tensor = self.norm(vectors.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1))
        return mean
