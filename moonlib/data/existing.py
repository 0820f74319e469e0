"""A dataset that is already there."""

from __future__ import annotations

from pathlib import Path

from moonlib.data.dataset import Dataset
from moonlib.data.source import Source


class Shards(Source):
    """A dataset that `moonlib data build` or `moonlib data make` wrote.

    Args:
        path: its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory after checking that it opens; ``cache`` is not used."""
        return Dataset(self.path).directory
