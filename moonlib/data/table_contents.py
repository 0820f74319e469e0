"""Says what a table holds, and what in it looks like a mistake: for `moonlib data build` and `moonlib data check`."""

from __future__ import annotations

import polars as pl

from moonlib.data.image_lists import IMAGES
from moonlib.data.tables import SCHEMAS, known_columns, near_misses

COUNTED = {
    "products": {"image": "an image", "title": "a title", "price": "a price", "attributes": "attributes"},
    "queries": {"image": "an image", "text": "a text"},
}
"""The optional columns whose values are counted, and what a row with a value is said to have."""

NO_TEXT = (r"\n", "nan", "null", "none", "n/a", "#n/a", "<na>", "(null)", "nil", "undefined")
"""Texts, in lower case, by which programs say that there is none."""

SHARED = 0.05
"""The share of a table's titles or texts that makes one of them suspicious, if it is also that of `SHARED_ROWS`."""

SHARED_ROWS = 20


def describe(frame: pl.DataFrame, table: str) -> str:
    """Say how many rows a table has, how many of them with what, and which columns are the user's own.

    Example:
        >>> from moonlib.data.tables import empty
        >>> describe(empty("queries"), "queries")
        '0 rows, 0 with an image, 0 with a text'
    """
    counts = [f"{frame.height:,} rows"]
    for column, words in COUNTED.get(table, {}).items():
        counts.append(f"{_filled(frame[column]).sum():,} with {words}")
    if IMAGES in frame.columns and IMAGES in known_columns(table):
        counts.append(f"{frame[IMAGES].list.len().sum():,} images in all")
    own = [column for column in frame.columns if column not in known_columns(table)]
    return ", ".join(counts) + (f"; columns of your own: {', '.join(own)}" if own else "")


def doubts(frame: pl.DataFrame, table: str) -> list[str]:
    """List what may be a mistake in a validated table, one line each.

    That is a column without values beside one with a similar name, texts by which programs say that there is none,
    escapes that were not undone, characters that were lost, and a title or text of very many rows.
    """
    named = [column for column in frame.columns if column not in SCHEMAS[table].names or frame[column].count()]
    lines = [
        f"{table}: no value in column {column!r}; did you mean {near!r}? If so, rename it"
        for column, near in near_misses(named, table).items()
        if frame.height
    ]
    for column, dtype in frame.schema.items():
        if dtype == pl.String:
            lines += _doubts_of(frame[column], f"{table}: column {column!r}")
        elif column == "attributes":
            pairs = frame.select(pl.col(column).to_physical().list.explode(empty_as_null=False)).to_series()
            lines += _doubts_of(pairs.struct.field("value"), f"{table}: column {column!r}")
    for column in {"products": ["title"], "queries": ["text"]}.get(table, []):
        counts = frame[column].drop_nulls().value_counts(sort=True)
        if counts.height and counts["count"][0] >= max(SHARED_ROWS, SHARED * frame[column].count()):
            text, rows = counts.row(0)
            lines.append(
                f"{table}: column {column!r}: {rows:,} rows have the same text, {_short(text)}; "
                "give each its own, or leave the field empty"
            )
    return lines


def _filled(column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        return (column.str.strip_chars() != "").fill_null(False)
    if column.name == "attributes":
        return (column.to_frame().select(pl.col(column.name).to_physical().list.len()).to_series() > 0).fill_null(False)
    return column.is_not_null()


def _doubts_of(texts: pl.Series, where: str) -> list[str]:
    none = texts.str.strip_chars().str.to_lowercase().is_in(NO_TEXT)
    escaped = texts.str.contains('\\"', literal=True)
    lost = texts.str.contains("\N{REPLACEMENT CHARACTER}", literal=True)
    kinds = [
        (none, "that say that there is no text", "leave the field empty"),
        (escaped, "that hold a quote with a backslash before it", 'write a quote twice ("") within a quoted CSV value'),
        (lost, "that hold a character that was lost", "save the table as UTF-8"),
    ]
    lines = []
    for found, problem, remedy in kinds:
        if rows := int(found.sum()):
            lines.append(f"{where}: values {problem}: {rows:,}, such as {_short(texts.filter(found)[0])}; {remedy}")
    return lines


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
