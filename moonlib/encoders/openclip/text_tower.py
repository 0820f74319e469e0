"""The text half of an open_clip model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401  (before torchvision, which open_clip imports)
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from moonlib.data.reads import NOTHING, Reads
from moonlib.encoders.openclip.model import build, configuration, has_weights, known_name, library, tokenizer
from moonlib.encoders.tower import TextTower


@dataclass(frozen=True)
class Tokenize:
    """Tokenises texts with the model's own tokenizer, and cuts off what it fills them up with.

    Attributes:
        tokenizer: open_clip's: texts → int64 [B, context length].
        filler: the id that ends the tokens of the empty text.
    """

    tokenizer: Callable[[list[str]], Tensor]
    filler: int

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [B, T] and mask bool [B, T]; a blank text has an all-False mask."""
        if not texts:
            return torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.bool)
        ids = self.tokenizer(list(texts))
        place = torch.arange(1, ids.shape[1] + 1)
        # A text lasts up to its last id that is not the filler; a filler between its words is a token like others.
        length = torch.where(ids != self.filler, place, 0).amax(dim=1).clamp(min=1)
        length *= torch.tensor([bool(text.strip()) for text in texts])
        longest = max(int(length.max()), 1)
        return ids[:, :longest], place[:longest] <= length.unsqueeze(1)


class OpenClipText(TextTower):
    """The text half of any open_clip model, with that model's own tokenizer.

    Agrees with open_clip's ``encode_text``. Where a model looks back only and reads its output off the last token,
    what follows the longest text of a batch is not computed: titles are a fraction of the usual 77 tokens. Elsewhere
    (SigLIP, CoCa, models of transformers) texts are filled up to the model's length again, as in its training.

    Args:
        model: a name as in ``open_clip.list_models()``, the path of a JSON file with ``embed_dim``, ``vision_cfg`` and
            ``text_cfg``, or a published model with its weights: ``hf-hub:owner/name`` or ``local-dir:folder``.
        pretrained: the weights: a tag of the model (``open_clip.list_pretrained_tags_by_model``), the path of a file
            (safetensors, or one that holds tensors only), or ``hf-hub:owner/name``. ``None``: random.

    Raises:
        ValueError: the model is unknown, its tokenizer or its weights cannot be had, or are of another model.

    Source: Radford et al., 2021, section 2.4; Ilharco et al., 2021, open_clip.

    Example:
        >>> tower = OpenClipText("ViT-B-32", pretrained="laion2b_s34b_b79k")
    """

    body: nn.Module
    empty: Tensor

    def __init__(self, model: str, pretrained: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.pretrained = pretrained

    @property
    def is_published(self) -> bool:
        """See `TextTower.is_published`."""
        return has_weights(self.model, self.pretrained)

    def reads(self) -> Reads:
        """Nothing: the tokenizer is the published one."""
        return NOTHING

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Get the tokenizer, and make, read or download the weights; nothing is fitted, the image half is let go."""
        library()
        from open_clip.transformer import TextTransformer

        tokenize = tokenizer(self.model)
        self.body = build(self.model, self.pretrained).text
        self.out_features = int(configuration(known_name(self.model))["embed_dim"])
        # What the model makes of an empty text serves the rows that have none.
        (empty,) = tokenize([""])
        self.register_buffer("empty", empty, persistent=False)
        self.filler = int(empty[-1])
        self.tokenize = Tokenize(tokenize, self.filler)
        self.looks_back = (
            isinstance(self.body, TextTransformer)
            and self.body.attn_mask is not None
            and self.body.cls_emb is None
            and self.body.pool_type in ("argmax", "eos")
        )

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return float [B, out_features], not normalised; see `TextTower.forward`."""
        length = text.shape[1] if self.looks_back else len(self.empty)
        text = F.pad(text.masked_fill(~mask, self.filler), (0, length - text.shape[1]), value=self.filler)
        text = torch.where(mask.any(dim=1, keepdim=True), text, self.empty[:length])
        causal = {"attn_mask": self.body.attn_mask[:length, :length]} if self.looks_back else {}  # type: ignore[index]
        encoded: Any = functional_call(self.body, causal, (text,))
        # The models that also write captions return their tokens beside the pooled output.
        return encoded[0] if isinstance(encoded, tuple) else encoded
