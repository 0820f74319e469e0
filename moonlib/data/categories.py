"""Category paths as feeds write them: their levels may be separated by ``>`` or ``›``."""

from __future__ import annotations

import polars as pl

SLASH = "\N{FULLWIDTH SOLIDUS}"
"""Stands for a ``/`` within a level. To a tokenizer that normalises (NFKC) it is the same character."""

_SEPARATORS = "[>›]"


def with_levels(category: pl.Expr) -> pl.Expr:
    """Write category paths with ``/`` between levels, each by itself: one without ``>`` and ``›`` stays as it is.

    Of a path that has one of these, space around the levels goes, and so do empty levels; a ``/`` within a level
    becomes `SLASH`, so that it makes no level.

    Args:
        category: text; null for none.

    Example:
        >>> paths = pl.Series("category", ["Apparel > Clothing > Shirts/Tops", "Home›Mugs", "Home/Mugs"])
        >>> paths.to_frame().select(with_levels(pl.col("category"))).to_series().to_list()
        ['Apparel/Clothing/Shirts／Tops', 'Home/Mugs', 'Home/Mugs']
    """
    path = (
        category.str.replace_all("/", SLASH, literal=True)
        .str.replace_all(rf"\s*{_SEPARATORS}[>›\s]*", "/")
        .str.strip_chars("/ \t\r\n")
    )
    path = pl.when(path.str.len_bytes() > 0).then(path)
    return pl.when(category.str.contains(_SEPARATORS)).then(path).otherwise(category)


def column_with_levels(category: pl.Series) -> pl.Series:
    """Write a column of category paths as `with_levels` does; the same object where no path has such a separator."""
    _, _, texts = category.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    written = b"" if texts is None else texts.to_pybytes()
    if b">" not in written and "›".encode() not in written:
        return category
    return category.to_frame().select(with_levels(pl.col(category.name))).to_series()


def read_levels(products: pl.DataFrame, name: str) -> tuple[pl.DataFrame, list[str]]:
    """Read the category paths of a table, see `with_levels`, and say what was read how.

    Args:
        products: as read.
        name: what to call the table.

    Returns:
        The products, the same object where no category has such a separator, and lines to log.
    """
    if "category" not in products.columns or products["category"].dtype not in (pl.String, pl.Categorical, pl.Enum):
        return products, []
    given = products["category"].cast(pl.String)
    separated = given.str.contains(_SEPARATORS).fill_null(False)
    if not separated.any():
        return products, []
    read = given.to_frame().select(with_levels(pl.col("category"))).to_series()
    where = f"{name}: column 'category'"
    first = int(separated.arg_max() or 0)
    lines = [
        f"{where}: {int(separated.sum()):,} paths with > or › between their levels were read as with /: "
        f"{given[first]!r} is {read[first]!r}"
    ]
    slashed = separated & given.str.contains("/", literal=True).fill_null(False)
    if slashed.any():
        first = int(slashed.arg_max() or 0)
        lines.append(
            f"{where}: in {int(slashed.sum()):,} of these a / stood within a level; it is written {SLASH} there: "
            f"{given[first]!r} is {read[first]!r}"
        )
    plain = ~separated & given.str.contains("/", literal=True).fill_null(False)
    if plain.any():
        lines.append(
            f"{where}: {int(plain.sum()):,} other paths have / and neither > nor ›; there / separates levels, such as "
            f"in {given[int(plain.arg_max() or 0)]!r}"
        )
    return products.with_columns(read), lines
