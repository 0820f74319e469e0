"""A dataset that is already there."""

from __future__ import annotations

from pathlib import Path

from moonlib.data.reader import verify
from moonlib.sources.source import Source
from moonlib.system.remote import is_url, local_copy


class Shards(Source):
    """A dataset that `moonlib data build` or `moonlib data make` wrote.

    Args:
        path: its directory, or the URL of one (``s3://bucket/dataset``), which is copied into the cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path if is_url(path) else Path(path)

    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory after checking that its shards are whole; nothing is built in ``cache``."""
        directory = local_copy(self.path)
        verify(directory)
        return directory
