"""How much better than chance the top of a ranking by score is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moonlib.metrics import RowMetric, check_scores


def lift(scores: Tensor, labels: Tensor, share: float = 0.1) -> Tensor:
    """Click rate of the best scored rows over the click rate of all rows.

    Of rows that tie at the border, as large a part counts as fits, so that their order does not matter.

    Args:
        scores: [n], any monotone function of the click probability.
        labels: [n], 0 or 1.
        share: of the rows that are the top, in (0, 1]; at least one row.

    Returns:
        float64 scalar, 1 for chance; NaN without a click.

    Raises:
        ValueError: if shapes differ, a score is NaN or a label is neither 0 nor 1.

    Example:
        >>> import torch
        >>> lift(torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor([0, 1, 0, 1]), share=0.25).item()
        2.0
    """
    scores, labels = check_scores(scores, labels)
    top = max(1, round(share * len(scores)))
    border = scores.sort(descending=True).values[:top][-1:]
    above, tied = scores > border, scores == border
    clicks = labels[above].sum() + (top - above.sum()) * labels[tied].mean()
    return clicks / top / labels.mean()


class Template(RowMetric):
    """`lift` over all rows seen; float64.

    What stages can compute follows from the arguments of `update`, see `moonlib.metrics.metric`.

    Args:
        share: of the rows that are the top, in (0, 1].

    Raises:
        ValueError: if ``share`` is outside (0, 1].
    """

    name = "template"  # in keys of results: ctr/template
    title = "lift of the best scored"  # in tables
    higher_is_better = True

    def __init__(self, share: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        self.share = share

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add rows: ``scores`` [n] and ``labels`` [n]."""
        scores, labels = check_scores(scores, labels)
        self.append(scores=scores, labels=labels)

    def compute(self) -> Tensor:
        """The lift; NaN without a click."""
        return lift(self.column("scores"), self.column("labels"), self.share)
