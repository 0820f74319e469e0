"""Relational distillation: the order in which products are alike is to be a teacher's."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from moonlib.losses.distill import Between
from moonlib.losses.likeness import likeness, teacher_of
from moonlib.losses.loss import Loss, LossData

Of = Literal["ranks", "values"]


class Relational(Loss):
    """Asks that likeness goes with a teacher's: a row costs 1 - the correlation of its cosines with the teacher's.

    The correlation is Pearson's, over the candidates that the teacher knows, the row's own product left out, with the
    teacher's cosines themselves or with their ranks among these candidates. So neither scale nor offset of likeness is
    prescribed, and with ranks no more than its order: a row costs from 0 (the order is kept, evenly) to 2 (it is turned
    around). Compared with `moonlib.losses.distill.Distill`, whose softmax looks at the nearest candidates, all count
    alike.

    Rows are the queries' own items, or the queries, each compared as the teacher has the item that it led to. A row
    whose product the teacher does not know, or that has fewer than three candidates, or whose cosines are all equal on
    either side, costs 0, with gradient 0.

    Args:
        teacher: vectors of products: a stage before this one, such as ``collaborative``, a run, or a folder or file
            that `moonlib embed` wrote.
        of: what of the teacher: ``ranks`` or ``values``. Equal values share the mean of their ranks.
        between: what is compared with the candidates: ``items`` or ``queries``.

    Raises:
        ValueError: an argument is out of range; at setup, the teacher knows none of the products.

    Source: Park et al., "Relational knowledge distillation" (2019), for matching relations in place of vectors, and
    Huang et al., "Knowledge distillation from a stronger teacher" (2022), equation 6, for 1 - Pearson's correlation
    as the loss; over likeness within a batch, and with ranks on the teacher's side, it is our choice.

    Example:
        >>> Relational("collaborative").reads_representations
        True
    """

    def __init__(self, teacher: str, of: Of = "ranks", between: Between = "items") -> None:
        super().__init__()
        if of not in get_args(Of):
            raise ValueError(f"of must be 'ranks' or 'values', got '{of}'")
        if between not in get_args(Between):
            raise ValueError(f"between must be 'items' or 'queries', got '{between}'")
        self.teacher = teacher
        self.of: Of = of
        self.between: Between = between

    def setup(self, data: LossData) -> None:
        """Look up which products the teacher knows; see `Loss.setup`."""
        assert self.teacher is not None
        self.vectors = teacher_of(data, self.teacher)

    def forward(
        self, queries: Tensor, items: Tensor, candidates: Tensor, item_id: Tensor, candidate_id: Tensor
    ) -> Tensor:
        """Compute one loss per query, float [Q], in float32 or wider."""
        rows = items if self.between == "items" else queries
        rows, candidates = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (rows, candidates))
        found = likeness(rows, candidates, item_id, candidate_id, self.vectors)
        taught = ranks(found.teacher, found.counted) if self.of == "ranks" else found.teacher
        r, defined = correlation(found.student, taught, found.counted)
        return (1 - r).masked_fill(~defined, 0)


def ranks(values: Tensor, counted: Tensor) -> Tensor:
    """Rank of each value among those of its row that count, from 0 for the lowest to 1 for the highest.

    Args:
        values: float [Q, N].
        counted: bool [Q, N].

    Returns:
        float [Q, N]; equal values have the mean of their ranks; of any value where it does not count.

    Example:
        >>> values = torch.tensor([[0.3, 0.1, 0.3, 9.0, 0.7]])
        >>> ranks(values, values < 1)
        tensor([[0.5000, 0.0000, 0.5000, 1.1667, 1.0000]])
    """
    highest = torch.finfo(values.dtype).max
    ascending = values.masked_fill(~counted, highest).sort(dim=1).values
    below = torch.searchsorted(ascending, values)
    up_to = torch.searchsorted(ascending, values, right=True)
    last = (counted.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return (below + up_to - 1).to(values.dtype) / (2 * last)


def correlation(one: Tensor, other: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson's correlation of the two rows by rows.

    Args:
        one: float [Q, N].
        other: float [Q, N].
        counted: bool [Q, N], which columns of each row count.

    Returns:
        The correlations, float [Q], and whether each is defined, bool [Q]: three columns count, and neither row is
        constant there. Gradients are finite also where it is not.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 9.0]]), torch.ones(1, 3).bool())
        (tensor([0.9707]), tensor([True]))
    """
    count = counted.sum(dim=1, keepdim=True).clamp(min=1)
    centred = []
    for values in (one, other):
        kept = values.masked_fill(~counted, 0)
        centred.append((kept - kept.sum(dim=1, keepdim=True) / count).masked_fill(~counted, 0))
    squares = [each.square().sum(dim=1) for each in centred]
    smallest = count.squeeze(1) * torch.finfo(one.dtype).eps ** 2
    defined = (counted.sum(dim=1) >= 3) & (squares[0] > smallest) & (squares[1] > smallest)
    norms = [torch.where(defined, each, 1).sqrt() for each in squares]
    return (centred[0] * centred[1]).sum(dim=1) / (norms[0] * norms[1]), defined
