"""A text tower that reads a text as a bag of words and character n-grams."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moonlib.artifacts.checksums import verified
from moonlib.data.reads import Reads
from moonlib.encoders import ngram_tokenizer
from moonlib.encoders.ngram_tokenizer import buckets_of, encode
from moonlib.encoders.tokenizer import CATALOGUE_READS, catalogue_texts
from moonlib.encoders.tower import TextTower
from moonlib.encoders.weights import save_state

FILE_NAME = "ngrams.safetensors"

FLOOR = 0.2
"""The weight that a feature of every product starts with; its inverse document frequency is 0."""
LENGTH = 4.0
"""Of the output. A unit vector would be no longer than the bias that a linear projection of usual first weights adds to
it, so that all texts would look alike at first."""

_SCRIPT = """{module}

def tokenize(texts: Sequence[str]) -> tuple[list[list[int]], list[list[bool]]]:
    \"\"\"Return ids and mask of texts, [B, T] each, as the encoder reads them.\"\"\"
    return encode(texts, n={n}, buckets={buckets}, max_features={max_features})
"""


@dataclass(frozen=True)
class NgramTokenize:
    """Hashes the words and character n-grams of texts in a loader worker.

    Attributes:
        n: lengths of the n-grams.
        buckets: how many ids there are.
        max_features: how many ids of a text are kept, the first ones.
    """

    n: tuple[int, ...]
    buckets: int
    max_features: int

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [B, T] and mask bool [B, T]; padding has id 0, a blank text an all-False mask."""
        ids, mask = encode(texts, self.n, self.buckets, self.max_features)
        shape = (len(texts), len(ids[0]) if ids else 1)
        return torch.tensor(ids, dtype=torch.int64).view(shape), torch.tensor(mask, dtype=torch.bool).view(shape)

    def script(self) -> str:
        """Return it as Python that runs without moonlib; see `moonlib.encoders.tower.Scripted`."""
        return _SCRIPT.format(module=inspect.getsource(ngram_tokenizer), **asdict(self))


class Ngrams(TextTower):
    """The weighted sum of the embeddings of a text's words and character n-grams, whatever their order.

    A word that was mistyped still shares most of its n-grams with the right one, and a compound some with its parts.
    There is no vocabulary: each feature is hashed to one of ``buckets`` rows, which some share. So no text is unknown,
    and a warm start has nothing to add: words that have become common have their rows already.

    Each bucket has a weight that is learnt, too. It starts at its inverse document frequency in the catalogue,
    log(products / products with it), and at .2 at least: what few products are called says most about them. Which
    features there are, see `moonlib.encoders.ngram_tokenizer.features`. The sum is scaled to a length of 4: a title of
    many words counts no more than a query of two.

    Args:
        n: lengths of the character n-grams; none for words alone.
        buckets: rows of the embedding.
        max_features: buckets of a text that are read, the first ones: those beyond it are cut off. 256 are some forty
            words with their n-grams of 4.
        width: width of the output.
        dropout: chance of each feature of a text to be left out while training, so that queries are not recognised by
            one word alone. A text always keeps one at least.

    Raises:
        ValueError: a length, ``buckets``, ``max_features`` or ``width`` is below 1, or ``dropout`` not within [0, 1).

    Source: Bojanowski et al., 2017 (arXiv 1607.04606; n-grams in buckets); Weinberger et al., 2009 (arXiv 0902.2206;
    hashing); Iyyer et al., 2015 (ACL, section 3.1; word dropout). The weights and the length are our choice.

    Example:
        >>> tower = Ngrams(n=[3, 4], buckets=4096, width=64)
    """

    tokenize: NgramTokenize

    def __init__(
        self,
        n: Sequence[int] = (4,),
        buckets: int = 32768,
        max_features: int = 256,
        width: int = 256,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if any(length < 1 for length in n):
            raise ValueError(f"n is {list(n)}; expected lengths of at least 1")
        for name, value in (("buckets", buckets), ("max_features", max_features), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected at least 0 and less than 1")
        self.tokenize = NgramTokenize(tuple(n), buckets, max_features)
        self.out_features = width
        self.dropout = dropout

    def reads(self) -> Reads:
        """The texts of the catalogue; see `TextTower.reads`."""
        return CATALOGUE_READS

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load or count in how many products each bucket occurs, then make the weights."""
        width = self.out_features
        frequency = _load_or_count(products, directory, self.tokenize)
        self.tokens = nn.Embedding(self.tokenize.buckets, width)
        self.weights = nn.Parameter(-frequency.log().clamp(max=-FLOOR))
        nn.init.normal_(self.tokens.weight, std=width**-0.5)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return float [B, width]; see `TextTower.forward`."""
        if self.training and self.dropout:
            kept = mask & (torch.rand(mask.shape, device=mask.device) >= self.dropout)
            mask = torch.where(kept.any(dim=1, keepdim=True), kept, mask)
        weights = F.embedding(text, self.weights.unsqueeze(1)).squeeze(2) * mask
        if torch.compiler.is_compiling():  # and exporting: an ONNX model would loop over the rows of embedding_bag
            total = (weights.unsqueeze(1) @ self.tokens(text)).squeeze(1)
        else:  # does not hold the embeddings of all features at once
            total = F.embedding_bag(text, self.tokens.weight, mode="sum", per_sample_weights=weights)
        # A larger floor of the length than the usual 1e-12, which is 0 in half precision.
        return LENGTH * F.normalize(total, dim=1, eps=1e-4)


def _load_or_count(products: pl.DataFrame, directory: Path, tokenize: NgramTokenize) -> Tensor:
    """Load ``directory/ngrams.safetensors``, or count the buckets of ``products`` and write it there.

    Returns:
        float32 [buckets]: the share of the products in whose text the bucket occurs; as if one had it, where none does.

    Raises:
        Damaged: the file is not what was written, see `moonlib.artifacts.checksums`.
        ValueError: the file holds no such counts, or counts of another number of buckets.
    """
    path = directory / FILE_NAME
    if path.exists():
        try:
            counts = load_file(verified(path))
            found, of = counts["products_with"], counts["products"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} holds no counts of n-grams ({error}); remove it to count again") from None
        if len(found) != tokenize.buckets:
            raise ValueError(
                f"{path} counts {len(found)} buckets, and `buckets` is {tokenize.buckets}; remove it to count again"
            )
    else:
        texts = catalogue_texts(products)
        found = torch.zeros(tokenize.buckets, dtype=torch.int64)
        for text in texts:
            found[buckets_of(text, tokenize.n, tokenize.buckets, tokenize.max_features)] += 1
        of = torch.tensor(len(texts))
        save_state({"products_with": found, "products": of}, path)
    return found.clamp(min=1) / of.clamp(min=1)
