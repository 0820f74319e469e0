"""The append-only log of a record: rows that are on the disk when `Log.append` returns.

A log is a sequence of frames. A frame is a header (magic, CRC-32 of all that follows, sequence of its first row, bytes
of its rows, bytes of its pictures), the rows as `moonlib.center.rows` has them, and the pictures. Whoever is killed
while it appends leaves a frame that is cut off at the end: readers pass over it, and the next writer removes it. A
broken frame with a whole one after it was not cut off but damaged, which is an error.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moonlib.artifacts.checksums import Damaged
from moonlib.center.rows import Dtype, Rows, StoredRows
from moonlib.system.disk import writing

_MAGIC = b"\xffMLR"
_HEADER = struct.Struct("<4sIqqq")
"""Magic, CRC-32, sequence, bytes of rows, bytes of pictures."""
_REMEMBERED, _REMEMBERED_ROWS = 16, 64
"""Frames, and rows of each, that a process remembers."""


class Log:
    """A log file, read once from its beginning and then as it grows.

    Args:
        path: the file; made where it is missing if it is opened to write.
        dtype: of the vectors.
        write: whether rows are to be appended. The caller holds the center's lock.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path, dtype: Dtype, *, write: bool = False) -> None:
        self.path, self.dtype = path, dtype
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if write else os.O_RDONLY
        self._file = os.open(path, flags, 0o644)
        about = os.fstat(self._file)
        self._identity = about.st_dev, about.st_ino
        self._opened = next(_numbers)
        self.end = 0
        """Where the last whole frame ends."""
        self._last = (0, b"")

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the end of the process `os` is gone
        if hasattr(self, "_file"):
            close(self._file)

    @property
    def grew(self) -> bool:
        """Whether there is more than was read."""
        return os.fstat(self._file).st_size != self.end

    def read(self) -> Iterator[StoredRows]:
        """Read the frames that are new since the last call.

        Raises:
            Damaged: a frame is broken, and not because it was cut off; or frames that were read are gone.
        """
        start, last = self._last
        if os.pread(self._file, len(last), start) != last:
            raise Replaced(f"{self.path}: its last rows were withdrawn, because they never reached the disk")
        size = os.fstat(self._file).st_size
        while (known := _appended.get((*self._identity, self.end))) is not None:
            header = os.pread(self._file, _HEADER.size, self.end)
            if known.number < self._opened or known.header != header or self.end + known.size > size:
                break
            self._last = (self.end, header)
            self.end += known.size
            yield known.rows
        data = _read(self._file, size - self.end, self.end) if size > self.end else b""
        at = 0
        while at < len(data):
            stop = _frame_end(data, at)
            if stop is None:
                _refuse_damage(data, at, self.path, self.end)
                return
            _, _, sequence, rows, _ = _HEADER.unpack_from(data, at)
            body = at + _HEADER.size
            pictures_at = self.end + _HEADER.size + rows
            self._last = (self.end, data[at:body])
            self.end += stop - at
            at = stop
            yield StoredRows.from_bytes(memoryview(data)[body : body + rows], sequence, pictures_at, self.dtype)

    def picture(self, at: int, size: int) -> bytes:
        """Read a picture."""
        return _read(self._file, size, at)

    def append(self, rows: Rows, sequence: int) -> StoredRows:
        """Append rows; they are on the disk when this returns. All rows that are there must have been read.

        Args:
            rows: one or more.
            sequence: of the first of them.

        Returns:
            What `read` returns of them elsewhere; here it passes over them.

        Raises:
            OSError: they can't be written, such as for want of room; none of them is there then.
        """
        payload, pictures = rows.to_bytes()
        blob = b"".join(picture for picture in pictures if picture is not None)
        rest = struct.pack("<qqq", sequence, len(payload), len(blob))
        checksum = zlib.crc32(blob, zlib.crc32(payload, zlib.crc32(rest)))
        frame = _MAGIC + struct.pack("<I", checksum) + rest + payload + blob
        with writing(self.path):
            self.cut()
            try:
                left = memoryview(frame)
                while left:  # of a disk that is nearly full, a first write takes a part
                    left = left[os.write(self._file, left) :]
                os.fdatasync(self._file)
            except BaseException:
                self.cut()
                raise
        pictures_at = self.end + _HEADER.size + len(payload)
        sizes = np.array([0 if picture is None else len(picture) for picture in pictures], np.int64)
        stored = StoredRows.of(rows, sequence, pictures_at, sizes)
        _remember((*self._identity, self.end), _Appended(next(_numbers), frame[: _HEADER.size], len(frame), stored))
        self._last = (self.end, frame[: _HEADER.size])
        self.end += len(frame)
        return stored

    def cut(self) -> None:
        """Remove what a writer that was killed, or had no room, left after the last whole frame."""
        if os.fstat(self._file).st_size > self.end:
            os.ftruncate(self._file, self.end)


class _Appended(NamedTuple):
    """A frame that this process appended."""

    number: int
    header: bytes
    size: int
    rows: StoredRows


_appended: dict[tuple[int, int, int], _Appended] = {}
"""The last frames that this process appended, by device and number of the file and where in it they begin.

Who has the file open in the same process meanwhile takes the rows from here. The header in the file, whose CRC-32 is of
the rows too, says that they are those.
"""
_numbers = count()
"""Of logs that are opened and frames that are appended, in the order of time."""


def _remember(place: tuple[int, int, int], frame: _Appended) -> None:
    if len(frame.rows.rows) <= _REMEMBERED_ROWS:
        _appended[place] = frame
    for oldest in list(_appended)[:-_REMEMBERED]:
        _appended.pop(oldest, None)


class Replaced(ValueError):
    """Rows that were read from a log are not there any more: whoever read them reads the record again."""


def _read(file: int, size: int, start: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(file, min(size, 1 << 30), start)):
        parts.append(part)
        size, start = size - len(part), start + len(part)
    return b"".join(parts)


def _frame_end(data: bytes, at: int) -> int | None:
    """Where a frame ends; None if it is not whole."""
    body = at + _HEADER.size
    if body > len(data):
        return None
    magic, checksum, _, rows, pictures = _HEADER.unpack_from(data, at)
    if magic != _MAGIC or rows < 0 or pictures < 0 or rows + pictures > len(data) - body:
        return None
    stop: int = body + rows + pictures
    return stop if zlib.crc32(memoryview(data)[at + 8 : stop]) == checksum else None


def _refuse_damage(data: bytes, at: int, path: Path, end: int) -> None:
    """Raise if a whole frame follows a broken one: the broken one was whole once."""
    after = data.find(_MAGIC, at + 1)
    while after >= 0:
        if _frame_end(data, after) is not None:
            raise Damaged(
                f"{path} is damaged: the rows at byte {end} are not as they were written, and {len(data) - after:,} "
                "bytes follow; restore the file, or upsert the products into a new center"
            )
        after = data.find(_MAGIC, after + 1)
