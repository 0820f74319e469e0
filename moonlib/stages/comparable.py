"""The vectors of an earlier run's products, by the ids that a stage's data has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moonlib.data.content import Modalities, Task
from moonlib.data.ids import Ids, ShopIds
from moonlib.representations.shared import rows_of_named
from moonlib.representations.store import Representations


@dataclass(frozen=True)
class OldRun:
    """Representations that another run has made.

    Attributes:
        place: the run, as the recipe names it.
        directory: of the stage that made them.
        product: what they read of a product.
    """

    place: str
    directory: Path
    product: Modalities


class OldVectors:
    """Vectors of an earlier run, mapped from disk and looked up by item id.

    Args:
        run: the earlier run.
        item_id: int64 [n], ascending, the ids of the products of this run's data.
        ids: the shop's ids of this run's data. Products are the same where the shop's ids are: numbers that stand for
            text ids may differ between datasets.
        dim: width of the encoder that is trained.

    Raises:
        ValueError: the vectors are of another width, none of them belongs to a product of this data, or its ids are
            text where the other's are int64.
    """

    def __init__(self, run: OldRun, item_id: Ids, ids: ShopIds, dim: int) -> None:
        self.store = Representations.open(run.directory, "products")
        if self.store.dim != dim:
            raise ValueError(
                f"compatible_with: the vectors of {run.place} have {self.store.dim} dimensions, and this encoder makes "
                f"{dim}: they can't be compared; give the encoder dim {self.store.dim}, or leave compatible_with out"
            )
        try:
            self.rows = rows_of_named(self.store, ids.decode("item_id", item_id))
        except ValueError as error:
            raise ValueError(f"compatible_with: {run.place}: {error}") from error
        self.item_id = item_id
        self.known = int((self.rows >= 0).sum())
        if not self.known:
            raise ValueError(
                f"compatible_with: none of the {len(item_id):,} products has a vector in {run.place}: it is a run of "
                "another shop"
            )

    def __call__(self, item_id: Tensor) -> Tensor:
        """The vectors of products, float32 [n, D] on the ids' device; zeros where the earlier run had none."""
        wanted: NDArray[np.int64] = item_id.cpu().numpy()
        if not len(self.item_id):
            return torch.zeros(len(wanted), self.store.dim, device=item_id.device)
        places = np.searchsorted(self.item_id, wanted).clip(max=len(self.item_id) - 1)
        rows = np.where(self.item_id[places] == wanted, self.rows[places], -1)
        return torch.from_numpy(self.store.at(rows)).to(item_id.device)


def read_alike(run: OldRun, tasks: Sequence[str]) -> Tensor:
    """Whether each task reads its items as the earlier run's vectors of products did, bool [tasks]."""
    return torch.tensor([Task.parse(task).item == run.product for task in tasks])
