"""A tokenizer trained on the catalogue, for English and Chinese."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from moonlib.system.disk import replacing

FILE_NAME = "tokenizer.json"

HAN = Regex(r"\p{Han}")
MIN_FREQUENCY = 2
"""How often two pieces stand side by side in the texts at least, to become one."""
BATCH = 4096
"""Texts that are encoded at once."""


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
            pre_tokenizers.Split(HAN, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, min_frequency=MIN_FREQUENCY, show_progress=False
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
        return _read(path)
    tokenizer = fit_tokenizer(catalogue_texts(products), vocab_size)
    _write(tokenizer, path)
    return tokenizer


def extend_tokenizer(products: pl.DataFrame, directory: Path, vocab_size: int) -> list[list[int]]:
    """Add words that these products have made common to ``directory/tokenizer.json``; its ids stay as they are.

    A tokenizer is fitted on the products by the rule of `fit_tokenizer`. Each of its tokens that stands as a whole word
    in a text at least twice, and that the old tokenizer has to break into pieces, becomes a new id at the end, the most
    frequent first. So a text without such a word has the ids that it had, and ``vocab_size`` is the limit of what one
    fit knows: the vocabulary grows by what has become common since.

    Args:
        products: the products table.
        directory: holds the tokenizer, which is replaced where there are new words.
        vocab_size: see `fit_tokenizer`.

    Returns:
        Old ids of the pieces of each new word, in the order of the new ids.

    Raises:
        ValueError: there is no tokenizer, or the file is none that `load_or_fit_tokenizer` wrote.
    """
    path = directory / FILE_NAME
    if not path.exists():
        raise ValueError(f"{path} is missing: what the encoder starts from has no tokenizer that was fitted")
    old = _read(path)
    if not isinstance(old.model, models.BPE) or not isinstance(old.decoder, decoders.ByteLevel):
        raise ValueError(f"{path} was not fitted by moonlib: its model is {type(old.model).__name__}")
    texts = catalogue_texts(products)
    fitted = fit_tokenizer(texts, vocab_size)
    # Bytes that are no whole character, a part of a Chinese one for instance, are decoded to U+FFFD.
    tokens = {fitted.decode([number], skip_special_tokens=False) for number in range(fitted.get_vocab_size())}
    words = sorted(word for word in tokens if word and "\ufffd" not in word)
    pieces = [encoding.ids for encoding in old.encode_batch_fast(words, add_special_tokens=False)]
    unknown = {word: ids for word, ids in zip(words, pieces, strict=True) if len(ids) > 1}
    if not unknown:
        return []
    known = old.get_vocab_size()
    trial = _with_words(_read(path), list(unknown))
    counts = np.zeros(len(unknown), dtype=np.int64)
    for start in range(0, len(texts), BATCH):
        encodings = trial.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)
        ids = np.concatenate([np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings])
        counts += np.bincount(ids[ids >= known] - known, minlength=len(unknown))
    frequency = dict(zip(unknown, counts.tolist(), strict=True))
    new = [
        word for word in sorted(unknown, key=lambda word: (-frequency[word], word)) if frequency[word] >= MIN_FREQUENCY
    ]
    if new:
        _write(_with_words(old, new), path)
    return [unknown[word] for word in new]


def _with_words(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """Add words as they stand between blanks and punctuation; a Chinese character is a word wherever it stands."""
    tokenizer.add_tokens([AddedToken(word, single_word=not _is_chinese(word), normalized=True) for word in words])
    return tokenizer


def _is_chinese(word: str) -> bool:
    return not pre_tokenizers.Split(HAN, "removed").pre_tokenize_str(word)


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises the bare Exception
        raise ValueError(f"{path} is not a tokenizer ({error}); remove it to fit a new one") from None


def _write(tokenizer: Tokenizer, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        tokenizer.save(str(temporary))


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
