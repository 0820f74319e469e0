"""A dataset that is already there."""

from __future__ import annotations

from pathlib import Path

from moonlib.data.reader import verify
from moonlib.sources.source import Source


class Shards(Source):
    """A dataset that `moonlib data build` or `moonlib data make` wrote.

    Args:
        path: its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory after checking that its shards are whole; ``cache`` is not used."""
        verify(self.path)
        return self.path
