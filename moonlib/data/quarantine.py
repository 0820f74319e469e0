"""Names the samples that could not be read, and stops a run that meets too many of them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from moonlib.data.ids import ShopIds
from moonlib.data.tables import KEYS
from moonlib.system.disk import writing


class TooManyUnreadable(ValueError):
    """More samples are unreadable than a run tolerates."""


class Quarantine:
    """An append-only file of unreadable samples, one JSON object per line, shared by all loader processes.

    Args:
        path: the file; made with its first line. What a former run of the same directory wrote counts. None for no
            file: this process alone reads samples then.
        total: number of samples that could be read, the base of ``limit``.
        limit: share of ``total`` that may be unreadable.
        floor: number that is tolerated however small the dataset is.
        ids: the shop's, which the samples are named by.
    """

    def __init__(
        self, path: Path | None, total: int, limit: float = 0.01, floor: int = 10, ids: ShopIds | None = None
    ) -> None:
        self._file = path
        self._entries: dict[tuple[str, int | str], str] = {}
        self.ids = ids or ShopIds()
        self.allowed = max(int(limit * total), floor)

    @property
    def path(self) -> Path:
        """The file."""
        assert self._file is not None, "this quarantine is kept in memory"
        return self._file

    def entries(self) -> dict[tuple[str, int | str], str]:
        """Return the reason for each quarantined (table, id), the id as the shop writes it."""
        if self._file is None:
            return dict(self._entries)
        if not self.path.exists():
            return {}
        found: dict[tuple[str, int | str], str] = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found[entry["table"], entry["id"]] = entry["reason"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a full disk or a kill; whoever meets the sample again names it again
        return found

    def record(self, table: str, sample_id: int, reason: str) -> None:
        """Append a sample, unless it is there already.

        Raises:
            TooManyUnreadable: more distinct samples than allowed are quarantined.
        """
        entries, named = self.entries(), self.ids.value(KEYS[table], sample_id)
        if (table, named) not in entries:
            if self._file is None:
                self._entries[table, named] = reason
            else:
                _append(self.path, json.dumps({"table": table, "id": named, "reason": reason}))
            entries = self.entries()
        if len(entries) > self.allowed:
            listed = "" if self._file is None else f"; they are listed in {self.path}"
            raise TooManyUnreadable(
                f"{len(entries)} samples cannot be read, more than the {self.allowed} tolerated{listed}. "
                f"Last: {table} {named}: {reason}"
            )


def _append(path: Path, line: str) -> None:
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            data = ("\n" * bool(torn) + line + "\n").encode()
            # A single write in append mode: lines of several processes never mix.
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
