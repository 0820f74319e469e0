"""Distillation: products are to be as alike as a teacher has them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from moonlib.losses.likeness import likeness, teacher_of
from moonlib.losses.loss import Loss, LossData

Between = Literal["items", "queries"]
Match = Literal["similarities", "vectors"]


class Distill(Loss):
    """Matches what a teacher's vectors say of the products of a batch.

    With ``match: similarities`` a row costs the Kullback-Leibler divergence of two softmaxes over the candidates c that
    the teacher knows, the row's own product left out:

        sum over c of p_c * log(p_c / q_c),    p = softmax(teacher's cosines / u),    q = softmax(cosines / t)

    It matches which candidates are near and how much nearer than the others, whatever the width of either space. With
    ``match: vectors`` a row costs 1 - cosine of its vector and the teacher's of its product; both need the same width.

    Rows are the queries' own items, so that products are compared with products, or the queries: then a query is
    compared as the teacher has the item that it led to. Where the teacher does not know a row's product, or fewer than
    two candidates, the row costs 0, with gradient 0: what it does not know is left to the other losses.

    Args:
        teacher: vectors of products: a stage before this one, such as ``collaborative``, a run, or a folder or file
            that `moonlib embed` wrote.
        match: ``similarities`` or ``vectors``.
        between: what is compared with the candidates: ``items`` or ``queries``.
        temperature: t, in units of the cosine.
        teacher_temperature: u; None for the same.

    Raises:
        ValueError: an argument is out of range; at setup, the teacher knows none of the products, or is of another
            width with ``match: vectors``.

    Source: Hinton et al., "Distilling the knowledge in a neural network" (2015), for the divergence of softmaxes at a
    temperature; over the candidates of a batch as in Fang et al., "SEED: self-supervised distillation for visual
    representation" (2021), section 3.2, who take those of a queue. Leaving out the row's own product is our choice: its
    cosine is 1 for any vectors.

    Example:
        >>> distill = Distill("collaborative", match="vectors")
        >>> distill.arguments
        ('queries', 'items', 'candidates', 'item_id', 'candidate_id')
    """

    def __init__(
        self,
        teacher: str,
        match: Match = "similarities",
        between: Between = "items",
        temperature: float = 0.1,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if match not in get_args(Match):
            raise ValueError(f"match must be 'similarities' or 'vectors', got '{match}'")
        if between not in get_args(Between):
            raise ValueError(f"between must be 'items' or 'queries', got '{between}'")
        for name, value in (("temperature", temperature), ("teacher_temperature", teacher_temperature)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.teacher = teacher
        self.match: Match = match
        self.between: Between = between
        self.temperature = temperature
        self.teacher_temperature = temperature if teacher_temperature is None else teacher_temperature

    def setup(self, data: LossData) -> None:
        """Look up which products the teacher knows; see `Loss.setup`."""
        assert self.teacher is not None
        self.vectors = teacher_of(data, self.teacher)
        if self.match == "vectors" and self.vectors.store.dim != data.dim:
            raise ValueError(
                f"teacher: {self.teacher} has vectors of {self.vectors.store.dim} dimensions, and what is trained "
                f"has {data.dim}: match similarities, or make them of one width"
            )

    def forward(
        self, queries: Tensor, items: Tensor, candidates: Tensor, item_id: Tensor, candidate_id: Tensor
    ) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        rows = items if self.between == "items" else queries
        rows, candidates = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (rows, candidates))
        if self.match == "vectors":
            taught = self.vectors(item_id).to(rows)
            known = taught.any(dim=1) & rows.any(dim=1)
            return (1 - (rows * F.normalize(taught, dim=1)).sum(dim=1)).masked_fill(~known, 0)
        found = likeness(rows, candidates, item_id, candidate_id, self.vectors)
        # The lowest finite value stands for minus infinity: its exp is 0, but its gradient is 0 and not NaN.
        lowest = torch.finfo(rows.dtype).min
        target = (found.teacher / self.teacher_temperature).masked_fill(~found.counted, lowest).log_softmax(dim=1)
        student = (found.student / self.temperature).masked_fill(~found.counted, lowest).log_softmax(dim=1)
        costs = (target.exp() * (target - student)).masked_fill(~found.counted, 0)
        return costs.sum(dim=1).masked_fill(found.counted.sum(dim=1) < 2, 0)
