"""Words: a vector tells the words that its product is described with."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moonlib.data.ids import ShopIds
from moonlib.losses.loss import LossData
from moonlib.losses.words import Words, weighted_words, words_of
from moonlib.pairs.catalogue import Catalogue
from moonlib.testing import check_loss

ATTRIBUTES = pl.Map(pl.String, pl.String)

ROWS = [
    (3, "Red MUG, red", "Kitchen/Mug", {"colour": "red"}),
    (5, "blue mug", "Kitchen/Mug", {"colour": "blue"}),
    (8, "红色 Lamp", "Home/Lamp", None),
    (9, None, None, None),
]


def products(rows: list[tuple[int, str | None, str | None, dict[str, str] | None]] = ROWS) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True))
    return pl.DataFrame(
        {
            "item_id": pl.Series(columns[0], dtype=pl.Int64),
            "title": pl.Series(columns[1], dtype=pl.String),
            "category": pl.Series(columns[2], dtype=pl.String),
            "attributes": pl.Series(columns[3], dtype=ATTRIBUTES),
        }
    )


def ready(loss: Words, table: pl.DataFrame | None = None, dim: int = 4) -> Words:
    table = products() if table is None else table
    ids = table["item_id"].to_numpy()
    torch.manual_seed(0)
    loss.setup(LossData(Catalogue(ids, ids, ids * 0), ShopIds(), dim, Path(), None, table))
    return loss


def by_a_loop(loss: Words, vector: Tensor, words: list[str], labels: dict[str, int], shares: list[float]) -> Tensor:
    """The cost of one vector, a word at a time."""
    logits = []
    for row, bias in zip(loss.classifier.weight, loss.classifier.bias, strict=True):
        logits.append(loss.log_scale.exp() * sum(a * b for a, b in zip(row, vector, strict=True)) + bias)
    total = torch.stack(logits).exp().sum().log()
    return sum(
        (share * (total - logits[labels[word]]) for word, share in zip(words, shares, strict=True)), torch.zeros(())
    )


def test_it_keeps_the_promises_of_losses() -> None:
    check_loss(partial(Words, min_count=1))


def test_words_of_a_product_are_title_category_and_attributes() -> None:
    found = words_of(products()).group_by("item_id", maintain_order=True).agg("word")
    assert dict(found.iter_rows()) == {
        3: ["Kitchen/Mug", "colour=red", "mug", "red"],
        5: ["Kitchen/Mug", "blue", "colour=blue", "mug"],
        8: ["Home/Lamp", "lamp", "红", "色"],
    }


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("T-shirt 100%", ["100", "t-shirt"]),
        ("ＬＡＭＰ", ["lamp"]),  # full width
        ("Café crème", ["café", "crème"]),
        ("платье, лампа!", ["лампа", "платье"]),
        ("新款LED台灯", ["led", "台", "新", "款", "灯"]),
        ("- , !", []),
    ],
)
def test_titles_are_split_into_words(title: str, words: list[str]) -> None:
    assert words_of(products([(1, title, None, None)]))["word"].to_list() == words


def test_a_query_costs_what_a_loop_over_its_items_words_says() -> None:
    loss = ready(Words(min_count=1))
    words = words_of(products())
    vocabulary = sorted(set(words["word"]))
    labels = {word: i for i, word in enumerate(vocabulary)}
    counts = Counter(words["word"])
    vectors = F.normalize(torch.randn(3, 4), dim=1)
    costs = loss(vectors, torch.tensor([8, 3, 8]))
    for vector, item, cost in zip(vectors, (8, 3, 8), costs, strict=True):
        said = words.filter(pl.col("item_id") == item)["word"].to_list()
        weights = [math.log(4 / counts[word]) for word in said]
        shares = [weight / sum(weights) for weight in weights]
        torch.testing.assert_close(cost, by_a_loop(loss, vector, said, labels, shares), atol=1e-6, rtol=1e-5)


def test_products_without_known_words_cost_nothing() -> None:
    loss = ready(Words(min_count=1))
    vectors = F.normalize(torch.randn(3, 4), dim=1).requires_grad_()
    costs = loss(vectors, torch.tensor([9, 1000, 3]))  # without a word; of no product that is trained on; with words
    assert costs[:2].tolist() == [0, 0]
    assert costs[2] > 0
    (gradient,) = torch.autograd.grad(costs.sum(), vectors)
    assert not gradient[:2].any()
    assert gradient[2].any()


def test_rare_words_and_those_of_all_are_left_out() -> None:
    words = words_of(products())
    assert sorted(set(words.filter(pl.col("word").is_in(["mug", "Kitchen/Mug"]))["item_id"])) == [3, 5]
    kept = weighted_words(words, products=4, min_count=2, vocabulary=10)
    assert kept["item_id"].to_list() == [3, 3, 5, 5]
    assert kept["share"].to_list() == [0.5] * 4
    assert weighted_words(words.filter(pl.col("item_id") < 8), products=2, min_count=2, vocabulary=10).is_empty()


def test_the_most_frequent_words_are_kept() -> None:
    kept = weighted_words(words_of(products()), products=4, min_count=1, vocabulary=2)
    assert kept.group_by("label").len().sort("label").rows() == [(0, 2), (1, 2)]  # Kitchen/Mug and mug


def test_without_any_word_the_loss_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no word is in the titles.*of 5 products, of 4: lower min_count"):
        ready(Words())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"min_count": 0}, "min_count"), ({"vocabulary": 0}, "vocabulary"), ({"scale": 0.0}, "scale")],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Words(**arguments)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5), min_size=2, max_size=8), st.integers(1, 3))
def test_shares_sum_to_one(titles: list[list[str]], min_count: int) -> None:
    table = products([(i, " ".join(words), None, None) for i, words in enumerate(titles)])
    kept = weighted_words(words_of(table), len(titles), min_count, 100)
    sums = kept.group_by("item_id").agg(pl.col("share").sum())["share"].to_numpy()
    np.testing.assert_allclose(sums, 1, rtol=1e-6)
    assert kept["label"].n_unique() == (kept["label"].max() or 0) + 1 if len(kept) else True


def test_training_by_words_brings_products_together_that_are_described_alike() -> None:
    """Vectors that start at random and learn from words alone end nearest to those of their own kind."""
    kinds = ["red mug", "blue mug", "red lamp", "blue lamp"]
    table = products([(i, kinds[i % 4], None, None) for i in range(16)])
    loss = ready(Words(min_count=1), table, dim=8)
    vectors = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([vectors, *loss.parameters()], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(F.normalize(vectors, dim=1), torch.arange(16)).mean().backward()
        optimizer.step()
    units = F.normalize(vectors, dim=1)
    cosines = (units @ units.T).detach().fill_diagonal_(-1)
    kind = torch.arange(16) % 4
    assert (kind[cosines.argmax(dim=1)] == kind).all()
    shared = torch.tensor([[bool(set(a.split()) & set(b.split())) for b in kinds] for a in kinds])[kind][:, kind]
    same = kind[:, None] == kind
    assert cosines[shared & ~same].mean() > cosines[~shared].mean()
