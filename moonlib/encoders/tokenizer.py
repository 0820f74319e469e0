"""A tokenizer trained on the catalogue, for English and Chinese."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from moonlib.data.reads import Reads
from moonlib.system.disk import replacing

FILE_NAME = "tokenizer.json"

CATALOGUE_READS = Reads.of(products=["title", "category", "attributes"]).before("train_until")
"""What `catalogue_texts` reads."""


def catalogue_texts(products: pl.DataFrame) -> list[str]:
    """Return the words of each product in one text: title, category path and attribute values.

    Args:
        products: the products table.

    Returns:
        One text per row; a missing title, attribute or value is left out.
    """
    category = pl.col("category").str.replace_all("/", " ", literal=True)
    # Physically a map is a list of (key, value), whether or not this version of polars has a type for it.
    pairs = pl.col("attributes").to_physical()
    values = pairs.list.eval(pl.element().struct.field("value")).list.join(" ", ignore_nulls=True)
    texts = products.select(text=pl.concat_str("title", category, values, separator=" ", ignore_nulls=True))
    return texts["text"].to_list()


def fit_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Fit a byte-level BPE tokenizer.

    Text is NFKC-normalised (full-width letters, ligatures) and lower-cased, then split at blanks and punctuation. Each
    Chinese character is a piece of its own: Chinese has no blanks, so merges would otherwise run across words and learn
    whole titles. Bytes as the alphabet mean that no text is unknown.

    Args:
        texts: what to fit on; the result depends on these texts and ``vocab_size`` only.
        vocab_size: upper limit of the vocabulary, at least 256 (the bytes).

    Returns:
        The tokenizer; it has no special tokens.

    Raises:
        ValueError: ``vocab_size`` is below 256.

    Source: Sennrich et al., 2016, section 3.2 (BPE); Radford et al., 2019, section 2.2 (bytes).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet):
        raise ValueError(f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least {len(alphabet)}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_or_fit_tokenizer(products: pl.DataFrame, directory: Path, vocab_size: int) -> Tokenizer:
    """Load ``directory/tokenizer.json``, or fit it on ``products`` and write it there.

    Raises:
        ValueError: the file is not a tokenizer.
    """
    path = directory / FILE_NAME
    if path.exists():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises the bare Exception
            raise ValueError(f"{path} is not a tokenizer ({error}); remove it to fit a new one") from None
    tokenizer = fit_tokenizer(catalogue_texts(products), vocab_size)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        tokenizer.save(str(temporary))
    return tokenizer


@dataclass(frozen=True)
class BPETokenize:
    """Tokenises texts in a loader worker.

    Attributes:
        tokenizer: fitted, without special tokens.
        max_length: tokens beyond it are cut off.
    """

    tokenizer: Tokenizer
    max_length: int

    def __post_init__(self) -> None:
        self.tokenizer.enable_truncation(self.max_length)
        self.tokenizer.enable_padding(pad_id=0, pad_token="")

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [B, T] and mask bool [B, T]; padding has id 0, a blank text an all-False mask."""
        # The library's own threads must not be started in a forked worker, where they could hang.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        length = max((len(encoding.ids) for encoding in encodings), default=0)
        shape = (len(encodings), length)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64).reshape(shape)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.bool_).reshape(shape)
        if length == 0:
            ids, mask = np.zeros((len(texts), 1), dtype=np.int64), np.zeros((len(texts), 1), dtype=np.bool_)
        return torch.from_numpy(ids), torch.from_numpy(mask)
