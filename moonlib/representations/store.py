"""The representation store: ids and vectors on disk, looked up by id through a memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array as ``.npy`` under a temporary name, then rename it into place."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    partial.replace(path)


class Representations:
    """The vectors of products or of queries.

    Attributes:
        ids: int64 [N], ascending.
        vectors: float [N, D], row i belongs to ``ids[i]``; memory-mapped when opened from disk. A row of zeros
            means that there is nothing to represent.
    """

    def __init__(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Take ids int64 [N] in any order and vectors float [N, D].

        Raises:
            ValueError: where the lengths differ or an id stands twice.
        """
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        if np.any(ids[1:] <= ids[:-1]):
            order = np.argsort(ids, kind="stable")
            ids, vectors = ids[order], vectors[order]
            twice = ids[1:][ids[1:] == ids[:-1]]
            if len(twice):
                raise ValueError(f"id {twice[0]} has two representations")
        self.ids = ids
        self.vectors = vectors

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.vectors.shape[1])

    @classmethod
    def open(cls, directory: Path, name: str) -> Representations:
        """Open ``{name}.ids.npy`` and ``{name}.npy`` without reading the vectors into memory."""
        ids_file, vectors_file = directory / f"{name}.ids.npy", directory / f"{name}.npy"
        for file in (ids_file, vectors_file):
            if not file.exists():
                raise FileNotFoundError(f"{file} is missing: run the represent stage of the iteration again")
        return cls(np.load(ids_file), np.load(vectors_file, mmap_mode="r"))

    def save(self, directory: Path, name: str) -> None:
        """Write ``{name}.ids.npy`` (int64 [N]) and ``{name}.npy`` (float32 [N, D]) into ``directory``."""
        write_array(directory / f"{name}.ids.npy", self.ids)
        write_array(directory / f"{name}.npy", self.vectors.astype(np.float32, copy=False))

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id.

        Args:
            ids: int64, any shape.

        Returns:
            int64 of the same shape; -1 where there is no representation.

        Example:
            >>> store = Representations(np.array([7, -3]), np.eye(2, dtype=np.float32))
            >>> store.rows(np.array([[-3, 7, 5]]))
            array([[ 0,  1, -1]])
        """
        if not len(self.ids):
            return np.full(ids.shape, -1, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)

    def shuffled(self, seed: int) -> Representations:
        """The same vectors, dealt out to the ids at random: what a representation is worth without its meaning."""
        order = np.random.default_rng(seed).permutation(len(self.ids))
        return Representations(self.ids, np.asarray(self.vectors)[order])
