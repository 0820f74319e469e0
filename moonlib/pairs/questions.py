"""Questions about products, made of what their table says: what generative pretraining learns from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.data import table_files
from moonlib.data.ids import ShopIds
from moonlib.data.tables import to_ids

QuestionKind = Literal["describe", "attributes", "attribute", "title", "subject", "category", "own"]

KINDS: tuple[QuestionKind, ...] = ("describe", "attributes", "attribute", "title", "subject", "category", "own")

_CHINESE = re.compile(r"[㐀-鿿]")

WORDINGS: dict[QuestionKind, dict[str, tuple[str, ...]]] = {
    "describe": {
        "en": ("Describe the product.", "What is shown here?"),
        "zh": ("描述这个商品。", "图中是什么商品？"),
    },
    "attributes": {
        "en": ("List the attributes.", "Which attributes does it have?"),
        "zh": ("列出商品属性。", "它有哪些属性？"),
    },
    "attribute": {"en": ("What is the {key}?", "{key}:"), "zh": ("{key}是什么？", "{key}：")},
    "title": {"en": ("Write a title.", "How would a shop call it?"), "zh": ("写一个标题。", "给这个商品起标题。")},
    "subject": {"en": ("What is the main subject?", "Name the product."), "zh": ("主体是什么？", "这是什么商品？")},
    "category": {"en": ("Which category is it in?", "Name the category path."), "zh": ("属于哪个类目？", "类目路径？")},
}
"""How a kind of question is put, in the language of its answer."""


@dataclass(frozen=True)
class Question:
    """A question about one product.

    Attributes:
        kind: see `KINDS`.
        text: what is asked.
        answer: the right answer.
        key: of the attribute asked for, None for other kinds.
    """

    kind: QuestionKind
    text: str
    answer: str
    key: str | None = None


def answerable(products: pl.DataFrame, kinds: Sequence[QuestionKind], own: Mapping[int, Any]) -> NDArray[np.bool_]:
    """Tell which products can be asked which kinds of question.

    Args:
        products: rows of the products table: item_id, title, category, attributes, image.
        kinds: K of them.
        own: the item ids that a user's table has questions about.

    Returns:
        bool [rows, K]. Nothing can be asked of a product without image and title; a title is written from an image.
    """
    title = (products["title"].str.strip_chars().str.len_bytes() > 0).fill_null(False)
    image = products["image"].is_not_null()
    values = pl.col("attributes").to_physical().list.eval(pl.element().struct.field("value"))
    some = products.select(values.list.drop_nulls().list.len().fill_null(0) > 0).to_series()
    category = products["category"].is_not_null()
    rows = {
        "describe": some & image,
        "attributes": some,
        "attribute": some,
        "title": title & image,
        "subject": category,
        "category": category,
        "own": products["item_id"].is_in(pl.Series(list(own), dtype=pl.Int64).implode()),
    }
    everywhere = title | image
    columns = [(rows.get(kind, everywhere) & everywhere).to_numpy() for kind in kinds]
    return np.stack(columns, axis=1)


def ask(
    kind: QuestionKind,
    row: Mapping[str, Any],
    rng: np.random.Generator,
    own: Mapping[int, Sequence[tuple[str, str]]] = {},
) -> Question:
    """Ask a question of a product that can answer it (see `answerable`).

    Args:
        kind: of the question.
        row: of the products table.
        rng: draws the wording, the attribute or the user's question.
        own: the user's questions and answers by item id.

    Returns:
        The question, in Chinese if its answer has a Chinese character and in English otherwise.

    Example:
        >>> row = {"item_id": 1, "title": "red mug", "category": "home/mug", "attributes": {"colour": "红色"}}
        >>> ask("attribute", row, np.random.default_rng(0))
        Question(kind='attribute', text='colour：', answer='红色', key='colour')
    """
    if kind == "own":
        questions = own[row["item_id"]]
        text, answer = questions[int(rng.integers(len(questions)))]
        return Question(kind, text, answer)
    attributes = {key: value for key, value in (row["attributes"] or {}).items() if value}
    key = None
    if kind == "attribute":
        key = sorted(attributes)[int(rng.integers(len(attributes)))]
    answer = attributes[key] if key is not None else ANSWERS[kind](row, attributes)
    wordings = WORDINGS[kind]["zh" if _CHINESE.search(answer) else "en"]
    text = wordings[int(rng.integers(len(wordings)))]
    return Question(kind, text.replace("{key}", key or ""), answer, key)


ANSWERS: dict[QuestionKind, Callable[[Mapping[str, Any], Mapping[str, str]], str]] = {
    "describe": lambda row, attributes: ", ".join([*([_leaf(row)] if row["category"] else []), *attributes.values()]),
    "attributes": lambda row, attributes: "; ".join(f"{key}: {value}" for key, value in attributes.items()),
    "title": lambda row, attributes: row["title"].strip(),
    "subject": lambda row, attributes: _leaf(row),
    "category": lambda row, attributes: " / ".join(row["category"].split("/")),
}
"""Answers by kind, of a row and those of its attributes that have a value."""


def _leaf(row: Mapping[str, Any]) -> str:
    return str(row["category"].rsplit("/", 1)[-1])


def read_questions(path: Path, item_ids: pl.Series, ids: ShopIds | None = None) -> dict[int, list[tuple[str, str]]]:
    """Read a user's table of questions.

    Args:
        path: a table with the columns item_id (as the shop writes it), question and answer; see
            `moonlib.data.table_files.scan`.
        item_ids: the products that may be learnt from, int64; rows of others are left out.
        ids: the shop's; None where its item ids are int64.

    Returns:
        Questions and answers by item id, int64, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing or of a wrong type, a cell is empty, or no row names a product of ``item_ids``.
    """
    if not path.exists():
        raise FileNotFoundError(f"data.table: no questions at {path}")
    columns: dict[str, type[pl.DataType]] = {"item_id": pl.Int64, "question": pl.String, "answer": pl.String}
    table = table_files.read(path, columns)
    numbers = ids.of("item_id") if ids is not None else None
    if numbers is not None:
        columns["item_id"] = pl.String
        if "item_id" in table.columns and table["item_id"].dtype not in (pl.String, pl.Categorical, pl.Enum):
            problem = f"is {table['item_id'].dtype}, and the item ids of the data are text"
            raise ValueError(f"{path}: column 'item_id': {problem}; write it as they are")
    for name, dtype in columns.items():
        if name not in table.columns:
            raise ValueError(f"{path}: column '{name}' is missing; expected {', '.join(columns)}")
        values = to_ids(table[name], str(path)) if dtype == pl.Int64 else table[name].cast(dtype, strict=False)
        wrong = values.is_null() | (values.str.strip_chars() == "" if dtype == pl.String else False)
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise ValueError(f"{path}: row {row + 1}, column '{name}': expected {dtype}, got {table[name][row]!r}")
        table = table.with_columns(values)
    if numbers is not None:
        table = table.with_columns(numbers.encode(table["item_id"]))
    kept = table.filter(pl.col("item_id").is_in(item_ids.implode()))
    if kept.is_empty():
        raise ValueError(f"{path}: none of its {len(table)} rows names a product listed before the end of training")
    found: dict[int, list[tuple[str, str]]] = {}
    for item_id, question, answer in kept.select(*columns).iter_rows():
        found.setdefault(item_id, []).append((question, answer))
    return found
