"""Reads table files, Parquet and CSV: the one reader of whatever takes a table of the user's.

A table is a file, or a folder of such files as an engine leaves it. Of CSV, every value is text, so that a schema says
what was expected where and no id passes through a float; an empty field is a missing value.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from moonlib.system.disk import is_panic

SUFFIXES = (".parquet", ".csv")

_ROWS = 16_384
_FEW_ROWS = 64
_LARGEST_FIELD = 2**26
_FIELD = r'(?:"(?:[^"]|"")*"|[^",][^,]*)?,'
_UNLIKE_ITS_NUMBER = r"^[+-]?(0[0-9].*|[0-9]{16,})$"


def read(
    path: Path, text: Collection[str], delimiter: str | None = None, without: Collection[str] = ()
) -> pl.DataFrame:
    """Read a whole table.

    Args:
        path: see `scan`; with a ``delimiter``, a file of any ending.
        text: the columns of a CSV file that stay text. The others become integers, floats or booleans where each of
            their values can be had back: with leading zeros, or with digits that a float has no room for, they stay
            text.
        delimiter: between the values of a row of a file that is like CSV, such as a tab; None goes by the ending.
        without: columns of a Parquet table to leave out.

    Returns:
        The rows in their order, with all other columns.

    Raises:
        ValueError: see `scan`.
    """
    if path.suffix != ".csv" and delimiter is None:
        with _told_of(path):
            return _lazy(path).drop(without).collect()
    parts = scan(path) if delimiter is None else _scan_csv([path], None, delimiter)
    frame = pl.concat(parts, rechunk=True)
    return frame.with_columns(_typed(column) for column in frame if column.name not in text)


def scan(path: Path, columns: Collection[str] | None = None) -> Iterator[pl.DataFrame]:
    r"""Read a table some rows at a time; memory does not grow with the number of rows.

    Args:
        path: a ``.parquet`` or ``.csv`` file, or a folder of that name with such files in it, which are read in the
            order of their names. Names that begin with ``.`` or ``_`` are no part of the table, as engines have it.
        columns: which of the table's columns to read; all by default, and names that it does not have are left out.

    Yields:
        At most 16,384 rows, in their order; of a table without rows, one frame without rows.

    Raises:
        ValueError: the file can't be read: for CSV naming row (counted from 1, without the header) and column.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "products.csv"
        >>> _ = path.write_text('item_id,title\n7,24" monitor\n')
        >>> next(scan(path)).rows()
        [('7', '24" monitor')]
    """
    if path.suffix == ".csv":
        yield from _scan_csv(files(path), columns)
        return
    with _told_of(path):
        lazy = _lazy(path)
        names = lazy.collect_schema().names()
        kept = lazy.select(name for name in names if columns is None or name in columns)
        read = 0
        for frame in kept.collect_batches(chunk_size=_ROWS, maintain_order=True):
            read += frame.height
            yield from frame.iter_slices(_ROWS)
        if read == 0:
            yield kept.collect()


def few_rows(path: Path, columns: Collection[str]) -> Iterator[pl.DataFrame]:
    """Read columns of large values, such as pictures, from a Parquet table a few rows at a time.

    Memory holds a few of the values, whatever the size of the file's row groups.

    Raises:
        ValueError: see `scan`; or a file of the table lacks one of the columns.
    """
    for file in files(path):
        try:
            with pyarrow.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as table:
                if missing := [column for column in columns if column not in table.schema_arrow.names]:
                    raise ValueError(f"{file} has no column {missing[0]!r}, which other files of {path} have")
                for batch in table.iter_batches(_FEW_ROWS, columns=list(columns)):
                    frame = pl.from_arrow(batch)
                    assert isinstance(frame, pl.DataFrame)
                    yield frame.select(columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} can't be read: {str(error).partition(chr(10))[0]}") from error


def schema(path: Path) -> pl.Schema:
    """Return the names and types of a Parquet table's columns.

    Raises:
        ValueError: see `scan`.
    """
    with _told_of(path):
        return _lazy(path).collect_schema()


def header(path: Path, delimiter: str | None = None) -> list[str]:
    """Return the names of a table's columns.

    Args:
        path: see `scan`; with a ``delimiter``, a file of any ending.
        delimiter: see `read`.

    Raises:
        ValueError: see `scan`.
    """
    if delimiter is not None:
        return _header(path, delimiter)
    if path.suffix == ".csv":
        return _header(files(path)[0])
    with _told_of(path):
        return _lazy(path).collect_schema().names()


def files(path: Path) -> list[Path]:
    """Return the files that a table consists of, in the order of their rows.

    Raises:
        ValueError: there are none, or a folder has others than the table's.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is neither a .parquet nor a .csv file, nor a dataset's directory")
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(
                f"{path} can't be read: " + ("it is no file" if path.exists() else "there is no such file")
            )
        return [path]
    parts = [
        part
        for part in sorted(path.rglob("*"))
        if part.is_file() and not any(name.startswith((".", "_")) for name in part.relative_to(path).parts)
    ]
    for part in parts:
        if part.suffix != path.suffix:
            raise ValueError(f"{part} is no {path.suffix} file as {path} has them; move it elsewhere")
    if not parts:
        raise ValueError(f"{path} can't be read: the folder holds no {path.suffix} file")
    return parts


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Turn what polars raises into one line that names the table."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, pl.exceptions.PolarsError) and not is_panic(error):
            raise
        if "UTF-8" in str(error):
            _refuse_what_is_no_utf8(path)
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} can't be read: {reason}") from error


