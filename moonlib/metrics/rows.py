"""The common part of click metrics: checked inputs, and a metric that keeps its rows."""

from __future__ import annotations

from typing import Any, ClassVar

import moonlib.compat  # noqa: F401  (before torchmetrics)
import torch
from torch import Tensor
from torchmetrics import Metric


def check_scores(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check scores beside labels and make them float64.

    Args:
        scores: [n], any real type.
        labels: [n], bool or 0/1 of any type.

    Returns:
        Both as float64 [n].

    Raises:
        ValueError: if shapes differ, a score is NaN or a label is neither 0 nor 1.
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"expected scores and labels of one shape [n], got {list(scores.shape)} and {list(labels.shape)}"
        )
    missing = int(scores.isnan().sum())
    if missing:
        raise ValueError(f"{missing} of {len(scores)} scores are NaN")
    labels = labels.double()
    other = labels[(labels != 0) & (labels != 1)]
    if len(other):
        raise ValueError(f"labels must be 0 or 1, got {other[0].item():g}")
    return scores.double(), labels


def check_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As `check_scores`, for predictions that must be probabilities.

    Raises:
        ValueError: also if a prediction is outside [0, 1].
    """
    probabilities, labels = check_scores(probabilities, labels)
    outside = probabilities[(probabilities < 0) | (probabilities > 1)]
    if len(outside):
        raise ValueError(f"probabilities must be in [0, 1], got {outside[0].item():g}; pass the sigmoid of logits")
    return probabilities, labels


class RowMetric(Metric):
    """A metric that keeps all its rows, so that its value does not depend on their order, batches or processes.

    Attributes:
        columns: name and dtype of what is kept per row.
    """

    columns: ClassVar[dict[str, torch.dtype]] = {"scores": torch.float64, "labels": torch.float64}
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.columns:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def append(self, **rows: Tensor) -> None:
        """Keep rows: one tensor [n] per column."""
        for name, values in rows.items():
            getattr(self, name).append(values.detach().to(self.columns[name]))

    def column(self, name: str) -> Tensor:
        """All rows of a column, possibly none."""
        state = getattr(self, name)
        # After a sync or a merge torchmetrics may leave a tensor in the list's place.
        return state if isinstance(state, Tensor) else torch.cat([*state, self._no_rows(name)])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes, as torchmetrics does."""
        # A process that saw no row must still gather: of the column's dtype, where torchmetrics would send float32.
        for name in self.columns:
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(self._no_rows(name))
        super().sync(*args, **kwargs)

    def _no_rows(self, name: str) -> Tensor:
        return torch.empty(0, dtype=self.columns[name], device=self.device)
