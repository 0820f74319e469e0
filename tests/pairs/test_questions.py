from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.pairs.questions import KINDS, answerable, ask, read_questions
from moonlib.testing import example_tables

ROW = {
    "item_id": 7,
    "title": " 红色 mug ",
    "category": "home/drink/Mug",
    "attributes": {"colour": "红色", "brand": "", "material": "clay"},
}


def test_answers_are_what_the_table_says() -> None:
    rng = np.random.default_rng(0)
    answers = {kind: ask(kind, ROW, rng).answer for kind in KINDS if kind not in ("own", "attribute")}
    assert answers == {
        "describe": "Mug, 红色, clay",
        "attributes": "colour: 红色; material: clay",
        "title": "红色 mug",
        "subject": "Mug",
        "category": "home / drink / Mug",
    }
    asked = {ask("attribute", ROW, np.random.default_rng(seed)) for seed in range(40)}
    assert {(question.key, question.answer) for question in asked} == {("colour", "红色"), ("material", "clay")}
    assert all(str(question.key) in question.text for question in asked), "and never the brand, which is blank"
    chinese = {question.text for question in asked if question.answer == "红色"}
    assert chinese == {"colour是什么？", "colour："}, "in the language of the answer"
    own = {7: [("Is it hot?", "yes"), ("热吗？", "是")]}
    assert {ask("own", ROW, np.random.default_rng(seed), own).answer for seed in range(20)} == {"yes", "是"}


def test_what_can_be_asked_can_be_answered_and_nothing_is_asked_of_nothing() -> None:
    products = example_tables().products
    own = {int(products["item_id"][0]): [("a", "b")], int(products["item_id"][5]): [("c", "d")]}
    can = answerable(products, KINDS, own)
    assert can.shape == (96, len(KINDS)) and can.any(axis=0).all() and not can.all(axis=0).any()
    for row, possible in zip(products.to_dicts(), can, strict=True):
        row["attributes"] = dict(row["attributes"] or ())
        assert bool(possible.any()) == (row["title"] is not None or row["image"] is not None)
        assert possible[KINDS.index("title")] == (row["title"] is not None and row["image"] is not None)
        for kind, able in zip(KINDS, possible, strict=True):
            if able:
                assert ask(kind, row, np.random.default_rng(0), own).answer.strip()


def test_a_table_of_questions_keeps_ids_exact_and_leaves_out_what_must_not_be_seen(tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": [2**63 - 1, -(2**63), 5], "question": ["a", "b", "c"], "answer": ["x", "y", "z"]})
    known = pl.Series([2**63 - 1, -(2**63)])
    for name in ("questions.csv", "questions.parquet"):
        file = tmp_path / name
        table.write_csv(file) if name.endswith("csv") else table.write_parquet(file)
        assert read_questions(file, known) == {2**63 - 1: [("a", "x")], -(2**63): [("b", "y")]}
    with pytest.raises(ValueError, match="none of its 3 rows names a product listed before the end of training"):
        read_questions(file, pl.Series([99]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,question\n1,a\n", "column 'answer' is missing"),
        ("item_id,question,answer\n1,a,b\n2.5,a,b\n", "row 2, column 'item_id': '2.5' is not an int64"),
        ("item_id,question,answer\n1,a,b\n02,a,b\n", "row 2, column 'item_id': '02' would lose its .* leading zeros"),
        ("item_id,question,answer\n1,a,b\n2,a,\n", "row 2, column 'answer': expected String, got None"),
        ("item_id,question,answer\n1,a,b\n2, ,b\n", "row 2, column 'question'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "questions.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_questions(file, pl.Series([1, 2]))
    with pytest.raises(FileNotFoundError, match=r"data\.table: no questions at"):
        read_questions(tmp_path / "absent.csv", pl.Series([1]))
