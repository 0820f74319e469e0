"""A text tower from transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import moonlib.compat  # noqa: F401
import polars as pl
import torch
from torch import Tensor

from moonlib.data.reads import NOTHING, Reads
from moonlib.encoders.pretrained import WEIGHTS, options, read_config, read_tokenizer, reading, require_file
from moonlib.encoders.tower import TextTower

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HFTokenize:
    """Tokenises texts in a loader worker with the model's own tokenizer.

    Attributes:
        tokenizer: as ``AutoTokenizer`` gave it.
        max_length: tokens beyond it are cut off.
        filled: fill each text up to ``max_length``, on the side that the tokenizer says, for models that were trained
            so; otherwise to the longest of the batch, on the right.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    filled: bool = False

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [B, T] and mask bool [B, T]; a blank text has an all-False mask."""
        encoded = self.tokenizer(
            list(texts),
            padding="max_length" if self.filled else True,
            padding_side=self.tokenizer.padding_side if self.filled else "right",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        # The tokenizer's own marks around nothing are not a text.
        some = torch.tensor([bool(text.strip()) for text in texts], dtype=torch.bool).unsqueeze(1)
        return encoded["input_ids"], encoded["attention_mask"].bool() & some


class HFText(TextTower):
    """Any text model of transformers, from the hub or a local folder.

    No code from the hub is run, and only safetensors weights are read.

    Args:
        model: a hub id or the path of a folder with ``config.json`` and a tokenizer.
        pretrained: read the weights; otherwise only the architecture and the tokenizer are taken.
        pooling: ``"mean"`` over a text's tokens or ``"cls"``, its first token.
        max_length: tokens beyond it are cut off.

    Raises:
        UnusableCheckpoint: the model, its tokenizer or its weights cannot be had.

    Example:
        >>> tower = HFText("prajjwal1/bert-tiny", pooling="cls")
    """

    tokenize: HFTokenize

    def __init__(
        self, model: str, pretrained: bool = True, pooling: Literal["mean", "cls"] = "mean", max_length: int = 64
    ) -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained
        self.pooling = pooling
        self.max_length = max_length

    @property
    def is_published(self) -> bool:
        """See `TextTower.is_published`."""
        return self.pretrained

    def reads(self) -> Reads:
        """Nothing: the tokenizer is the published one."""
        return NOTHING

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Read the tokenizer and the weights; nothing is fitted on ``products``."""
        from transformers import AutoModel

        place = options(self.model)
        config = read_config(self.model, place)
        tokenizer = read_tokenizer(self.model, place)
        with reading(self.model, place):
            if self.pretrained:
                require_file(self.model, WEIGHTS, "safetensors weights (others are never loaded)")
                self.body = AutoModel.from_pretrained(self.model, use_safetensors=True, **place)
            else:
                self.body = AutoModel.from_config(config, trust_remote_code=False)
        # Half-precision checkpoints come in half precision; training wants float32 weights. And what is read comes in
        # eval mode, where its dropout would stay off: the mode is the encoder's.
        self.body.float().train(self.training)
        if getattr(self.body, "pooler", None) is not None:
            # Not used here; weights without a gradient would stop DistributedDataParallel.
            self.body.pooler = None
        self.tokenize = HFTokenize(tokenizer, self.max_length)
        self.out_features = int(self.body.config.hidden_size)

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write ``config.json`` and the tokenizer; see `Encoder.save_architecture`."""
        self.body.config.save_pretrained(directory)
        self.tokenize.tokenizer.save_pretrained(directory)
        return {"model": str(directory), "pretrained": False}

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return float [B, out_features]; see `TextTower.forward`."""
        # A row without tokens attends to its padding: softmax over nothing may be NaN, in the gradient too.
        attention = mask | ~mask.any(dim=1, keepdim=True)
        states = self.body(input_ids=text, attention_mask=attention.long()).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        weights = attention.to(states.dtype).unsqueeze(2)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)
