"""Finds the names of things in titles and queries: brands, colours, materials, kinds, in any language."""

from __future__ import annotations

import polars as pl

CATEGORY = "category"
"""The attribute that the leaves of category paths are values of."""

TEXTS_AT_ONCE = 65_536
"""Texts whose entities are in memory at a time."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}"
_LETTER_OR_DIGIT = r"\p{L}\p{M}\p{N}"


class Gazetteer:
    """Names of entities, each the value of an attribute, and where texts name them.

    Letters count, not how they are set: case, full and half width, and the kind of space or punctuation between words
    make no difference. Scripts with spaces match whole words (``red`` is not in ``redwood``), scripts without match
    anywhere (``红色`` in ``新款红色台灯``). Of names that overlap in a text the first one counts, and of those that
    begin at the same letter the longest: ``wine glass`` does not name ``wine`` or ``glass`` too.

    Args:
        names: columns ``name`` and ``attribute``, text. A name with fewer than two letters is left out, since ``M``,
            ``42`` or ``红`` stand in too many words and numbers that mean something else; of a name that several
            attributes share, the first row counts.

    Example:
        >>> names = {"name": ["red", "红色", "Lamp"], "attribute": ["colour", "colour", "category"]}
        >>> gazetteer = Gazetteer(pl.DataFrame(names))
        >>> gazetteer.count(pl.Series(["a RED lamp", "redwood lamp", "red lamp 红色", None])).to_list()
        [2, 1, 2, None]
    """

    def __init__(self, names: pl.DataFrame) -> None:
        key = _normalised("name")
        # Aho-Corasick takes the first of the patterns that match at a place: the longest shall be it.
        self.names = (
            names.select(key.alias("key"), "name", "attribute")
            .filter(pl.col("key").str.count_matches(r"\p{L}") >= 2)
            .unique("key", keep="first", maintain_order=True)
            .sort(pl.col("key").str.len_chars(), "key", descending=[True, False])
            .with_columns(unspaced=pl.col("key").str.contains(f"[{_UNSPACED}]"))
        )

    @classmethod
    def fit(cls, products: pl.DataFrame) -> Gazetteer:
        """Take the names from a catalogue: the values of its attributes and the leaves of its category paths.

        A name that stands under several attributes belongs to the one where most products have it.

        Args:
            products: columns ``category`` and ``attributes``, as in `moonlib.data.tables`.
        """
        said = products.select(pl.col("attributes").map.entries()).explode("attributes").unnest("attributes")
        leaves = products.select(key=pl.lit(CATEGORY), value=pl.col("category").str.split("/").list.last())
        names = (
            pl.concat([said.select("key", "value"), leaves])
            .drop_nulls()
            .group_by(attribute="key", name=_folded("value"))
            .len()
            .sort("len", "attribute", "name", descending=[True, False, False])
        )
        return cls(names)

    def find(self, texts: pl.Series) -> pl.DataFrame:
        """List the entities that texts name.

        Args:
            texts: text [N]; null for none.

        Returns:
            One row per mention, in order: ``row`` (uint32, of the text), ``name`` and ``attribute`` (as they were
            given) and ``unspaced`` (bool, whether the name is of a script without spaces).
        """
        mentions = (
            texts.alias("text")
            .to_frame()
            .select(key=_normalised("text").str.extract_many(self.names["key"].implode(), leftmost=True))
            .with_row_index("row")
            .explode("key", empty_as_null=False, keep_nulls=False)
        )
        return mentions.join(self.names, on="key", maintain_order="left").drop("key")

    def count(self, texts: pl.Series) -> pl.Series:
        """Count the distinct entities that each text names.

        Titles often say a thing in two languages. Therefore, of the values of one attribute, those in scripts with and
        without spaces are counted apart and the larger number holds: ``red mug 红色`` has one colour, ``red blue mug``
        two.

        Args:
            texts: text [N]; null for none.

        Returns:
            uint32 [N]; null where the text is.
        """
        starts = range(0, max(len(texts), 1), TEXTS_AT_ONCE)
        return pl.concat([self._count(texts.slice(start, TEXTS_AT_ONCE)) for start in starts])

    def _count(self, texts: pl.Series) -> pl.Series:
        counts = (
            self.find(texts)
            .group_by("row", "attribute", "unspaced")
            .agg(pl.col("name").n_unique())
            .group_by("row", "attribute")
            .agg(pl.col("name").max())
            .group_by("row")
            .agg(entities=pl.col("name").sum().cast(pl.UInt32))
        )
        rows = texts.alias("text").to_frame().with_row_index("row")
        rows = rows.join(counts, on="row", how="left", maintain_order="left")
        entities = pl.when(pl.col("text").is_not_null()).then(pl.col("entities").fill_null(0))
        return rows.select(entities.alias("entities")).to_series()


def _folded(column: str) -> pl.Expr:
    """Write a text in lower case and the usual width."""
    return pl.col(column).str.normalize("NFKC").str.to_lowercase()


def _normalised(column: str) -> pl.Expr:
    """Write a text such that a name is in it where the name, written so too, is a substring.

    Every word of a script with spaces gets a space before and after it, which no other word shares, and all that stood
    between words becomes one bar: ``Polka-dot 台灯`` → ``" polka | dot |台灯"``.
    """
    return (
        _folded(column)
        .str.replace_all(f"[^{_LETTER_OR_DIGIT}]+", "|")
        .str.replace_all(f"([{_LETTER_OR_DIGIT}&&[^{_UNSPACED}]]+)", " ${1} ")
        .str.strip_chars("|")
    )
