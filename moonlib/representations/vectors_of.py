"""Vectors of products by the ids that a training has for them."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from moonlib.representations.shared import rows_of_named
from moonlib.representations.store import Representations


class VectorsOf:
    """Vectors of products, mapped from disk and looked up by the ids that a stage's data has for them.

    Args:
        store: the vectors.
        item_id: int64 [n], ascending, the ids of the products.
        names: the shop's ids of these, int64 or text [n]. Products are the same where the shop's ids are: numbers that
            stand for text ids may differ between datasets.

    Attributes:
        known: how many of the products have a vector.

    Raises:
        ValueError: ids of one are text and of the other int64.

    Example:
        >>> store = Representations(np.array([3, 7]), np.eye(2, dtype=np.float32))
        >>> VectorsOf(store, np.array([5, 7]), pl.Series([5, 7]))(torch.tensor([7, 5]))
        tensor([[0., 1.],
                [0., 0.]])
    """

    def __init__(self, store: Representations, item_id: NDArray[np.int64], names: pl.Series) -> None:
        self.store, self.item_id = store, item_id
        self.rows = rows_of_named(store, names)
        self.known = int((self.rows >= 0).sum())

    def __call__(self, item_id: Tensor) -> Tensor:
        """The vectors of products, float32 [n, D] on the ids' device; zeros where there is none."""
        wanted: NDArray[np.int64] = item_id.cpu().numpy()
        if not len(self.item_id):
            return torch.zeros(len(wanted), self.store.dim, device=item_id.device)
        places = np.searchsorted(self.item_id, wanted).clip(max=len(self.item_id) - 1)
        rows = np.where(self.item_id[places] == wanted, self.rows[places], -1)
        return torch.from_numpy(self.store.at(rows)).to(item_id.device)
