"""Reads the files that moonlib wrote: compared with their checksums, and with a clear error for what is no such file.

A file may be cut off, empty, or another program's: whatever its parser makes of that, the user gets one sentence with
the file's name and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.checksums import Damaged, again, verified
from moonlib.disk import is_panic


class Unreadable(ValueError):
    """A file that is not what its name says; the message names it and says what to do."""


@contextmanager
def reading(file: Path, kind: str) -> Iterator[None]:
    """Compare a file with its checksum, and turn what its parser raises into one sentence.

    Args:
        file: what is being read.
        kind: what it should be, such as ``JSON file``.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: its content is not what was written.
        Unreadable: it can't be parsed.

    Example: ``with reading(file, "Parquet file"): table = pl.read_parquet(file)``
    """
    try:
        verified(file)
        yield
    except (FileNotFoundError, Damaged, Unreadable):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Unreadable(f"{file} is no {kind} that can be read ({reason}); {again(file)}") from error


def read_json(file: Path) -> Any:
    """Read a JSON file; see `reading` for what it raises."""
    with reading(file, "JSON file"):
        return json.loads(file.read_text(encoding="utf-8"))


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `reading` for what it raises."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise Unreadable(f"{file} holds no JSON object, but {str(found)[:40]!r}; {again(file)}")
    return found


def read_table(file: Path, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Read a Parquet file.

    Args:
        file: to read.
        columns: that it must have; it may have more.

    Raises:
        Unreadable: it is no Parquet file, or lacks one of the columns. See `reading` for others.
    """
    with reading(file, "Parquet file"):
        table = pl.read_parquet(file)
        if missing := [column for column in columns if column not in table.columns]:
            raise Unreadable(f"{file} has no column {missing[0]!r} (it has {', '.join(table.columns)}); {again(file)}")
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
