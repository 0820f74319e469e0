"""What a task's words mean, and what is left of a row."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from moonlib.data.content import Content, Modalities, Task, compose

PRODUCT: dict[str, Any] = {
    "item_id": 1,
    "title": "Red mug",
    "category": "Home/Kitchen/Mugs",
    "attributes": {"colour": "red", "material": "clay", "note": None},
    "box": [0.0, 0.25, 0.5, 1.0],
}
QUERY: dict[str, Any] = {"query_id": 1, "text": "mug", "box": None}


@pytest.mark.parametrize("words", ["image", "title", "rich", "title+image", "rich+image"])
def test_modalities_print_as_they_parse(words: str) -> None:
    assert str(Modalities.parse(words)) == words
    assert Modalities.parse("+".join(reversed(words.split("+")))) == Modalities.parse(words)


def test_text_and_title_are_one_modality() -> None:
    assert Modalities.parse("text+image") == Modalities.parse(" image + title ")


@pytest.mark.parametrize("words", ["photo", "image+", "", "title+text", "image+image", "rich+title"])
def test_bad_words_are_refused_with_the_valid_ones(words: str) -> None:
    with pytest.raises(ValueError, match=r"image.*title, text, rich"):
        Modalities.parse(words)


@pytest.mark.parametrize("text", ["image", "image -> title -> image", "image > title"])
def test_a_task_has_two_sides(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form 'image -> title\\+image'"):
        Task.parse(text)


def test_a_bad_task_is_named_in_full() -> None:
    with pytest.raises(ValueError, match="task 'image -> titel': unknown modality 'titel'"):
        Task.parse("image -> titel")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("image", Content(b"jpg", None, (0.0, 0.25, 0.5, 1.0))),
        ("title", Content(None, "Red mug")),
        ("rich", Content(None, "Red mug Mugs red clay")),
        ("text+image", Content(b"jpg", "Red mug", (0.0, 0.25, 0.5, 1.0))),
    ],
)
def test_compose_product(words: str, expected: Content) -> None:
    assert compose(PRODUCT, b"jpg", Modalities.parse(words)) == expected


def test_compose_query_reads_its_text_for_every_kind_of_text() -> None:
    for words in ("text", "title", "rich"):
        assert compose(QUERY, b"jpg", Modalities.parse(words)) == Content(None, "mug")


def test_missing_is_none() -> None:
    blank = {**PRODUCT, "title": "  ", "attributes": None}
    assert compose(blank, None, Modalities.parse("title+image")) == Content(None, None)
    assert compose(blank, None, Modalities.parse("rich")) == Content(None, "Mugs")


def test_available_agrees_with_compose() -> None:
    products = pl.DataFrame(
        {
            "item_id": [1, 2, 3, 4],
            "title": ["mug", None, " ", "cup"],
            "category": ["a", "a", "a/b", "a"],
            "attributes": pl.Series([None] * 4, dtype=pl.Object),
            "image": ["1.jpg", "2.jpg", None, None],
        }
    )
    queries = pl.DataFrame({"query_id": [1, 2, 3, 4], "text": products["title"], "image": products["image"]})
    for table in (products, queries):
        for words in ("image", "title", "rich", "title+image", "rich+image"):
            modalities = Modalities.parse(words)
            expected = []
            for row in table.iter_rows(named=True):
                content = compose(row, b"jpg" if row["image"] else None, modalities)
                missing = (modalities.image and content.image is None) or (modalities.text and content.text is None)
                expected.append(not missing)
            assert modalities.available(table).tolist() == expected
