"""Sort rows that do not fit in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonlib.system.disk import writing

ROWS = 2_000_000
"""How many rows are sorted at once."""

Columns = Sequence[NDArray[Any]]


def external_sort(
    chunks: Iterable[Columns], by: int = 0, rows: int = ROWS, directory: str | Path | None = None
) -> Iterator[tuple[NDArray[Any], ...]]:
    """Sort a stream of rows by one of its columns.

    Rows are gathered up to the limit, sorted and written as a run; then the runs are read side by side, one range of
    the key after the other, each as wide as the limit allows. So every row is written once and read once.

    The runs lie in a temporary file without a name, which takes as much room as the columns. It is gone with the
    iterator, and with the process, however that ends.

    Args:
        chunks: rows as columns [n], n of any size; a column has the same dtype in all chunks.
        by: position of the key among the columns; of a type with an order, without NaN.
        rows: limit of the rows that are sorted at once; they are held about twice, and beside them 2 · (n / rows)² keys
            of a stream of n rows.
        directory: where the temporary file goes; if not given, where the system has such files (``TMPDIR``). Where that
            is a file system in memory, name another.

    Yields:
        All rows, their key ascending, in chunks of at most ``rows`` rows (as long as n is at most rows² / 2); rows of
        one key in any order.

    Raises:
        ValueError: if ``rows`` is below 1, the columns of a chunk differ in length, or a column changes its dtype.
        OSError: if there is no room for the temporary file; names the directory.

    Source: Knuth, "The art of computer programming", volume 3, section 5.4; ranges from regular samples of the runs as
    in Shi and Schaeffer, "Parallel sorting by regular sampling" (1992).

    Example:
        >>> chunks = [(np.array([5, 1]), np.array([0.5, 0.1])), (np.array([3]), np.array([0.3]))]
        >>> [column.tolist() for chunk in external_sort(chunks) for column in chunk]
        [[1, 3, 5], [0.1, 0.3, 0.5]]
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    place = Path(tempfile.gettempdir() if directory is None else directory)
    # Without a buffer, which would try again to write where there is no room when it is closed.
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        runs = _Runs(file, by)
        for gathered in _gather(chunks, rows):
            with writing(place):
                runs.write(gathered)
        yield from runs.merge(rows)


def _gather(chunks: Iterable[Columns], rows: int) -> Iterator[list[NDArray[Any]]]:
    """Join chunks to ones of so many rows, the last of fewer; each is overwritten once the next is asked for."""
    buffer: list[NDArray[Any]] | None = None
    filled = 0
    for chunk in chunks:
        if buffer is None:
            buffer = [np.empty(rows, column.dtype) for column in chunk]
        dtypes, found = [str(column.dtype) for column in buffer], [str(column.dtype) for column in chunk]
        if dtypes != found:
            raise ValueError(f"columns were {', '.join(dtypes)}, in a later chunk {', '.join(found)}")
        lengths = [len(column) for column in chunk]
        if len(set(lengths)) > 1:
            raise ValueError(f"columns of a chunk must have one length, got {lengths}")
        start = 0
        while start < lengths[0]:
            taken = min(rows - filled, lengths[0] - start)
            for kept, column in zip(buffer, chunk, strict=True):
                kept[filled : filled + taken] = column[start : start + taken]
            start, filled = start + taken, filled + taken
            if filled == rows:
                yield buffer
                filled = 0
    if buffer is not None and filled:
        yield [column[:filled] for column in buffer]


class _Runs:
    """Sorted runs in one file, each with its columns one after the other."""

    def __init__(self, file: FileIO, by: int) -> None:
        self.file, self.by = file, by
        self.dtypes: list[np.dtype[Any]] = []
        self.lengths: list[int] = []
        self.starts: list[list[int]] = []  # in bytes, of each run's columns

    def write(self, rows: Columns) -> None:
        """Sort rows and write them as a run."""
        self.dtypes = [column.dtype for column in rows]
        self.lengths.append(len(rows[self.by]))
        self.starts.append([])
        order = np.argsort(rows[self.by])
        for column in rows:
            self.starts[-1].append(self.file.tell())
            rest = column[order].view(np.uint8).data
            while rest:
                rest = rest[self.file.write(rest) :]

    def key(self, run: int) -> NDArray[Any]:
        """The key of a run, of which only what is looked at is read."""
        start, length = self.starts[run][self.by], self.lengths[run]
        return np.memmap(self.file, self.dtypes[self.by], mode="r", offset=start, shape=(length,))

    def read(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Rows of all runs, from one row to another of each."""
        total = int((ends - starts).sum())
        columns = [np.empty(total, dtype) for dtype in self.dtypes]
        for position, column in enumerate(columns):
            to, size = column.view(np.uint8).data, column.itemsize
            for run in np.flatnonzero(ends > starts):
                self.file.seek(self.starts[run][position] + int(starts[run]) * size)
                taken = int(ends[run] - starts[run]) * size
                rest, to = to[:taken], to[taken:]
                while rest:
                    rest = rest[self.file.readinto(rest) :]
        return columns

    def merge(self, rows: int) -> Iterator[tuple[NDArray[Any], ...]]:
        """All rows in order of the key, in chunks of at most so many."""
        runs = len(self.lengths)
        if not runs:
            return
        # Between two borders lie fewer than `runs` samples, and beside them less than a step of each run.
        step = max(1, rows // (2 * runs))
        samples = np.sort(np.concatenate([self.key(run)[step - 1 :: step] for run in range(runs)]))
        borders = np.unique(samples[runs - 1 :: runs])
        below = np.array([np.searchsorted(self.key(run), borders, side="left") for run in range(runs)])
        up_to = np.array([np.searchsorted(self.key(run), borders, side="right") for run in range(runs)])
        start = np.zeros(runs, dtype=np.int64)
        for border in range(len(borders)):
            end = up_to[:, border]
            if (end - start).sum() > rows:
                # Rows of one key may be any number, but they need not be sorted: each run's go as they are.
                yield from self.ascending(start, below[:, border])
                for run in np.flatnonzero(end > below[:, border]):
                    only = np.arange(runs) == run
                    yield tuple(self.read(np.where(only, below[:, border], 0), np.where(only, end, 0)))
            else:
                yield from self.ascending(start, end)
            start = end
        yield from self.ascending(start, np.array(self.lengths))

    def ascending(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[tuple[NDArray[Any], ...]]:
        """A chunk of these rows in order of the key, if there are any."""
        columns = self.read(starts, ends)
        if len(columns[self.by]):
            order = np.argsort(columns[self.by])
            yield tuple(column[order] for column in columns)
