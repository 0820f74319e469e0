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

_AT_ONCE = 2**16
"""Rows whose texts are looked at at once: what is made of them on the way is as long as they are."""


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
        if dtype == pl.String or column == "attributes":
            lines += _doubts_of(frame[column], f"{table}: column {column!r}")
    for column in {"products": ["title"], "queries": ["text"]}.get(table, []):
        if (most := _most_frequent(frame[column])) and most[1] >= max(SHARED_ROWS, SHARED * frame[column].count()):
            text, rows = most
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


def _most_frequent(texts: pl.Series) -> tuple[str, int] | None:
    """The most frequent text and how often it is there; the first of several; None without any."""
    hashes = texts.hash()  # of texts themselves, a count would copy every one
    counts = hashes.filter(texts.is_not_null()).unique_counts()
    if not len(counts):
        return None
    distinct = hashes.filter(texts.is_not_null()).unique(maintain_order=True)
    place = int(counts.arg_max() or 0)
    return str(texts[int((hashes == distinct[place]).arg_max() or 0)]), int(counts[place])


def _doubts_of(column: pl.Series, where: str) -> list[str]:
    kinds = [
        ("that say that there is no text", "leave the field empty"),
        ("that hold a quote with a backslash before it", 'write a quote twice ("") within a quoted CSV value'),
        ("that hold a character that was lost", "save the table as UTF-8"),
    ]
    rows, first = [0] * len(kinds), [""] * len(kinds)
    for start in range(0, len(column), _AT_ONCE):
        texts = _texts(column.slice(start, _AT_ONCE))
        none = texts.str.strip_chars().str.to_lowercase().is_in(NO_TEXT)
        escaped = texts.str.contains('\\"', literal=True)
        lost = texts.str.contains("\N{REPLACEMENT CHARACTER}", literal=True)
        for i, found in enumerate((none, escaped, lost)):
            if found.any():
                first[i] = first[i] or texts.filter(found)[0]
                rows[i] += int(found.sum())
    return [
        f"{where}: values {problem}: {count:,}, such as {_short(text)}; {remedy}"
        for (problem, remedy), count, text in zip(kinds, rows, first, strict=True)
        if count
    ]


def _texts(column: pl.Series) -> pl.Series:
    """A column of texts, or the values of one of pairs."""
    if column.dtype == pl.String:
        return column
    pairs = column.to_frame().select(pl.first().to_physical().list.explode(empty_as_null=False)).to_series()
    return pairs.struct.field("value")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
