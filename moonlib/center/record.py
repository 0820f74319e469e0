"""The record of a space: the truth about every product, a base and the logs after it.

Every row and every tombstone has the next number of a sequence, which orders them; clocks do not. A row supersedes the
one with its id before it.

    current.json    {"base": 7, "logs": [7, 8], "sequence": 4711}: the base holds the rows up to that sequence
    base-000007/    see `moonlib.center.base`
    log-000007      see `moonlib.center.log`
    log-000008      begun when a compaction of what is before it began
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moonlib.artifacts.directories import write_json
from moonlib.artifacts.layout import pruned
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.center.base import Base, merged, write_base
from moonlib.center.growing import Growing
from moonlib.center.layout import CURRENT, PICTURES, base_of, log_of
from moonlib.center.log import Log, Replaced
from moonlib.center.pictures import Pictures, in_base
from moonlib.center.rows import IdType, Rows, StoredRows, empty_columns, id_dtype
from moonlib.center.space import Space
from moonlib.representations.store import HASH_BYTES
from moonlib.system.disk import sync

_TRIES = 100
"""How often a record that is compacted meanwhile is read again."""
_BLOCK = 16_384
_PICTURES_AT_ONCE = 1024

Stamp = tuple[int, int, int] | None


def stamp(file: Path) -> Stamp:
    """Tells a file from one that took its place; None if there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Current(NamedTuple):
    """Content of ``current.json``."""

    base: int
    logs: list[int]
    sequence: int

    @classmethod
    def read(cls, record: Path) -> Current:
        """Read the file.

        Raises:
            FileNotFoundError: there is none.
            Unreadable: it is broken.
        """
        found = read_mapping(record / CURRENT)
        try:
            return cls(int(found["base"]), [int(number) for number in found["logs"]], int(found["sequence"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"{record / CURRENT} is broken ({type(error).__name__}: {error})") from None

    def write(self, record: Path) -> None:
        """Replace the file, in one rename."""
        write_json(record / CURRENT, self._asdict())


class Changes(NamedTuple):
    """Rows and tombstones after some sequence, of each id the last.

    Attributes:
        ids: the shop's [n].
        deleted: bool [n], whether the row is a tombstone.
        vectors: [n, D], as they are at rest.
        received_at: int64 [n], microseconds since 1970 UTC.
        columns: the kept columns [n].
        pictures: of the rows.
    """

    ids: pl.Series
    deleted: NDArray[np.bool_]
    vectors: NDArray[Any]
    received_at: NDArray[np.int64]
    columns: pl.DataFrame
    pictures: Pictures

    def take(self, rows: NDArray[np.int64]) -> Changes:
        """Some of the rows."""
        columns = self.columns[rows] if self.columns.width else self.columns
        return Changes(
            self.ids[rows],
            self.deleted[rows],
            self.vectors[rows],
            self.received_at[rows],
            columns,
            self.pictures.take(rows),
        )


def make_record(record: Path) -> None:
    """Make a record without rows."""
    record.mkdir(parents=True)
    log_of(record, 0).touch()
    sync(record)
    Current(0, [0], 0).write(record)


class Record:
    """The rows of a space, as of the last `refresh`.

    A row has a number: that of its row in the base, or, from ``len(base)`` on, its place in the logs.

    Attributes:
        space: whose record it is.
        number: of the base; 0 before the first.
        base: None before the first compaction.
        base_sequence: of the base's last row.
        sequence: of the last row.
        opened: how often it was read from its beginning, which a refresh may have to do.

    Args:
        space: whose record it is.
        write: whether to append to it. The caller holds the center's lock whenever it does.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is not what was written.
    """

    def __init__(self, space: Space, *, write: bool = False) -> None:
        self.space, self._write = space, write
        self.opened = 0
        self._open()

    def _open(self) -> None:
        self.opened += 1
        for left in reversed(range(_TRIES)):
            try:
                self._read()
                return
            except (FileNotFoundError, Replaced):  # compacted meanwhile
                if not left:
                    raise

    def _read(self) -> None:
        space = self.space = Space.open(self.space.directory)
        self._current = space.record / CURRENT
        self._stamp = stamp(self._current)
        self.number, self._log_numbers, self.base_sequence = current = Current.read(space.record)
        self.sequence = current.sequence
        self.base = Base(base_of(space.record, self.number)) if self.number else None
        self._in_base = 0 if self.base is None else len(self.base)
        self._logs = [Log(log_of(space.record, n), space.dtype, write=self._write) for n in self._log_numbers]
        self._ids: list[pl.Series] = []
        self._columns = empty_columns(space.columns)
        self._vectors = Growing(space.dtype, space.dim)
        self._content = Growing(np.uint8, HASH_BYTES)
        self._sequence, self._received_at = Growing(np.int64), Growing(np.int64)
        self._deleted = Growing(np.bool_)
        self._picture = Growing(np.int64, 3)
        self._latest: dict[Any, int] = {}
        self._read_logs()

    @property
    def changed(self) -> bool:
        """Whether there is something new to read."""
        return stamp(self._current) != self._stamp or self._logs[-1].grew

    def refresh(self) -> bool:
        """Read what is new.

        Returns:
            Whether there was anything.

        Raises:
            Damaged: what is new is not what was written.
        """
        if stamp(self._current) != self._stamp:
            self._open()
            return True
        if not self._logs[-1].grew:
            return False
        before = self.sequence
        try:
            self._read_logs()
        except Replaced:
            self._open()
        return self.sequence != before

    def _read_logs(self) -> None:
        for number, log in enumerate(self._logs):
            for stored in log.read():
                if stored.sequence[0] != self.sequence + 1:
                    raise Unreadable(
                        f"{log.path}: row {stored.sequence[0]} follows row {self.sequence}: it is not of this record"
                    )
                self._add(stored, number)

    def _add(self, stored: StoredRows, log: int) -> None:
        rows = stored.rows
        if self.space.ids is None:  # the first product said what ids are
            self.space = Space.open(self.space.directory)
        pictures = np.column_stack([np.full(len(rows), log), stored.picture_at, stored.picture_size])
        if (bare := np.flatnonzero((stored.picture_size == 0) & ~rows.deleted)).size:
            before = self.find(rows.ids.gather(bare))
            kept = before >= 0
            kept[kept] = (self.content(before[kept]) == rows.content[bare[kept]]).all(axis=1)
            pictures[bare[kept]] = self._pictures_of(before[kept])
        first = self._in_base + len(self._deleted)
        self._ids.append(rows.ids.alias("id"))
        if self._columns.width:
            columns = rows.columns
            if columns.columns != self._columns.columns:
                columns = columns.select(self._columns.columns)
            self._columns = self._columns.vstack(columns)
            if self._columns.n_chunks() > 64:
                self._columns = self._columns.rechunk()
        self._vectors.extend(rows.vectors)
        self._content.extend(rows.content)
        self._sequence.extend(stored.sequence)
        self._received_at.extend(rows.received_at)
        self._deleted.extend(rows.deleted)
        self._picture.extend(pictures)
        self._latest.update(zip(rows.ids.to_list(), range(first, first + len(rows)), strict=True))
        self.sequence = int(stored.sequence[-1])

    @property
    def log_rows(self) -> int:
        """Rows and tombstones in the logs."""
        return len(self._deleted)

    @property
    def tombstones(self) -> int:
        """Tombstones in the logs."""
        return int(np.count_nonzero(self._deleted.values))

    @property
    def differs(self) -> bool:
        """Whether a compaction would change the base: not where the logs hold tombstones of unknown ids alone."""
        if self.base is None or not self._deleted.values.all():
            return self.log_rows > 0
        ids = pl.Series("id", list(self._latest), dtype=id_dtype(self.space.ids))
        return bool((self.base.rows(ids) >= 0).any())

    def find(self, ids: pl.Series) -> NDArray[np.int64]:
        """Number of each id's row, int64 [m]; -1 for a product that is not there, or was deleted."""
        found = np.full(len(ids), -1) if self.base is None else np.array(self.base.rows(ids))
        if self._latest:
            later = np.fromiter((self._latest.get(id, -1) for id in ids.to_list()), np.int64, len(ids))
            newer = later >= 0
            gone = np.zeros(len(ids), np.bool_)
            gone[newer] = self._deleted.values[later[newer] - self._in_base]
            found[newer] = later[newer]
            found[gone] = -1
        return found

    def live(self) -> tuple[pl.Series, NDArray[np.int64]]:
        """All products: their ids, ascending, and the numbers of their rows."""
        latest = np.fromiter(self._latest.values(), np.int64, len(self._latest))
        ids = pl.Series("id", list(self._latest), dtype=id_dtype(self.space.ids))
        if self.base is None:
            ordered = pl.DataFrame([ids, pl.Series("row", latest)]).sort("id")
            named, rows = ordered["id"], ordered["row"].to_numpy()
        else:
            named, numbers = merged(self.base, ids)
            rows = numbers.copy()
            rows[numbers >= self._in_base] = latest[numbers[numbers >= self._in_base] - self._in_base]
        there = np.ones(len(rows), np.bool_)
        logged = rows >= self._in_base
        there[logged] = ~self._deleted.values[rows[logged] - self._in_base]
        return named.filter(pl.Series(there)), rows[there]

    def changes(self, sequence: int) -> Changes | None:
        """Rows of the logs after a sequence; None where some of that is in the base already."""
        if sequence < self.base_sequence:
            return None
        first = int(np.searchsorted(self._sequence.values, sequence, side="right"))
        # From the newest on back, as there may be thousands of pieces.
        pieces: list[pl.Series] = []
        left = len(self._sequence) - first
        for piece in reversed(self._ids):
            if left <= 0:
                break
            pieces.append(piece.tail(left))
            left -= len(piece)
        ids = pl.concat(pieces[::-1]) if pieces else pl.Series("id", [], dtype=id_dtype(self.space.ids))
        rows = np.arange(len(ids))
        if len(pieces) > 1:  # those of one are distinct
            last = pl.DataFrame({"id": ids, "row": rows}).unique("id", keep="last", maintain_order=True)
            ids, rows = last["id"], last["row"].to_numpy()
        return self.changes_of(ids, self._in_base + first + rows)

    def changes_of(self, ids: pl.Series, rows: NDArray[np.int64]) -> Changes:
        """Rows by number, with what a reader keeps of them.

        Args:
            ids: of the rows.
            rows: their numbers.
        """
        deleted = np.zeros(len(rows), np.bool_)
        logged = rows >= self._in_base
        deleted[logged] = self._deleted.values[rows[logged] - self._in_base]
        return Changes(
            ids,
            deleted,
            self.vectors(rows),
            self.received_at(rows),
            self.columns(rows),
            Pictures(self.base, self._logs, self._pictures_of(rows)),
        )

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Vectors of rows, [m, D], as they are at rest."""
        return self._gather(rows, None if self.base is None else self.base.store.vectors, self._vectors.values)

    def content(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Content hashes of rows, uint8 [m, 16]."""
        return self._gather(rows, None if self.base is None else self.base.content, self._content.values)

    def sequences(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequence of rows, int64 [m]."""
        return self._gather(rows, None if self.base is None else self.base.sequence, self._sequence.values)

    def received_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """When rows were received, int64 [m], microseconds since 1970 UTC."""
        return self._gather(rows, None if self.base is None else self.base.received_at, self._received_at.values)

    def columns(self, rows: NDArray[np.int64]) -> pl.DataFrame:
        """Kept columns of rows, m rows."""
        if not self._columns.width:
            return self._columns
        logged = rows >= self._in_base
        if logged.all():
            places = rows - self._in_base
            if len(rows) and (np.diff(places) == 1).all():  # what was appended last: no copy
                return self._columns.slice(int(places[0]), len(rows))
            return self._columns[places]
        assert self.base is not None
        if not logged.any():
            return self.base.columns[rows]
        both = pl.concat([self.base.columns[rows[~logged]], self._columns[rows[logged] - self._in_base]])
        place = np.empty(len(rows), np.int64)
        place[np.concatenate([np.flatnonzero(~logged), np.flatnonzero(logged)])] = np.arange(len(rows))
        return both[place]

    def picture(self, row: int) -> bytes | None:
        """The small JPEG of a row; None if it has none."""
        return Pictures(self.base, self._logs, self._pictures_of(np.array([row]))).read(0)

    def _pictures_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the pictures of rows are, int64 [m, 3]: log, place, bytes; of the base, its row is the place."""
        found = in_base(rows)
        logged = rows >= self._in_base
        found[logged] = self._picture.values[rows[logged] - self._in_base]
        return found

    def _gather(self, rows: NDArray[np.int64], base: NDArray[Any] | None, logged: NDArray[Any]) -> NDArray[Any]:
        later = rows >= self._in_base
        if later.all():
            return logged[rows - self._in_base]
        assert base is not None
        found = np.empty((len(rows), *logged.shape[1:]), logged.dtype)
        found[~later] = base[rows[~later]]
        found[later] = logged[rows[later] - self._in_base]
        return found

    @property
    def no_columns(self) -> pl.DataFrame:
        """The kept columns without rows."""
        return self._columns.clear()

    def note_given(self, columns: Sequence[str]) -> None:
        """Note that products have some columns. The caller holds the lock."""
        space = Space.open(self.space.directory)
        self.space = replace(space, given=tuple(sorted({*space.given, *columns})))
        self.space.save()

    def append(self, rows: Rows) -> int:
        """Append rows; they are on the disk when this returns. The caller holds the lock, and has called `refresh`.

        Args:
            rows: any number, of distinct ids, with the kept columns.

        Returns:
            The sequence of the last row.

        Raises:
            OSError: they can't be written; none of them is there then.
            ValueError: the space's ids are of another type.
        """
        if len(rows):
            kind: IdType = "text" if rows.ids.dtype == pl.String else "int64"
            if self.space.ids is None:
                self.space = Space.open(self.space.directory)
            if self.space.ids is None:
                self.space = self.space.with_ids(kind)
                self.space.save()
            if kind != self.space.ids:
                raise ValueError(
                    f"ids are {kind}, such as {rows.ids[0]!r}; those of {self.space.name} are {self.space.ids}"
                )
            self._add(self._logs[-1].append(rows, self.sequence + 1), len(self._logs) - 1)
        return self.sequence

    def rotate(self) -> None:
        """Begin a new log. The caller holds the lock, and has called `refresh`.

        What is before it can then be compacted while others append.
        """
        number = max(self.number, *self._log_numbers) + 1
        record = self.space.record
        self._logs[-1].cut()
        log_of(record, number).unlink(missing_ok=True)  # of a writer that was killed
        log_of(record, number).touch()
        sync(record)
        Current(self.number, [*self._log_numbers, number], self.base_sequence).write(record)

    def compact(self) -> Current:
        """Write the rows that are known as a new base, beside the present one.

        Call `rotate` first, on a record that is kept as it is since, and `adopt` afterwards.

        Returns:
            What ``current.json`` is to hold, as far as it is known.
        """
        number = max(self.number, *self._log_numbers) + 1
        ids, rows = self.live()
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        places = self._pictures_of(rows)
        has_pictures = bool((places[:, 2] > 0).any()) or (
            self.base is not None and (self.base.directory / PICTURES).exists()
        )
        write_base(
            base_of(self.space.record, number),
            ids,
            (self.vectors(block) for block in blocks),
            self.space.dim,
            self.space.dtype,
            self.content(rows),
            self.sequences(rows),
            self.received_at(rows),
            self.columns(rows),
            self._picture_blocks(rows) if has_pictures else None,
        )
        return Current(number, [number], self.sequence)

    def _picture_blocks(self, rows: NDArray[np.int64]) -> Iterator[list[bytes | None]]:
        for start in range(0, len(rows), _PICTURES_AT_ONCE):
            yield [self.picture(row) for row in rows[start : start + _PICTURES_AT_ONCE].tolist()]

    def adopt(self, made: Current) -> None:
        """Make a new base the record's, and remove what it replaces. The caller holds the lock."""
        record = self.space.record
        made.write(record)
        kept = {log_of(record, number).name for number in made.logs}
        for file in record.glob("log-*"):
            if file.name not in kept:
                file.unlink()
        self._remove_bases(made.base)
        self._open()

    def _remove_bases(self, kept: int) -> None:
        """Delete all bases but one; a name that begins with a dot is of one that is being deleted."""
        for folder in self.space.record.glob(".base-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.space.record.glob("base-*"):
            if folder.name != base_of(self.space.record, kept).name:
                shutil.rmtree(folder.rename(pruned(folder)), ignore_errors=True)