def _refuse_what_is_no_utf8(path: Path) -> None:
    """Find the text in a Parquet table that is none, which polars doesn't name."""
    for file in files(path):
        done = 0
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(_ROWS):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                        for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
                            try:
                                (value or b"").decode()
                            except UnicodeDecodeError:
                                place = f"{file}: row {done + row + 1}, column {name!r}"
                                raise ValueError(f"{place}: {value[:60]!r} is not UTF-8") from None
                done += batch.num_rows


def _lazy(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(files(path), hive_partitioning=path.is_dir())


def _scan_csv(parts: list[Path], columns: Collection[str] | None, delimiter: str = ",") -> Iterator[pl.DataFrame]:
    names = _header(parts[0], delimiter)
    csv.field_size_limit(_LARGEST_FIELD)
    read = 0
    for file in parts:
        if (others := _header(file, delimiter)) != names:
            raise ValueError(f"{file} has the columns {', '.join(others)}; {parts[0].name} has {', '.join(names)}")
        done = 0
        with _open(file) as lines:
            records = csv.reader(lines, delimiter=delimiter, strict=True)
            next(records)
            while True:
                try:
                    rows = list(islice(records, _ROWS))
                except csv.Error:
                    raise _malformed(file, names, delimiter) from None
                if not rows:
                    break
                rows = _rows(rows, names)
                if {len(row) for row in rows} - {len(names)}:
                    number, row = next((i, row) for i, row in enumerate(rows, done + 1) if len(row) != len(names))
                    raise ValueError(_wrong_number(file, number, row, names, delimiter))
                values = zip(*rows, strict=True) if rows else [()] * len(names)
                yield pl.DataFrame(
                    [
                        _text(file, name, column, done)
                        for name, column in zip(names, values, strict=True)
                        if columns is None or name in columns
                    ]
                )
                done += len(rows)
        read += done
    if read == 0:
        yield pl.DataFrame(schema=[(name, pl.String) for name in names if columns is None or name in columns])


def _open(file: Path) -> io.TextIOWrapper:
    # Bytes that are no UTF-8 pass as surrogates, so that whoever refuses them knows the row.
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _header(file: Path, delimiter: str = ",") -> list[str]:
    try:
        with _open(file) as lines:
            names = next(csv.reader(lines, delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        raise ValueError(f"{file} can't be read: the header: {error}") from None
    if not names:
        raise ValueError(f"{file} can't be read: it has no header")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{file}: column {name!r} stands twice in the header; rename or remove one")
        if not _is_unicode(name):
            raise ValueError(f"{file}: the header is not UTF-8 at {_shown(name)}; save the table as UTF-8")
    return names


def _rows(records: list[list[str]], names: list[str]) -> list[list[str]]:
    """Take blank lines for what they are: a missing value where there is one column, and else nothing."""
    return [row or [""] for row in records] if len(names) == 1 else [row for row in records if row]


def _text(file: Path, name: str, values: tuple[str, ...], first: int) -> pl.Series:
    try:
        return pl.Series(name, values, dtype=pl.String).replace("", None)
    except UnicodeEncodeError:
        row = next(i for i, value in enumerate(values) if not _is_unicode(value))
        raise ValueError(
            f"{file}: row {first + row + 1}, column {name!r}: {_shown(values[row])} is not UTF-8; "
            "save the table as UTF-8"
        ) from None


def _is_unicode(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _shown(text: str) -> str:
    return repr(text.encode(errors="surrogateescape")[:60])


def _wrong_number(file: Path, number: int, row: list[str], names: list[str], delimiter: str) -> str:
    column = names[len(row)] if len(row) < len(names) else names[-1]
    problem = "is absent" if len(row) < len(names) else f"is followed by {row[len(names)]!r}, which has no column"
    between = {",": "comma", "\t": "tab"}.get(delimiter, repr(delimiter))
    hint = f"a {between} or a line break within a value needs quotes around the value"
    return f"{file}: row {number}, column {column!r}: {problem} ({len(row)} values, {len(names)} columns); {hint}"


def _malformed(file: Path, names: list[str], delimiter: str) -> ValueError:
    """Find again the first record that is no CSV, and say where its quotes go wrong."""
    number, first = -1, 0
    with _open(file) as lines:
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for record in records:
                number += 1 if record or len(names) == 1 else 0
                first = records.line_num
        except csv.Error as error:
            problem, last = str(error), records.line_num
    with _open(file) as lines:
        text = "".join(islice(lines, first, last))
    column = at = 0
    while field := re.compile(_FIELD.replace(",", re.escape(delimiter))).match(text, at):
        column, at = column + 1, field.end()
    name = names[min(column, len(names) - 1)]
    value = text[at:].partition("\n")[0][:40]
    if problem.startswith("field larger"):
        why = f"is larger than {_LARGEST_FIELD:,} characters; a quote may not be closed"
    elif problem.startswith("unexpected end"):
        why = "has a quote that is never closed"
    else:
        why = 'goes on after its closing quote; within a quoted value write a quote twice (""), not as \\"'
    return ValueError(f"{file}: row {number + 1}, column {name!r}: {value!r} {why}")


def _typed(column: pl.Series) -> pl.Series:
    """Give a column of text the type that polars reads in it, if its values can be had back."""
    source = io.BytesIO()
    column.alias("value").to_frame().write_csv(source)
    try:
        typed = pl.read_csv(source.getvalue(), infer_schema_length=None)["value"].alias(column.name)
    except BaseException as error:  # an integer of more than 128 bits
        if not isinstance(error, pl.exceptions.PolarsError) and not is_panic(error):
            raise
        return column
    if typed.dtype.is_integer():
        return typed if typed.dtype == pl.Int64 and (typed.cast(pl.String) == column).all() else column
    if typed.dtype.is_float():
        return column if column.str.contains(_UNLIKE_ITS_NUMBER).any() else typed
    return typed if typed.dtype == pl.Boolean else column
