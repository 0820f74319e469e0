"""The text half of CLIP, SigLIP or SigLIP2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import polars as pl
from tokenizers import normalizers
from torch import Tensor, nn

from moonlib.data.reads import NOTHING, Reads
from moonlib.encoders.clip.checkpoint import clip_config, clip_model, projection
from moonlib.encoders.hf_text import HFTokenize
from moonlib.encoders.pretrained import UnusableCheckpoint, options, read_tokenizer
from moonlib.encoders.tower import TextTower


class CLIPText(TextTower):
    """The text half of a CLIP, SigLIP or SigLIP2 of transformers, with its own tokenizer and projection.

    It makes what transformers' ``get_text_features`` makes of the tokens that the model was trained with. CLIP looks
    back only and reads its output off the end of the text, so texts are padded to the longest of a batch. SigLIP and
    SigLIP2 see a text filled up to the model's length, without a mask, and in lower case.

    Args:
        model: a name on the hub, or the path of a folder with ``config.json`` and a tokenizer.
        pretrained: read the weights; otherwise only the architecture and the tokenizer are taken.

    Raises:
        UnusableCheckpoint: the model cannot be had, is of another kind, or lacks its tokenizer.

    Source: Radford et al., 2021, section 2.4 (CLIP); Zhai et al., 2023 (SigLIP); Tschannen et al., 2025 (SigLIP2).

    Example:
        >>> tower = CLIPText("google/siglip2-base-patch16-224")
    """

    body: nn.Module
    tokenize: HFTokenize

    def __init__(self, model: str, pretrained: bool = True) -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained

    @property
    def is_published(self) -> bool:
        """See `TextTower.is_published`."""
        return self.pretrained

    def reads(self) -> Reads:
        """Nothing: the tokenizer is the published one."""
        return NOTHING

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Read the tokenizer, and make, read or download the weights; nothing is fitted, the image half is let go."""
        self.config = clip_config(self.model)
        text = self.config.text_config
        tokenizer = read_tokenizer(self.model, options(self.model))
        if (last := max(tokenizer.get_vocab().values())) >= text.vocab_size:
            raise UnusableCheckpoint(
                f"the tokenizer of '{self.model}' has ids up to {last}, and its weights are of a vocabulary of "
                f"{text.vocab_size}: they do not belong together"
            )
        self.filled = self.config.model_type != "clip"
        if self.filled:
            lower_case(tokenizer)
        self.tokenize = HFTokenize(tokenizer, text.max_position_embeddings, filled=self.filled)
        self.padding = int(tokenizer.pad_token_id)
        whole = clip_model(self.model, self.config, self.pretrained)
        # What is read comes in eval mode, where its dropout would stay off: the mode is the encoder's.
        self.body = whole.text_model.train(self.training)
        self.projection = projection(whole, "text").train(self.training)
        self.out_features = int(getattr(self.projection, "out_features", 0) or text.projection_size)
        # The factor of a cosine, and what is added to it, that the two halves were trained with.
        self.scale = float(whole.logit_scale.detach().exp())
        self.bias = float(whole.logit_bias.detach()) if self.filled else 0.0

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write ``config.json`` and the tokenizer; see `Encoder.save_architecture`."""
        self.config.save_pretrained(directory)
        self.tokenize.tokenizer.save_pretrained(directory)
        return {"model": str(directory), "pretrained": False}

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return float [B, out_features], not normalised; see `TextTower.forward`."""
        ids = text.masked_fill(~mask, self.padding)
        if self.filled:
            states: Any = self.body(input_ids=ids)
        else:
            # A row without tokens attends to its padding: softmax over nothing may be NaN, in the gradient too.
            attention = mask | ~mask.any(dim=1, keepdim=True)
            states = self.body(input_ids=ids, attention_mask=attention.long())
        projected: Tensor = self.projection(states.pooler_output)
        return projected


def lower_case(tokenizer: Any) -> None:
    """Let a tokenizer write texts in lower case, as all of SigLIP's were in training.

    SigLIP's own does so by itself; the Gemma tokenizer that SigLIP2 is published with does not.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(tokenizer).__name__ == "SiglipTokenizer":
        return
    steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
    backend.normalizer = normalizers.Sequence(steps)
