"""A small text tower, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moonlib.encoders.tokenizer import BPETokenize, extend_tokenizer, load_or_fit_tokenizer
from moonlib.encoders.tower import TextTower


class Transformer(TextTower):
    """A pre-norm transformer encoder with learned positions, whose states are averaged over a text's tokens.

    The average is taken of the residual stream, which still holds the token embeddings: what the words say as a bag is
    there from the first step on, and attention adds to it. Titles are short and noisy, so that is most of it.

    Args:
        vocab_size: upper limit of the vocabulary of the tokenizer, which is fitted on the catalogue.
        width: width of the states and of the output.
        depth: number of layers.
        heads: attention heads; divides ``width``.
        max_length: tokens beyond it are cut off.
        dropout: on attention and on what each layer adds to the residual stream.

    Raises:
        ValueError: ``heads`` does not divide ``width``.

    Source: Vaswani et al., 2017; Xiong et al., 2020, section 3 (pre-norm).
    """

    def __init__(
        self,
        vocab_size: int = 4096,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        max_length: int = 48,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.vocab_size = vocab_size
        self.out_features = width
        self.depth = depth
        self.heads = heads
        self.max_length = max_length
        self.dropout = dropout

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load or fit ``tokenizer.json``, then make the weights."""
        tokenizer = load_or_fit_tokenizer(products, directory, self.vocab_size)
        self.tokenize = BPETokenize(tokenizer, self.max_length)
        width = self.out_features
        # Fitting may stop short of vocab_size; the embedding has what there is.
        self.tokens = nn.Embedding(tokenizer.get_vocab_size(), width)
        self.positions = nn.Parameter(torch.empty(self.max_length, width))
        self.layers = nn.ModuleList(
            TransformerLayer(width, self.heads, self.dropout, self.depth) for _ in range(self.depth)
        )
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    def extend(self, products: pl.DataFrame, directory: Path) -> Mapping[str, Sequence[Sequence[int]]]:
        """Add new words to ``tokenizer.json``; the embedding of each starts as the mean of its pieces'."""
        return {"tokens.weight": extend_tokenizer(products, directory, self.vocab_size)}

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return float [B, width]; see `TextTower.forward`."""
        states = self.tokens(text) + self.positions[: text.shape[1]]
        # A row without tokens attends to its padding: softmax over nothing is NaN, in the gradient too.
        keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.layers:
            states = layer(states, keys)
        weights = mask.to(states.dtype).unsqueeze(2)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return self.norm(mean)


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each normalised first and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 2 * width)
        self.mlp_out = nn.Linear(2 * width, width)
        for linear in (self.queries_keys_values, self.attention_out, self.mlp_in, self.mlp_out):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        # What a layer adds starts small, the smaller the more layers there are (Radford et al., 2019, section 2.3).
        for linear in (self.attention_out, self.mlp_out):
            nn.init.normal_(linear.weight, std=0.02 / (2 * depth) ** 0.5)

    def forward(self, states: Tensor, keys: Tensor) -> Tensor:
        """Return states [B, T, width]; ``keys`` bool [B, 1, 1, T] is False for padding."""
        batch, length, width = states.shape
        heads = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = self.queries_keys_values(self.attention_norm(states)).view(heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=dropout)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        states = states + F.dropout(self.attention_out(attended), dropout)
        added = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(states)), approximate="tanh"))
        return states + F.dropout(added, dropout)
