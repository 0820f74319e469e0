"""Reads the files that moonlib wrote: compared with their checksums, and with a clear error for what is no such file.

A file may be cut off, empty, or another program's: whatever its parser makes of that, the user gets one sentence with
the file's name and what to do.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.artifacts.checksums import Damaged, again, verified
from moonlib.system.disk import is_panic

_NO_FILE = (errno.EISDIR, errno.ELOOP)
"""Errors of the system about a name that is no file's."""

ValueType = Literal["integers", "floats", "booleans", "texts", "ids"]
"""Of a column's values."""

_KINDS: dict[ValueType, Callable[[pl.DataType], bool]] = {
    "integers": lambda dtype: dtype.is_integer(),
    "floats": lambda dtype: dtype.is_float(),
    "booleans": lambda dtype: dtype == pl.Boolean,
    "texts": lambda dtype: dtype == pl.String,
    "ids": lambda dtype: dtype.is_integer() or dtype == pl.String,
}


class Unreadable(ValueError):
    """A file that is not what its name says; the message names it and says what to do."""


@contextmanager
def reading(file: Path, kind: str) -> Iterator[None]:
    """Compare a file with its checksum, and turn what its parser raises into one sentence.

    Args:
        file: what is being read.
        kind: what it should be, such as ``JSON file``.

    Raises:
        OSError: the system can't read it; it may be missing, for one.
        Damaged: its content is not what was written.
        Unreadable: it can't be parsed.

    Example: ``with reading(file, "Parquet file"): table = pl.read_parquet(file, glob=False, hive_partitioning=False)``
    """
    try:
        verified(file)
        yield
    except (MemoryError, Damaged, Unreadable):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if isinstance(error, OSError) and error.errno not in _NO_FILE:
            raise  # the system's trouble says nothing about the file
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Unreadable(f"{file} is no {kind} that can be read ({reason}); {again(file)}") from error


def read_json(file: Path) -> Any:
    """Read a JSON file; see `reading` for what it raises."""
    with reading(file, "JSON file"):
        return json.loads(file.read_text(encoding="utf-8"))


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `reading` for what it raises."""
    return mapping(read_json(file), file)


def mapping(found: Any, file: Path) -> dict[str, Any]:
    """Refuse what a JSON file held if it is no object.

    Args:
        found: what was read.
        file: where.

    Raises:
        Unreadable: naming the file.
    """
    if not isinstance(found, dict):
        raise Unreadable(f"{file} holds no JSON object, but {str(found)[:40]!r}; {again(file)}")
    return found


def read_numbers(file: Path) -> dict[str, float]:
    """Read a JSON file that holds an object of numbers, such as the metrics of a stage; see `reading` for more.

    Raises:
        Unreadable: it is no JSON file, or a value in it is no number.
    """
    return numbers(read_json(file), file)


def numbers(found: Any, file: Path) -> dict[str, float]:
    """Refuse what a JSON file held if it is not an object of numbers.

    Args:
        found: what was read.
        file: where.

    Raises:
        Unreadable: naming the key.
    """
    values = mapping(found, file)
    for key, value in values.items():
        if not is_number(value):
            raise Unreadable(f"{file}: {key!r} is {str(value)[:40]!r}, and should be a number; {again(file)}")
    return values


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float can hold; NaN and the infinities are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:  # JSON has integers of any length
        return False
    return True


def read_table(file: Path, columns: Mapping[str, ValueType] | Sequence[str] = ()) -> pl.DataFrame:
    """Read a Parquet file.

    Args:
        file: to read.
        columns: that it must have; it may have more. Of those that a kind is given for, no value may be missing.

    Raises:
        Unreadable: it is no Parquet file, or lacks one of the columns, or one holds other values. See `reading` for
            others.

    Example: ``read_table(stage / "predictions.parquet", {"clicked": "booleans"})``
    """
    with reading(file, "Parquet file"):
        table = pl.read_parquet(file, glob=False, hive_partitioning=False)
    if missing := [column for column in columns if column not in table.columns]:
        raise Unreadable(f"{file} has no column {missing[0]!r} (it has {', '.join(table.columns)}); {again(file)}")
    for column, kind in columns.items() if isinstance(columns, Mapping) else ():
        values = table[column]
        if not _KINDS[kind](values.dtype):
            problem = f"holds {values.dtype}, and should hold {kind}"
        elif values.null_count():
            problem = f"lacks {values.null_count():,} of its {len(values):,} values"
        else:
            continue
        raise Unreadable(f"{file}: column {column!r} {problem}; {again(file)}")
    return table


def read_array(file: Path) -> NDArray[Any]:
    """Map a ``.npy`` file into memory.

    Raises:
        Unreadable: it is no ``.npy`` file, holds Python objects, or is longer than its header says. See `reading` for
            others.
    """
    with reading(file, ".npy file"):
        with file.open("rb") as stream:  # np.load would take a pickle or a zip for what it is
            np.lib.format.read_magic(stream)
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        expected = getattr(array, "offset", 0) + array.nbytes
        if file.stat().st_size != expected:
            raise Unreadable(
                f"{file} has {file.stat().st_size:,} bytes, and its header says {expected:,}; {again(file)}"
            )
    return array
