"""Where a data set comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path


class Source(ABC):
    """Turns a published, simulated or private data set into moonlib's sharded dataset.

    Its constructor takes the recipe's arguments and does no work.
    """

    @abstractmethod
    def prepare(self, cache: Path) -> Path:
        """Return the dataset's directory, building it first where it is missing.

        Args:
            cache: where datasets may be built; a source that points at existing shards ignores it. A build must be
                a function of the constructor's arguments and the source's version only, written under a temporary
                name and renamed, so that a killed build leaves nothing that looks finished.

        Returns:
            A directory that `moonlib.data.dataset.Dataset` opens.
        """
