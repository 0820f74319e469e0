"""The vectors of an earlier run's products, by the ids that a stage's data has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moonlib.data.content import Modalities, Task
from moonlib.data.ids import Ids, ShopIds
from moonlib.representations.store import Representations
from moonlib.representations.vectors_of import VectorsOf


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


class OldVectors(VectorsOf):
    """Vectors of an earlier run, mapped from disk and looked up by item id.

    Args:
        run: the earlier run.
        item_id: int64 [n], ascending, the ids of the products of this run's data.
        ids: the shop's ids of this run's data.
        dim: width of the encoder that is trained.

    Raises:
        ValueError: the vectors are of another width, none of them belongs to a product of this data, or its ids are
            text where the other's are int64.
    """

    def __init__(self, run: OldRun, item_id: Ids, ids: ShopIds, dim: int) -> None:
        store = Representations.open(run.directory, "products")
        if store.dim != dim:
            raise ValueError(
                f"compatible_with: the vectors of {run.place} have {store.dim} dimensions, and this encoder makes "
                f"{dim}: they can't be compared; give the encoder dim {store.dim}, or leave compatible_with out"
            )
        try:
            super().__init__(store, item_id, ids.decode("item_id", item_id))
        except ValueError as error:
            raise ValueError(f"compatible_with: {run.place}: {error}") from error
        if not self.known:
            raise ValueError(
                f"compatible_with: none of the {len(item_id):,} products has a vector in {run.place}: it is a run of "
                "another shop"
            )


def read_alike(run: OldRun, tasks: Sequence[str]) -> Tensor:
    """Whether each task reads its items as the earlier run's vectors of products did, bool [tasks]."""
    return torch.tensor([Task.parse(task).item == run.product for task in tasks])
