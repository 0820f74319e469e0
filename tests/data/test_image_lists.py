"""`image` and `images` become one list, and whatever is no list of names is refused."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl
import pytest

from moonlib.data.image_lists import MOST_IMAGES, image_lists
from moonlib.data.tables import Tables, cast_part, near_misses, validate


def joined(images: Any, image: list[str | None] | None = None, dtype: Any = None) -> list[list[str] | None]:
    series = pl.Series("images", images, dtype=dtype)
    found = image_lists(pl.Series("image", image or [None] * len(series), dtype=pl.String), series, "products.csv")
    return found.to_list()


def test_lists_and_json_say_the_same() -> None:
    names = [["a.jpg", "b,c.jpg"], None, ["d.jpg"]]
    assert joined(names) == names
    assert joined(['["a.jpg", "b,c.jpg"]', None, '["d.jpg"]']) == names
    assert joined(pl.Series([["a", "b"], ["c", "d"]], dtype=pl.Array(pl.String, 2))) == [["a", "b"], ["c", "d"]]
    assert joined(pl.Series([["a", "b"]], dtype=pl.List(pl.Categorical))) == [["a", "b"]]


def test_an_empty_list_is_no_picture() -> None:
    assert joined([[], None, ["a"]]) == [None, None, ["a"]]
    assert joined(["[]", None]) == [None, None]
    assert joined([[], []], dtype=pl.List(pl.Null)) == [None, None]


def test_both_columns_are_joined(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "moonlib"):
        lists = joined([["a", "b"], ["b", "c"], None, [], ["d"]], ["a", "a", "a", "a", None])
    assert lists == [["a", "b"], ["a", "b", "c"], ["a"], ["a"], ["d"]]
    assert "products.csv: column 'image' is the main picture, put before 'images' in 1 rows" in caplog.text


@pytest.mark.parametrize(
    ("images", "image", "message"),
    [
        ([["a"], ["a", "b"]], [None, "b"], "row 2, column 'image': 'b' is in the column 'images', but not its first"),
        ([["a"], ["a", None]], None, "row 2, column 'images': .* holds a name that is missing"),
        ([["a"], ["a", "b", "a"]], None, "row 2, column 'images': .* names a picture twice"),
        (['["a"]', "a.jpg"], None, r"row 2, column 'images': 'a.jpg' is not a list of image names, as JSON \["),
        (['["a"]', '["a", 1]'], None, r"row 2, column 'images': .* is not a list of image names"),
        (['["a"]', '[["a"]]'], None, r"row 2, column 'images': .* is not a list of image names"),
        (['["a"]', '{"a": "b"}'], None, r"row 2, column 'images': .* is not a list of image names"),
        (['["a"]', '["a", null]'], None, "row 2, column 'images': .* holds a name that is missing"),
        ([[1, 2]], None, r"column 'images': List\(Int64\) is not a list of image names.*; write it as a list of text"),
        ([[["a"]]], None, r"column 'images': List\(List\(String\)\) is not a list of image names"),
        ([7], None, "column 'images': Int64 is not a list of image names"),
        ([["/9j/" + "A" * 300]], None, "row 1, column 'images': .* is a picture made text; name a file, or keep"),
    ],
)
def test_what_is_no_list_of_names_is_refused(images: Any, image: list[str | None] | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^products.csv: {message}"):
        joined(images, image)


def test_more_pictures_than_the_limit_are_left_out_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{n}.jpg" for n in range(MOST_IMAGES + 3)]
    with caplog.at_level(logging.WARNING, "moonlib"):
        lists = joined([["a"], names, names])
    assert lists == [["a"], names[:MOST_IMAGES], names[:MOST_IMAGES]]
    assert f"2 rows name more than {MOST_IMAGES} pictures" in caplog.text
    assert f"row 2 names {MOST_IMAGES + 3}" in caplog.text


@pytest.mark.parametrize(
    "text", ["b'\\xff\\xd8'", "{'bytes': b'', 'path': 'a'}", "data:image/png;base64,AA", "iVBORw0KGgo" + "A" * 250]
)
def test_a_picture_as_text_is_no_name(shop: Tables, text: str) -> None:
    products = shop.products.with_columns(image=pl.when(pl.col("item_id") == 0).then(pl.lit(text)).otherwise("image"))
    message = "products: row 4, column 'image': .* is a picture made text; name a file, or keep pictures as bytes"
    with pytest.raises(ValueError, match=message):
        validate(Tables(products))
    with pytest.raises(ValueError, match=message):
        cast_part(products, "products", ["item_id", "image"], "products")


def test_a_table_whose_rows_have_one_picture_has_no_lists(shop: Tables) -> None:
    listed = shop.products.drop("image").with_columns(images=shop.products.select(pl.concat_list("image")).to_series())
    listed = listed.with_columns(images=pl.when(shop.products["image"].is_not_null()).then("images"))
    assert validate(Tables(listed)).products.equals(shop.products)


def test_lists_stand_after_the_columns_of_the_schema_and_are_validated_to_the_same(shop: Tables) -> None:
    lists = [["a.jpg", "x.jpg"], None, ["c.jpg"], None]
    products = shop.products.with_columns(images=pl.Series(lists, dtype=pl.List(pl.String)))
    once = validate(Tables(products)).products
    assert once.columns[-3:] == ["box", "images", "shelf"]
    assert once["images"].to_list() == [["a.jpg", "x.jpg"], ["b.png"], ["c.jpg"], None]
    assert once["image"].to_list() == ["a.jpg", "b.png", "c.jpg", None]
    assert validate(Tables(once)).products.equals(once)


def test_lists_in_pieces_of_a_table_are_those_of_the_whole(shop: Tables) -> None:
    lists = [["a.jpg", "x.jpg"], None, ["c.jpg"], None]
    frame = shop.products.with_columns(images=pl.Series(lists, dtype=pl.List(pl.String)))
    part = cast_part(frame[2:], "products", ["item_id", "image", "images"], "p")
    assert part["images"].to_list() == [["c.jpg"], None] and part["image"].to_list() == ["c.jpg", None]
    with pytest.raises(ValueError, match=r"p: row 8, column 'images': .* names a picture twice"):
        bad = frame[:1].with_columns(images=pl.Series([["y", "y"]]))
        cast_part(bad, "products", ["item_id", "image", "images"], "p", 7)


def test_images_is_no_misspelt_image() -> None:
    assert near_misses(["item_id", "images"], "products") == {}
