"""How alike products are: what vectors say of a batch, beside what a teacher says."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moonlib.losses.loss import LossData
from moonlib.representations.vectors_of import VectorsOf

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Likeness:
    """Cosines of Q rows with N candidates, twice.

    Attributes:
        student: float [Q, N], of the vectors that are trained.
        teacher: float [Q, N], constant; of any value where it does not count.
        counted: bool [Q, N], whether the teacher knows both, and they are not one and the same product.
    """

    student: Tensor
    teacher: Tensor
    counted: Tensor


def likeness(rows: Tensor, candidates: Tensor, item_id: Tensor, candidate_id: Tensor, teacher: VectorsOf) -> Likeness:
    """Compare rows with candidates, as they are and as a teacher has them.

    A row stands for the product ``item_id``: it is that product's own vector, or that of a query which led to it. So a
    teacher that knows products alone says of queries, too, which candidates are like what they look for.

    Args:
        rows: float [Q, D], of length 1.
        candidates: float [N, D], of length 1.
        item_id: int64 [Q].
        candidate_id: int64 [N].
        teacher: the teacher's vectors of products.
    """
    mine, theirs = (F.normalize(teacher(ids).double(), dim=1) for ids in (item_id, candidate_id))
    known = mine.any(dim=1)[:, None] & theirs.any(dim=1)
    with torch.autocast(rows.device.type, enabled=False):
        # In float64, and rounded from there: a product that stands twice is as like others both times, to the bit.
        taught, student = (mine @ theirs.T).to(rows.dtype), rows @ candidates.T
    return Likeness(student, taught, known & (item_id[:, None] != candidate_id))


def teacher_of(data: LossData, name: str) -> VectorsOf:
    """The teacher's vectors by the ids of the training data.

    Args:
        data: what a loss is set up with.
        name: the teacher, as the recipe names it.

    Raises:
        ValueError: there are none, or none of the products has one.
    """
    if data.teacher is None:
        raise ValueError(f"teacher: {name} was not opened: run the stage by a recipe")
    item_id = data.catalogue.item_id
    try:
        found = VectorsOf(data.teacher, item_id, data.ids.decode("item_id", item_id))
    except ValueError as error:
        raise ValueError(f"teacher: {name}: {error}") from error
    if not found.known:
        raise ValueError(f"teacher: none of the {len(item_id):,} products that are trained on has a vector in {name}")
    log.info(f"teacher: {found.known:,} of {len(item_id):,} products have a vector in {name}")
    return found
