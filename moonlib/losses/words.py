"""Classification by words: a vector tells the words that its product is described with."""

from __future__ import annotations

import logging
import math

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from moonlib.data.reads import Reads
from moonlib.losses.loss import Loss, LossData

log = logging.getLogger(__name__)

_WORD = r"\p{Han}|[[\p{L}\p{M}\p{N}]--\p{Han}]+(?:-[[\p{L}\p{M}\p{N}]--\p{Han}]+)*"
"""A Chinese character, or letters and digits between blanks and punctuation, hyphens within."""


class Words(Loss):
    """Asks that a query's vector tells the words of the product that it led to.

    The words w of a product are those of its title, its category path and its attributes with their values. With the
    share t_w of a word, in proportion to its inverse document frequency, a query's unit vector v costs

        - sum over w of t_w * log softmax(s * W v + b)_w

    Every photo is then taught a dozen words at a time, whatever else a batch holds, and photos of products that are
    described alike come to be alike: contrast alone tells apart whatever is not the same, however alike. A word says
    nothing of a query that shows it already, so the tasks that gain are those that ask with an image.

    A product none of whose words is known costs 0, with gradient 0.

    Args:
        min_count: words of fewer products are left out.
        vocabulary: how many of the words there are at most, the most frequent ones.
        scale: s at the start; it is learned.

    Raises:
        ValueError: an argument is out of range; at setup, no word is left.

    Source: Joulin et al., "Learning visual features from large weakly supervised data" (2016), for words as classes;
    Huang et al., "Classification done right for vision-language pre-training" (SuperClass, arXiv 2411.03313), equations
    1 to 3, for the softmax and the weights by inverse document frequency. Attributes and categories as classes, and the
    learned scale of unit vectors, are our choice.

    Example:
        >>> Words().arguments
        ('queries', 'item_id')
    """

    item_id: Tensor
    ends: Tensor
    labels: Tensor
    shares: Tensor

    def __init__(self, min_count: int = 5, vocabulary: int = 8192, scale: float = 10.0) -> None:
        super().__init__()
        for name, number in (("min_count", min_count), ("vocabulary", vocabulary)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.min_count, self.vocabulary = min_count, vocabulary
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def reads(self) -> Reads:
        """Titles, categories and attributes; see `Loss.reads`."""
        return Reads.of(products=["title", "category", "attributes"])

    def setup(self, data: LossData) -> None:
        """Collect the words of the products, and make the classifier; see `Loss.setup`."""
        assert data.products is not None
        item_id = data.catalogue.item_id
        words = weighted_words(words_of(data.products), len(item_id), self.min_count, self.vocabulary)
        if words.is_empty():
            raise ValueError(
                f"no word is in the titles, categories or attributes of {self.min_count} products, of "
                f"{len(item_id):,}: lower min_count, or leave this loss out"
            )
        log.info(f"words: {words['item_id'].n_unique():,} of {len(item_id):,} products have words that are kept")
        number = int(words["label"].max()) + 1  # type: ignore[arg-type]
        ends = np.searchsorted(words["item_id"].to_numpy(), item_id, side="right")
        # Not part of the state: they follow from the data.
        for name, values in (("item_id", item_id), ("ends", ends), ("labels", words["label"].to_numpy())):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
        self.register_buffer("shares", torch.tensor(words["share"].to_numpy()), persistent=False)
        self.classifier = nn.Linear(data.dim, number)

    def forward(self, queries: Tensor, item_id: Tensor) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
        labels, shares = self.words_of(item_id)
        with torch.autocast(queries.device.type, enabled=False):
            logits = self.log_scale.exp() * (queries @ self.classifier.weight.T.to(queries)) + self.classifier.bias
        told = (logits.gather(1, labels) * shares).sum(dim=1)
        return shares.sum(dim=1) * logits.logsumexp(dim=1) - told

    def words_of(self, item_id: Tensor) -> tuple[Tensor, Tensor]:
        """The words of products.

        Args:
            item_id: int64 [Q].

        Returns:
            Words int64 [Q, T] and their shares float32 [Q, T]; the shares of a row sum to 1, or are all 0.
        """
        rows = torch.searchsorted(self.item_id, item_id).clamp(max=len(self.item_id) - 1)
        known = self.item_id[rows] == item_id
        stop = self.ends[rows]
        start = torch.where(rows > 0, self.ends[(rows - 1).clamp(min=0)], 0)
        longest = max(1, int((stop - start).max())) if len(rows) else 1
        places = start[:, None] + torch.arange(longest, device=item_id.device)
        there = (places < stop[:, None]) & known[:, None]
        places = places.clamp(max=len(self.labels) - 1)
        return self.labels[places].masked_fill(~there, 0), self.shares[places].masked_fill(~there, 0)


def words_of(products: pl.DataFrame) -> pl.DataFrame:
    """The words of products, each once.

    Args:
        products: columns ``item_id``, ``title``, ``category`` and ``attributes``, as in `moonlib.data.tables`.

    Returns:
        Columns ``item_id`` and ``word``, in the order of the ids. A title's words are in lower case, Chinese characters
        one by one; a category path and an attribute with its value are a word each.

    Example:
        >>> rows = {"item_id": [7], "title": ["Ice-cold 红色 MUG, mug"], "category": ["Kitchen/Mug"]}
        >>> products = pl.DataFrame({**rows, "attributes": pl.Series([{"colour": "red"}], dtype=pl.Map(pl.String, pl.String))})
        >>> words_of(products)["word"].to_list()
        ['Kitchen/Mug', 'colour=red', 'ice-cold', 'mug', '红', '色']
    """  # noqa: E501
    titles = products.select(
        "item_id", word=pl.col("title").str.normalize("NFKC").str.to_lowercase().str.extract_all(_WORD)
    )
    # Physically a map is a list of (key, value), whether or not this version of polars has a type for it.
    said = products.select("item_id", said=pl.col("attributes").to_physical()).explode("said").unnest("said")
    parts = [
        titles.explode("word"),
        products.select("item_id", word="category"),
        said.select("item_id", word=pl.concat_str("key", "value", separator="=")),
    ]
    return pl.concat(parts).drop_nulls().unique().sort("item_id", "word")


def weighted_words(words: pl.DataFrame, products: int, min_count: int, vocabulary: int) -> pl.DataFrame:
    """Number the words that are kept, and weigh them by inverse document frequency.

    Args:
        words: columns ``item_id`` and ``word``, see `words_of`.
        products: how many there are, those without any word too.
        min_count: words of fewer products are left out, and so are words of all.
        vocabulary: words at most, the most frequent ones.

    Returns:
        Columns ``item_id``, ``label``, from 0, in alphabetical order of the words, and ``share``, float32, which sums
        to 1 over the words of a product; in the order of ids and labels.
    """
    counts = words.group_by("word").len("count").filter((pl.col("count") >= min_count) & (pl.col("count") < products))
    kept = (
        counts.sort(["count", "word"], descending=[True, False]).head(vocabulary).sort("word").with_row_index("label")
    )
    found = words.join(kept, on="word").with_columns(weight=(products / pl.col("count")).log())
    share = (pl.col("weight") / pl.col("weight").sum().over("item_id")).cast(pl.Float32)
    return found.select("item_id", pl.col("label").cast(pl.Int64), share=share).sort("item_id", "label")
