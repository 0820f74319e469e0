"""Several pictures of one product or query: the columns `image` and `images` of a table as one list of names."""

from __future__ import annotations

import logging

import polars as pl

from moonlib.data.casts import cast_column, refuse_row

log = logging.getLogger(__name__)

IMAGES = "images"
"""The optional column of products and queries that lists all pictures of a row, the main one first.

It is no column of the schema: a table in which no row has several pictures does not have it.
"""

MOST_IMAGES = 16
"""Pictures of a row that are kept."""

_ENCODED = r"""^(b['"]|\{['"]bytes['"]|data:image/|(/9j/|iVBORw0KGgo|UklGR|R0lGOD)[A-Za-z0-9+/\s]{200})"""
"""How bytes look where a program made text of them: Python's own notation, a data URL, or base64."""


def image_lists(image: pl.Series, images: pl.Series, name: str, first: int = 0) -> pl.Series:
    """Join the columns ``image`` and ``images``.

    Where a row has both, ``image`` is the main picture: it may be the first of the list, or no member of it and is then
    put before the others, which is logged. Of more than `MOST_IMAGES` the first are kept, which is logged too.

    Args:
        image: text, the name of the main picture.
        images: lists of names, or text with such lists as JSON.
        name: what to call the table in errors.
        first: number of rows of the table before these.

    Returns:
        List of text, null for a row without a picture.

    Raises:
        ValueError: naming table, row, column and value, for what is no list of names, a name that is missing or stands
            twice, or an ``image`` that is in the list but not its first.

    Example:
        >>> image_lists(pl.Series(["a", "b"]), pl.Series("images", [["a", "c"], ["d"]]), "products").to_list()
        [['a', 'c'], ['b', 'd']]
    """
    lists = cast_column(images.alias(IMAGES), pl.List(pl.String()), name, first)
    frame = pl.DataFrame({"image": image, IMAGES: lists})
    element = pl.element()
    holes = frame.select(pl.col(IMAGES).list.eval(element.is_null()).list.any()).to_series()
    refuse_row(frame, name, IMAGES, holes, "holds a name that is missing", first)
    encoded = frame.select(pl.col(IMAGES).list.eval(element.str.contains(_ENCODED)).list.any()).to_series()
    refuse_encoded(frame, name, IMAGES, encoded, first)
    twice = frame.select(pl.col(IMAGES).list.n_unique() < pl.col(IMAGES).list.len()).to_series()
    refuse_row(frame, name, IMAGES, twice, "names a picture twice; name each once", first)
    found = frame.with_columns(
        filled=pl.col(IMAGES).list.len().fill_null(0) > 0,
        member=pl.col(IMAGES).list.contains(pl.col("image")).fill_null(False),
        is_first=(pl.col(IMAGES).list.first() == pl.col("image")).fill_null(False),
    )
    problem = "is in the column 'images', but not its first; the first is the main picture: make both say the same"
    refuse_row(frame, name, "image", found["member"] & ~found["is_first"], problem, first)
    apart = found["image"].is_not_null() & found["filled"] & ~found["member"]
    if apart.any():
        log.info(f"{name}: column 'image' is the main picture, put before 'images' in {apart.sum():,} rows")
    joined = found.select(
        pl.when(pl.col("image").is_null() | pl.col("is_first"))
        .then(pl.when("filled").then(IMAGES))
        .otherwise(pl.concat_list("image", pl.col(IMAGES).fill_null([])))
        .alias(IMAGES)
    ).to_series()
    more = joined.list.len().fill_null(0) > MOST_IMAGES
    if more.any():
        row = int(more.arg_max() or 0)
        log.warning(
            f"warning: {name}: column {IMAGES!r}: {more.sum():,} rows name more than {MOST_IMAGES} pictures, of which "
            f"the first {MOST_IMAGES} are kept (row {first + row + 1} names {len(joined[row])})"
        )
        joined = joined.list.head(MOST_IMAGES)
    return joined


def refuse_encoded(frame: pl.DataFrame, name: str, column: str, bad: pl.Series, first: int = 0) -> None:
    """Refuse rows that hold a picture where its name belongs.

    Raises:
        ValueError: see `moonlib.data.casts.refuse_row`.
    """
    problem = "is a picture made text; name a file, or keep pictures as bytes in a Parquet table"
    refuse_row(frame, name, column, bad, problem, first)


def encoded(image: pl.Series) -> pl.Series:
    """Tell which values of a column of names are pictures made text, bool [N]."""
    return image.str.contains(_ENCODED)


def names(rows: pl.DataFrame) -> pl.Series:
    """The names of all pictures of some rows, those of one row after another."""
    found = rows[IMAGES].explode(empty_as_null=False) if IMAGES in rows.columns else rows["image"]
    return found.drop_nulls() if found.null_count() else found
