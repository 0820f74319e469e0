"""Contents and questions → token sequences with room for the image: what runs in a loader worker."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from moonlib.data.content import Box, Content, Side, View
from moonlib.data.images import decode_image
from moonlib.encoders.encoder import ContentBatch


@dataclass(frozen=True)
class Layout:
    """The tokens around content, questions and answers.

    Attributes:
        begin: before a content that is to be represented.
        ask: before a content that a question follows.
        image_begin: before the image's tokens.
        image: the token that each of the image's states replaces.
        image_end: after the image's tokens.
        reply: between a question and its answer.
        end: after a content or an answer.
        pad: after the end.
    """

    begin: tuple[int, ...]
    ask: tuple[int, ...]
    image_begin: tuple[int, ...]
    image: int
    image_end: tuple[int, ...]
    reply: tuple[int, ...]
    end: int
    pad: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, model_type: str, image: int, fitted: bool) -> Layout:
        """Write the marks that a family was pretrained with.

        Args:
            tokenizer: has the family's special tokens.
            model_type: of the model's configuration.
            image: id of the image token.
            fitted: the tokenizer was fitted on the catalogue: no words of a chat are part of the marks.
        """

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

        if fitted:
            begin, user, assistant = "", "", START
        elif model_type.startswith("qwen"):
            begin, user, assistant = "", f"{START}user\n", f"{END}\n{START}assistant\n"
        else:
            begin, user, assistant = START, f"{START}User:", "<end_of_utterance>\nAssistant:"
        if model_type.startswith("qwen") or fitted:
            image_begin, image_end, end = VISION_START, VISION_END, END
        else:
            around = "<fake_token_around_image>"
            image_begin, image_end, end = f"{around}<global-img>", around, "<end_of_utterance>"
        return cls(
            ids(begin), ids(user), ids(image_begin), image, ids(image_end), ids(assistant), ids(end)[-1], ids(end)[-1]
        )


START, END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
SPECIAL = (START, END, VISION_START, VISION_END, IMAGE)
"""Tokens added to a tokenizer that was fitted on the catalogue, whose texts never hold them."""


@dataclass(frozen=True)
class MLLMProcessor:
    """Decodes and resizes images, tokenises texts, and lays both out as the model reads them.

    A batch has ``image`` uint8 [B, 3, H, W] (an image fills its top left part; zeros where missing), ``image_size``
    int64 [B, 2] (height and width of that part), ``tokens`` int64 [B, T] and ``token_mask`` bool [B, T] (a row without
    image and text has no token). Questions with answers add ``answer`` bool [B, T], the tokens to be learnt.

    Attributes:
        tokenizer: texts → tokens; special tokens in a text are read as plain characters.
        layout: see `Layout`.
        unit: side in pixels of what becomes one image token.
        image_tokens: most tokens of an image.
        max_length: most tokens of a text; what is beyond is cut off.
        square: images are squashed to squares; otherwise they keep their proportions, as nearly as whole units allow.
        largest: longest side in pixels, None for no limit.
        view: what is seen of an image.
    """

    tokenizer: Tokenizer
    layout: Layout
    unit: int
    image_tokens: int
    max_length: int
    square: bool = True
    largest: int | None = None
    view: View = "full"

    def __call__(self, contents: Sequence[Content], side: Side) -> ContentBatch:
        """Lay out contents that are to be represented; see `Preprocessor`."""
        layout, texts = self.layout, self._encode([content.text or "" for content in contents])
        batch = self._images(contents)
        rows = [
            (*layout.begin, *image, *text, layout.end) if image or text else ()
            for image, text in zip(self._image_tokens(batch["image_size"]), texts, strict=True)
        ]
        return batch | self._padded(rows)

    def ask(
        self, contents: Sequence[Content], questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> ContentBatch:
        """Lay out questions; see `QuestionPreprocessor`."""
        layout, batch = self.layout, self._images(contents)
        texts = self._encode([content.text or "" for content in contents])
        asked = [
            (*layout.ask, *image, *text, *question, *layout.reply)
            for image, text, question in zip(
                self._image_tokens(batch["image_size"]), texts, self._encode(questions), strict=True
            )
        ]
        if answers is None:
            return batch | self._padded(asked)
        replies = self.answer_tokens(answers)
        batch |= self._padded([(*one, *other) for one, other in zip(asked, replies, strict=True)])
        first = torch.tensor([len(row) for row in asked]).unsqueeze(1)
        places = torch.arange(batch["tokens"].shape[1])
        return batch | {"answer": (places >= first) & batch["token_mask"]}

    def answer_tokens(self, answers: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of answers with their end; one that had to be cut off has none, since it does not end there."""
        whole = self._encode(answers, cut=False)
        return [
            (*tokens, self.layout.end) if len(tokens) <= self.max_length else tuple(tokens[: self.max_length])
            for tokens in whole
        ]

    def _encode(self, texts: Sequence[str], cut: bool = True) -> list[list[int]]:
        # The library's own threads must not be started in a forked worker, where they could hang.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.tokenizer.encode_special_tokens = True  # a title that says <|image_pad|> is no image
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids[: self.max_length] if cut else encoding.ids for encoding in encodings]

    def _images(self, contents: Sequence[Content]) -> ContentBatch:
        views = [(content.image, content.box if self.view == "box" else None) for content in contents]
        found = [None if data is None else self.load_image(data, box) for data, box in views]
        sizes = torch.tensor([(0, 0) if image is None else image.shape[1:] for image in found], dtype=torch.int64)
        height, width = (max(side, self.unit) for side in sizes.amax(dim=0).tolist())
        images = torch.zeros(len(found), 3, height, width, dtype=torch.uint8)
        for row, image in enumerate(found):
            if image is not None:
                images[row, :, : image.shape[1], : image.shape[2]] = image
        return {"image": images, "image_size": sizes}

    def load_image(self, data: bytes, box: Box | None = None) -> Tensor:
        """Decode one image, crop it to its box and resize it to whole units within the budget.

        Returns:
            uint8 [3, H, W].

        Raises:
            UnreadableImage: the data cannot be decoded.
        """
        if self.square:
            side = math.isqrt(self.image_tokens) * self.unit
            return decode_image(data, box, size=side if self.largest is None else min(side, self.largest))
        image = decode_image(data, box)
        _, height, width = image.shape
        size = fitted_size(height, width, self.unit, self.image_tokens)
        if size == (height, width):
            return image
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]

    def _image_tokens(self, sizes: Tensor) -> list[tuple[int, ...]]:
        layout = self.layout
        counts = (sizes // self.unit).prod(dim=1).tolist()
        return [(*layout.image_begin, *[layout.image] * n, *layout.image_end) if n else () for n in counts]

    def _padded(self, rows: Sequence[Sequence[int]]) -> ContentBatch:
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(max(1, lengths.max(initial=1))) < lengths[:, None]
        tokens = np.full(mask.shape, self.layout.pad, dtype=np.int64)
        tokens[mask] = [token for row in rows for token in row]
        return {"tokens": torch.from_numpy(tokens), "token_mask": torch.from_numpy(mask)}


def fitted_size(height: int, width: int, unit: int, most: int) -> tuple[int, int]:
    """Choose the size in whole units nearest to an image's own, of ``most`` units at most.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        unit: side of a unit, in pixels.
        most: largest number of units, at least 1.

    Returns:
        Height and width in pixels, multiples of ``unit``.

    Example:
        >>> fitted_size(300, 200, 28, 64), fitted_size(300, 200, 28, 16)
        ((252, 168), (112, 84))
    """
    rows, columns = max(1, round(height / unit)), max(1, round(width / unit))
    if rows * columns > most:
        shrink = math.sqrt(most / (height * width))
        rows = min(max(1, math.floor(height * shrink)), most)
        columns = min(max(1, math.floor(width * shrink)), most // rows)
    return rows * unit, columns * unit
